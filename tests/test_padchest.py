"""PadChest in its true format: what becomes of every quirk of its table and files, and masks from every source."""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib.util
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study
from segcft.config.sources import Splits
from segcft.data.splits import assign
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary
from segcft.importers.folder import import_folder
from segcft.importers.formats.padchest import PadChest as Importer
from segcft.importers.masks import BITS, FolderMasks, Plausibility, PSPNet, check_polarity, largest_parts
from segcft.importers.padchest import parse_age, parse_labels, read_rows
from segcft.io.reject import Excluded
from segcft.pipeline.run import Run
from segcft.pipeline.segmenter import RunSegmenter
from tests.conftest import Recalled
from tests.test_training import same

COLUMNS = [
    "",
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "ViewPosition_DICOM",
    "Projection",
    "MethodProjection",
    "Pediatric",
    "Modality_DICOM",
    "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM",
    "PixelRepresentation_DICOM",
    "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM",
    "BitsStored_DICOM",
    "WindowCenter_DICOM",
    "WindowWidth_DICOM",
    "Rows_DICOM",
    "Columns_DICOM",
    "XRayTubeCurrent_DICOM",
    "Exposure_DICOM",
    "ExposureInuAs_DICOM",
    "ExposureTime",
    "RelativeXRayExposure_DICOM",
    "ReportID",
    "Report",
    "MethodLabel",
    "Labels",
    "Localizations",
    "LabelsLocalizationsBySentence",
    "labelCUIS",
    "LocalizationsCUIS",
]

USUAL = {
    "ImageDir": "0",
    "StudyDate_DICOM": "20140915",
    "PatientBirth": "1930.0",
    "PatientSex_DICOM": "F",
    "ViewPosition_DICOM": "POSTEROANTERIOR",
    "Projection": "PA",
    "MethodProjection": "Manual review of DICOM fields",
    "Pediatric": "No",
    "Modality_DICOM": "CR",
    "Manufacturer_DICOM": "ImagingDynamicsCompanyLtd",
    "PhotometricInterpretation_DICOM": "MONOCHROME2",
    "PixelAspectRatio_DICOM": "None",
    "BitsStored_DICOM": "12",
    "Report": ' sin hallazg patolog "edad", pacient .\n',
    "MethodLabel": "Physician",
    "Labels": "['normal']",
    "Localizations": "[]",
    "LabelsLocalizationsBySentence": "[['normal'], ['normal']]",
    "labelCUIS": "['C0034069' 'C0742362']",
    "LocalizationsCUIS": "[]",
}


def chest(height: int = 110, width: int = 90, seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """A drawn chest, 12 bits in 16, and its mask: dark lungs left and right of a bright middle."""
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height, (x + 0.5) / width

    def ellipse(cy: float, cx: float, ry: float, rx: float) -> NDArray[np.bool_]:
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1

    left, right, heart = (
        ellipse(0.45, 0.74, 0.3, 0.17),
        ellipse(0.45, 0.26, 0.3, 0.18),
        ellipse(0.62, 0.55, 0.12, 0.12),
    )
    grey = 2600 + 900 * np.exp(-(((x - 0.5) / 0.15) ** 2)) + 100 * np.random.default_rng(seed).normal(size=x.shape)
    grey[(left | right) & ~heart] -= 1900
    mask = (left & ~heart) * 1 + (right & ~heart) * 2 + heart * 4
    return grey.astype(np.uint16), mask.astype(np.uint8)


class PadChest:
    """A few rows and files in the format of the data set; every row is a patient of their own unless said so."""

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.masks = root, root / "images", root / "masks"
        self.table = root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
        self.rows: list[dict[str, str]] = []
        self.images.mkdir()
        self.masks.mkdir()

    def add(self, file: bool = True, flat: bool = False, **changes: Any) -> str:
        """A row, its image and its mask; returns the id."""
        number = len(self.rows)
        image, mask = changes.pop("pixels", chest(seed=number))
        row = {"": str(number), "ImageID": f"2168401{number:04}_00-{number:03}.png", "PatientID": f"83986{number}"}
        row = {column: "None" for column in COLUMNS} | USUAL | row | changes
        self.rows.append(row)
        id = row["ImageID"].removesuffix(".png")
        if file:
            folder = self.images if flat else self.images / row["ImageDir"]
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / row["ImageID"])
            Image.fromarray(mask).save(self.masks / f"{id}.png")
        return id

    def write(self, compress: bool = False) -> Path:
        path = self.table.with_suffix(".csv.gz") if compress else self.table
        with gzip.open(path, "wt", newline="") if compress else path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        return path

    def convert(self, **options: Any) -> Summary:
        usual: dict[str, Any] = {"csv": self.write(), "images": self.images, "size": (32, 32)}
        usual |= {"segmenter": FolderMasks(self.masks, (32, 32))}
        return Importer(**usual | options).convert(self.root / "out")

    def table_of(self, name: str) -> dict[str, dict[str, str]]:
        with (self.root / "out" / name).open(newline="") as file:
            return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def padchest(tmp_path: Path) -> PadChest:
    return PadChest(tmp_path)


def test_rows_and_files_become_a_folder_with_masks_and_attributes(padchest: PadChest) -> None:
    first = padchest.add(Labels="['COPD signs', ' pleural effusion', '', 'stent']")
    second = padchest.add(PatientID="839860", PatientSex_DICOM="M", flat=True, PatientBirth="1960.0")
    summary = padchest.convert()
    assert (summary.items, sum(summary.samples.values()), sum(summary.patients.values())) == (2, 2, 1)
    assert not summary.left_out
    table = padchest.table_of("metadata.csv")
    assert {name: table[first][name] for name in ("patient", "split", "age", "sex", "labels", "label_method")} == {
        "patient": "839860",
        "split": assign("839860", Splits()),
        "age": "84.0",
        "sex": "F",
        "labels": "COPD signs; pleural effusion; stent",
        "label_method": "Physician",
    }
    assert (table[second]["age"], table[second]["sex"]) == ("54.0", "M")
    assert (table[first]["file_height"], table[first]["file_width"]) == ("110", "90")
    with Image.open(padchest.root / "out" / "images" / f"{first}.png") as file:
        image = np.asarray(file)
    with Image.open(padchest.root / "out" / "masks" / f"{first}.png") as file:
        mask = np.asarray(file)
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == mask.shape == (32, 32)
    # 12 bits in a file of 16 fill the grey scale, and 90 x 110 is padded, not stretched.
    assert image.min() < 15
    assert image.max() > 240
    columns = np.flatnonzero(mask.any(axis=0))
    whole = chest()[1]
    share = (np.flatnonzero(whole.any(axis=0))[[0, -1]] + [0, 1] + 10) / 110
    assert np.abs(columns[[0, -1]] + [0, 1] - share * 32).max() <= 1
    for name, bit in BITS.items():
        assert float(table[first][f"{name}_area"]) == np.count_nonzero(mask & bit)
        expected = np.count_nonzero(whole & bit) * (32 / 110) ** 2
        assert np.count_nonzero(mask & bit) == pytest.approx(expected, rel=0.1)


EXCLUSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "lateral": ({"Projection": "L"}, "projection is not PA"),
    "AP": ({"Projection": "AP"}, "projection is not PA"),
    "bedside": ({"Projection": "AP_horizontal"}, "projection is not PA"),
    "ribs": ({"Projection": "COSTAL"}, "projection is not PA"),
    "no chest": ({"Projection": "EXCLUDE"}, "projection is not PA"),
    "unknown view": ({"Projection": "UNK"}, "projection is not PA"),
    "child by flag": ({"Pediatric": "PED"}, "paediatric or under 18"),
    "child by age": ({"PatientBirth": "1997.0"}, "paediatric or under 18"),
    "excluded": ({"Labels": "['normal', 'exclude ']"}, "label 'exclude'"),
    "suboptimal": ({"Labels": "['pneumonia', ' suboptimal study']"}, "label 'suboptimal study'"),
    "unlabelled": ({"Labels": "nan"}, "no labels"),
    "cut labels": ({"Labels": "['normal', 'exc"}, "no labels"),
    "other sex": ({"PatientSex_DICOM": "O"}, "sex unknown"),
    "no sex": ({"PatientSex_DICOM": ""}, "sex unknown"),
    "nan sex": ({"PatientSex_DICOM": "nan"}, "sex unknown"),
    "no birth": ({"PatientBirth": ""}, "age unknown"),
    "no date": ({"StudyDate_DICOM": "None"}, "age unknown"),
    "too old": ({"PatientBirth": "1830.0"}, "age implausible"),
    "not born": ({"PatientBirth": "2015.0"}, "age implausible"),
    "no patient": ({"PatientID": ""}, "patient unknown"),
    "by header negative": ({"PhotometricInterpretation_DICOM": "MONOCHROME1"}, "inverted grey values"),
    "zip not unpacked": ({"ImageDir": "13", "file": False}, "image file missing"),
    "negative": ({"pixels": (4095 - chest()[0], chest()[1])}, "inverted grey values"),
    "constant": ({"pixels": (np.full((9, 9), 7, np.uint16), chest(9, 9)[1])}, "image or mask unreadable"),
    "empty mask": ({"pixels": (chest()[0], chest()[1] * 0)}, "implausible mask"),
    "no left lung": ({"pixels": (chest()[0], chest()[1] & 6)}, "implausible mask"),
    "mirrored": (
        {"pixels": (chest()[0], np.array([0, 2, 1, 0, 4, 0, 0, 0], np.uint8)[chest()[1]])},
        "implausible mask",
    ),
}


def test_every_exclusion_is_counted_and_listed_with_its_reason(padchest: PadChest) -> None:
    kept = padchest.add()
    expected = {padchest.add(**changes): kind for changes, kind in EXCLUSIONS.values()}
    truncated = padchest.add()
    expected[truncated] = "image or mask unreadable"
    path = padchest.images / "0" / f"{truncated}.png"
    path.write_bytes(path.read_bytes()[:3000])
    unmasked = padchest.add()
    expected[unmasked] = "image or mask unreadable"
    (padchest.masks / f"{unmasked}.png").unlink()
    summary = padchest.convert()
    rejected = padchest.table_of("rejected.csv")
    assert {id: row["kind"] for id, row in rejected.items()} == expected
    assert all(row["reason"] for row in rejected.values())
    assert list(padchest.table_of("metadata.csv")) == [kept]
    for kind, listed in itertools.groupby(sorted(expected.values())):
        assert summary.left_out[kind] == len(list(listed))
    assert "      -6  projection is not PA\n" in (padchest.root / "out" / "summary.txt").read_text()


def test_files_that_arrive_later_join_what_is_done(padchest: PadChest) -> None:
    first, late = padchest.add(), padchest.add(ImageDir="13")
    (padchest.images / "13").rename(padchest.root / "13")
    assert padchest.convert().left_out == {"image file missing": 1}
    (padchest.root / "13").rename(padchest.images / "13")
    assert not padchest.convert().left_out
    assert list(padchest.table_of("metadata.csv")) == [first, late]


def test_ready_made_masks_may_be_moved_and_are_not_mixed_with_others(padchest: PadChest) -> None:
    ids = [padchest.add() for _ in range(4)]
    padchest.convert()
    before = {path.name: path.stat().st_mtime_ns for path in (padchest.root / "out" / "masks").iterdir()}
    padchest.masks = shutil.copytree(padchest.masks, padchest.root / "moved", copy_function=shutil.copyfile)
    shutil.rmtree(padchest.root / "masks")
    assert not padchest.convert().left_out
    masks = padchest.root / "out" / "masks"
    assert {path.name: path.stat().st_mtime_ns for path in masks.iterdir()} == before  # none is made again
    smaller = chest()[1] * (np.arange(110)[:, None] > 30)
    Image.fromarray(smaller.astype(np.uint8)).save(padchest.masks / f"{ids[1]}.png")
    (padchest.masks / f"{ids[2]}.png").unlink()
    assert padchest.convert().left_out == {"image or mask unreadable": 1}
    table = padchest.table_of("metadata.csv")
    assert set(table) == {ids[0], ids[1], ids[3]}
    assert float(table[ids[1]]["left_lung_area"]) < 0.95 * float(table[ids[0]]["left_lung_area"])


def test_selection_and_limit_are_options(padchest: PadChest) -> None:
    padchest.add(Projection="AP")
    padchest.add(PatientBirth="2000.0", Labels="['exclude']")
    padchest.add(Projection="PA")
    selection: dict[str, Any] = {"projections": ("AP", "PA"), "ages": (10, 80), "labels": ()}
    assert padchest.convert(**selection, limit=2).left_out == {"age implausible": 1}
    with pytest.raises(DataError) as error:
        padchest.convert()
    assert "selection" in error.value.text


def test_a_compressed_table_is_the_same_table(padchest: PadChest) -> None:
    padchest.add(Report="dos\nlineas, 'comillas'")
    padchest.add(Projection=" PA ")
    rows = list(read_rows(padchest.write()))
    assert rows == list(read_rows(padchest.write(compress=True)))
    assert [row.Projection for row in rows] == ["PA", "PA"]
    renamed = padchest.table.rename(padchest.root / "plain.csv.gz")
    assert list(read_rows(renamed)) == rows


@pytest.mark.parametrize(
    ("damage", "code", "what"),
    [
        (lambda text: text.replace(b"PatientBirth", b"PatientBith"), Code.MISSING, ": column 'PatientBirth'"),
        (lambda text: text[: text.rindex(b",")], Code.DAMAGED, ": line 16"),
        (lambda text: gzip.compress(text)[:-200], Code.UNREADABLE, ""),
        (lambda text: text[: text.index(b"\n")], Code.EMPTY, ""),
        (lambda text: b"", Code.MISSING, ": column 'ImageID'"),
        (lambda text: text.replace(b"sin hallazg", b"\xff\xfe"), Code.UNREADABLE, ""),
    ],
)
def test_a_damaged_table_is_an_error_that_names_it(
    padchest: PadChest, damage: Callable[[bytes], bytes], code: Code, what: str
) -> None:
    for _ in range(8):
        padchest.add(file=False)
    padchest.write()
    random = np.random.default_rng(0).integers(0, 99, 500).tolist()
    padchest.rows[-1]["Report"] = str(random)  # so that half a compressed file has lost something
    table = padchest.write()
    table.write_bytes(damage(table.read_bytes()))
    with refused(DataError, code, f"{table.name}{what}"):
        Importer(csv=table, images=padchest.images).convert(padchest.root / "out")


def test_missing_paths_and_unequal_shapes_are_errors(padchest: PadChest) -> None:
    padchest.add()
    with refused(DataError, Code.MISSING, "--csv"):
        padchest.convert(csv=padchest.root / "none.csv")
    with refused(DataError, Code.MISSING, "--images"):
        padchest.convert(images=padchest.root / "none")
    with refused(DataError, Code.MISSING, "none"):
        FolderMasks(padchest.root / "none", (32, 32))
    with refused(DataError, Code.CONFLICT, "--size"):
        padchest.convert(size=(32, 40))


@given(st.lists(st.text(max_size=12)), st.lists(st.sampled_from(["", " ", "  "]), min_size=2, max_size=2))
def test_labels_are_read_back_whatever_blanks_are_around_them(labels: list[str], blanks: list[str]) -> None:
    spelt = str([blanks[0] + label + blanks[1] for label in labels])
    assert parse_labels(spelt) == [label.strip() for label in labels if label.strip()]


@given(st.text(max_size=40))
def test_any_text_is_labels_or_is_excluded(text: str) -> None:
    with contextlib.suppress(Excluded):
        assert all(isinstance(label, str) for label in parse_labels(text))


@given(st.integers(1900, 2020), st.integers(2005, 2020), st.integers(101, 1231))
def test_age_is_the_year_of_the_study_less_that_of_birth(birth: int, year: int, day: int) -> None:
    assert parse_age(f"{birth}.0", f"{year}{day:04}") == year - birth
    assert parse_age(str(birth), f"{year}{day:04}") == year - birth


@given(st.text(max_size=8), st.text(max_size=8))
def test_any_text_is_an_age_or_none(birth: str, date: str) -> None:
    age = parse_age(birth, date)
    assert age is None or age == int(age)


def test_masks_of_any_resolution_of_the_same_frame_are_the_same_structures(padchest: PadChest) -> None:
    id = padchest.add()
    image, _ = chest()
    found = []
    for height, width in ((110, 90), (220, 180), (55, 45)):
        Image.fromarray(chest(height, width)[1]).save(padchest.masks / f"{id}.png")
        (coverage,) = FolderMasks(padchest.masks, (32, 32))([id], np.zeros((1, 32, 32), np.uint8))
        assert isinstance(coverage, np.ndarray)
        assert coverage.shape[1] == pytest.approx(coverage.shape[2], abs=1)
        found.append(coverage.mean(axis=(1, 2)))
    assert np.allclose(found, found[0], rtol=0.06)
    assert image.shape == (110, 90)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mask: mask & 5, "right_lung is empty"),
        (lambda mask: np.where(mask == 4, 0, mask), "heart is empty"),
        (lambda mask: np.where(mask == 0, 1, mask), "left_lung covers"),
        (lambda mask: np.where(np.arange(mask.shape[0])[:, None] < 46, mask, mask & 6), None),
        (lambda mask: mask | (mask & 1) << 1, "lungs overlap"),
        (lambda mask: mask[:, ::-1], "mirrored"),
        (lambda mask: mask[::-1], "upside down"),
        (lambda mask: np.where(mask == 4, 0, mask) | np.roll(mask & 4, 35, axis=1), "not between the lungs"),
    ],
)
def test_masks_that_cannot_be_right_are_told(
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], reason: str | None
) -> None:
    mask = chest(100, 100)[1]
    Plausibility().check(mask)
    if reason is None:  # half a lung is hidden behind an effusion: that happens
        Plausibility().check(change(mask))
    else:
        with pytest.raises(Excluded, match=reason):
            Plausibility().check(change(mask))


def test_a_negative_is_told_from_a_positive() -> None:
    for seed in range(5):
        pixels, mask = chest(64, 64, seed)
        image = (pixels / 16).astype(np.uint8)
        check_polarity(image, mask)
        with pytest.raises(Excluded) as refusal:
            check_polarity(255 - image, mask)
        assert refusal.value.kind == "inverted grey values"


def test_stray_parts_of_a_networks_answer_are_dropped() -> None:
    probability = np.zeros((2, 12, 12))
    probability[0, 1:7, 1:7] = 0.9
    probability[0, 1:7, 7] = 0.3  # the outline within a pixel
    probability[0, 10:, 10:] = 0.8
    cleaned = largest_parts(probability)
    assert np.array_equal(cleaned[0, :9], probability[0, :9])
    assert not cleaned[0, 9:].any()
    assert not cleaned[1].any()


def test_masks_by_the_judge_of_a_trained_run(padchest: PadChest, small_run: Run, recalled: Recalled) -> None:
    store = small_run.store()
    people = store.indices("test")[:6]
    for i in people:
        padchest.add(pixels=(store.images[i, 0].astype(np.uint16) * 16, np.zeros((32, 32), np.uint8)))
    segmenter = RunSegmenter(small_run.folder, torch.device("cpu"))
    assert same(segmenter.network.state_dict(), small_run.load("judge").state_dict())
    segmenter.network = recalled  # right, as no short training makes one
    wide = Plausibility(lung=(0, 1), heart=(0, 1))
    padchest.convert(segmenter=segmenter, size=(64, 64), window=(0, 100), batch_size=4, plausibility=wide)
    table = padchest.table_of("metadata.csv")
    assert len(table) == len(people)
    for i, row in zip(people, padchest.rows, strict=True):
        areas = [float(table[row["ImageID"].removesuffix(".png")][f"{name}_area"]) / 4 for name in BITS]
        assert np.allclose(areas, store.masks[i].sum(axis=(1, 2)) / 255, rtol=0.1)


def test_a_run_of_other_structures_cannot_give_the_masks(small_run: Run, tmp_path: Path) -> None:
    text = (small_run.folder / "study.yaml").read_text().replace("  heart:\n", "  spleen:\n")
    (tmp_path / "study.yaml").write_text(text)
    with refused(DataError, Code.MISSING, tmp_path):
        RunSegmenter(tmp_path, torch.device("cpu"))


@pytest.mark.skipif(importlib.util.find_spec("torchxrayvision") is not None, reason="torchxrayvision is installed")
def test_pspnet_without_its_library_names_the_extra(padchest: PadChest, capsys: pytest.CaptureFixture[str]) -> None:
    with refused(DataError, Code.NOT_INSTALLED, "torchxrayvision"):
        PSPNet(torch.device("cpu"))
    padchest.add()
    arguments = ["--csv", padchest.write(), "--images", padchest.images, "--out", padchest.root / "out"]
    assert main(["import", "padchest", *map(str, arguments), "--device", "cpu"]) == 1
    assert "segcft: error: torchxrayvision: masks by its PSPNet need" in capsys.readouterr().err
    assert not (padchest.root / "out").exists()


def test_from_the_command_to_the_samples_of_a_study(padchest: PadChest, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        padchest.add(PatientID=f"patient{i // 2}", PatientSex_DICOM="FM"[i // 2 % 2], PatientBirth=f"{1930 + i}.0")
    padchest.add(Projection="L")
    out = padchest.root / "out"
    command = ["import", "padchest", "--csv", padchest.write(compress=True), "--images", padchest.images, "--out", out]
    command += ["--masks", padchest.masks, "--size", "48"]
    assert main([str(word) for word in command]) == 0
    shown = capsys.readouterr()
    assert "      41  images listed\n      -1  projection is not PA\n      40  images converted, of 20" in shown.out
    assert shown.out == (out / "summary.txt").read_text()
    shipped = load_study(Path(__file__).parent.parent / "configs" / "padchest.yaml")
    study = shipped.model_copy(update={"image": shipped.image.model_copy(update={"size": (48, 48)})})
    store = import_folder(study, out, padchest.root / "store")
    assert len(store) == 40
    assert not len(store.rejected)
    assert len(store.indices(complete=True)) == 40
    assert store.table.groupby("patient")["split"].nunique().max() == 1
    areas = {row["id"]: float(row["heart_area"]) for row in padchest.table_of("metadata.csv").values()}
    assert dict(zip(store.table["id"], store.table["heart_area"], strict=True)) == areas


@pytest.mark.parametrize(
    "words", [["--size", "0"], ["--window", "0.5", "101"], ["--masks", "a", "--segmentor", "b"], ["--size", "12by12"]]
)
def test_wrong_options_are_told_before_anything_is_read(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "padchest", "--csv", "c", "--images", "i", "--out", "o", *words])
    assert "usage: segcft" in capsys.readouterr().err
