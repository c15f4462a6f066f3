"""JSRT and SCR in their true formats: raw bytes, GIF masks, text files with their quirks."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study
from segcft.data.splits import assign
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary
from segcft.importers.folder import import_folder
from segcft.importers.formats.jsrt import JSRT
from segcft.importers.jsrt import parse_clinical, read_clinical, read_outline, read_raw, split_place
from segcft.io.reject import Excluded, Rejected

CONFIG = Path(__file__).parents[1] / "configs" / "jsrt.yaml"
STUDY = load_study(CONFIG)

NODULES = (
    "JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\t\tlung cancer\t\r\n"
    "JPCLN002.IMG\t5\t30\t?\tfemale\t1614\t1090\tbenign\tl.middle lung field\thamartoma"  # no line break follows
    "JPCLN003.IMG\t4\t?\t63\tfemale\t?\t?\tmalignant\tr.upper lobe\tlung cancer\r\n"
)
NORMALS = "JPCNN001.IMG   30  female     non-nodule\r\nJPCNN002.IMG   62  male       non-nodule\r\n\r\n"


def ellipse(side: int, column: float, row: float, width: float, height: float) -> NDArray[np.bool_]:
    """Inside an ellipse; its centre and half axes are shares of the image."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return ((x - column) / width) ** 2 + ((y - row) / height) ** 2 <= 1


def chest(side: int) -> dict[str, NDArray[np.bool_]]:
    """Structures by SCR's names: the patient's left is on the right."""
    return {
        "left lung": ellipse(side, 0.72, 0.45, 0.14, 0.3),
        "right lung": ellipse(side, 0.29, 0.45, 0.16, 0.3),
        "heart": ellipse(side, 0.55, 0.62, 0.12, 0.12),
        "left clavicle": ellipse(side, 0.65, 0.15, 0.1, 0.02),
    }


MASKS = chest(1024)
PARTS = chest(2048)
BRIGHT = np.where(PARTS["heart"], 3600, np.where(PARTS["left lung"] | PARTS["right lung"], 900, 2500))


@dataclass
class Downloads:
    """The three downloads, as they are unpacked."""

    root: Path
    ids: list[str] = field(default_factory=list)

    @property
    def clinical(self) -> list[Path]:
        return [self.root / "CLNDAT_EN.txt", self.root / "CNNDAT_EN.TXT"]

    def raw(self, id: str) -> Path:
        return self.root / "All247images" / f"{id}.IMG"

    def mask(self, name: str, id: str) -> Path:
        (found,) = (self.root / "scratch").glob(f"fold?/masks/{name}/{id}.gif")
        return found

    def add(self, id: str) -> None:
        noise = np.random.default_rng(len(self.ids)).integers(-300, 300, BRIGHT.shape)
        self.raw(id).parent.mkdir(parents=True, exist_ok=True)
        (4095 - (BRIGHT + noise)).astype(">u2").tofile(self.raw(id))
        for name, mask in MASKS.items():
            path = self.root / "scratch" / f"fold{len(self.ids) % 2 + 1}" / "masks" / name / f"{id}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        self.ids.append(id)

    def convert(self, **options: Any) -> Summary:
        usual = {"images": self.root / "All247images", "masks": self.root / "scratch", "clinical": self.clinical}
        return JSRT(**usual | {"size": (64, 64)} | options).convert(self.root / "out")

    def rows(self) -> dict[str, dict[str, str]]:
        return {row["id"]: row for row in table(self.root / "out" / "metadata.csv")}

    def left_out(self) -> dict[str, str]:
        return {row["id"]: f"{row['kind']}: {row['reason']}" for row in table(self.root / "out" / "rejected.csv")}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Downloads:
    downloads = Downloads(tmp_path_factory.mktemp("jsrt"))
    for id in ("JPCLN001", "JPCLN002", "JPCNN001"):
        downloads.add(id)
    downloads.clinical[0].write_bytes(NODULES.split("JPCLN003")[0].encode())
    downloads.clinical[1].write_bytes(NORMALS.split("JPCNN002")[0].encode())
    return downloads


@pytest.fixture
def downloads(original: Downloads, tmp_path: Path) -> Downloads:
    """A copy to break."""
    shutil.copytree(original.root, tmp_path / "jsrt", ignore=shutil.ignore_patterns("out*"))
    return Downloads(tmp_path / "jsrt", list(original.ids))


def test_jsrt_becomes_a_folder_that_its_study_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = [f"JPC{kind}N{number:03}" for kind in "LN" for number in range(1, 60)]
    downloads = Downloads(tmp_path)
    for part, wanted in (("train", 2), ("validation", 1), ("test", 2)):
        for id in [id for id in every if assign(id, STUDY.splits) == part][:wanted]:
            downloads.add(id)
    about = {"L": "4\t20\t{}\tmale\t569\t717\tmalignant\tr.lower lobe\tlung cancer", "N": "{}   female  non-nodule"}
    for path, kind in zip(downloads.clinical, "LN", strict=True):
        lines = [f"{id}.IMG\t{about[kind].format(40 + i)}\n" for i, id in enumerate(downloads.ids) if id[3] == kind]
        path.write_text("".join(lines) or NORMALS)
    words = ["--images", str(tmp_path / "All247images"), "--masks", str(tmp_path / "scratch")]
    words += ["--clinical", *map(str, downloads.clinical), "--out", str(tmp_path / "out")]
    assert main(["import", "jsrt", *words]) == 0
    assert "5  images converted, of 5 people" in capsys.readouterr().out
    for id, row in downloads.rows().items():
        assert (row["patient"], row["sex"]) == (id, "M" if id[3] == "L" else "F")
        with Image.open(tmp_path / "out" / "images" / f"{id}.png") as file:
            image = np.asarray(file)
        with Image.open(tmp_path / "out" / "masks" / f"{id}.png") as file:
            mask = np.asarray(file)
        assert image.shape == mask.shape == (256, 256)
        for bit, name in ((1, "left lung"), (2, "right lung"), (4, "heart")):
            share = MASKS[name].mean()
            assert (mask & bit != 0).mean() == pytest.approx(share, rel=0.02)
            assert int(row[f"{name.replace(' ', '_')}_area"]) == np.count_nonzero(mask & bit)
        left, right = (np.nonzero(mask & bit)[1].mean() for bit in (1, 2))
        assert right < 128 < left  # an image shows the patient from the front
        assert np.median(image[mask == 4]) > np.median(image[mask == 0]) > np.median(image[mask == 1])
    store = import_folder(STUDY, tmp_path / "out", tmp_path / "store")
    assert sorted(store.table["id"]) == sorted(downloads.ids)
    assert len(store.rejected) == 0
    assert {part: len(store.indices(part)) for part in ("train", "validation", "test")} == {
        "train": 2,
        "validation": 1,
        "test": 2,
    }


def test_a_conversion_keeps_what_is_known_of_a_person(original: Downloads) -> None:
    summary = original.convert()
    assert sum(summary.samples.values()) == 3
    rows = original.rows()
    first = {"age": "53", "sex": "M", "diagnosis": "lung cancer", "nodule": "malignant", "location": "l.upper lobe"}
    assert first.items() <= rows["JPCLN001"].items()
    assert {"subtlety": "5.0", "nodule_mm": "15.0", "nodule_x": "1634.0"}.items() <= rows["JPCLN001"].items()
    assert {"age": "", "sex": "F", "diagnosis": "hamartoma", "nodule": "benign"}.items() <= rows["JPCLN002"].items()
    assert {"age": "30", "sex": "F", "diagnosis": "non-nodule", "nodule": "none"}.items() <= rows["JPCNN001"].items()


def test_records_are_read_with_the_quirks_of_the_files() -> None:
    found = dict(parse_clinical(NODULES + NORMALS))
    assert list(found) == ["JPCLN001", "JPCLN002", "JPCLN003", "JPCNN001", "JPCNN002"]
    assert found["JPCLN001"] == {
        "age": 53,
        "sex": "M",
        "diagnosis": "lung cancer",
        "nodule": "malignant",
        "location": "l.upper lobe",
        "subtlety": 5,
        "nodule_mm": 15,
        "nodule_x": 1634,
        "nodule_y": 692,
    }
    assert {"age": None, "diagnosis": "hamartoma", "location": "l.middle lung field"}.items() <= dict(
        found["JPCLN002"]  # type: ignore[arg-type]
    ).items()
    assert {"nodule_mm": None, "nodule_x": None}.items() <= dict(found["JPCLN003"]).items()  # type: ignore[arg-type]
    assert found["JPCNN002"] == {"age": 62, "sex": "M", "diagnosis": "non-nodule", "nodule": "none", "location": None}


@pytest.mark.parametrize(
    ("text", "place", "finding"),
    [
        ("\tl.upper lobe\tlung cancer", "l.upper lobe", "lung cancer"),  # a column each
        ("\tl.upper lobe\tlung cancer\t", "l.upper lobe", "lung cancer"),
        ("\tl.upper lobe\t", "l.upper lobe", None),
        ("\tl.upper lobe\t?", "l.upper lobe", None),
        ("\t\tlung cancer", None, "lung cancer"),
        ("\t?\tlung cancer", None, "lung cancer"),
        (" l.upper lobe\tlung cancer", "l.upper lobe", "lung cancer"),  # a blank, then a tab
        ("\tl.upper\tlobe(S5)\tinflammatory\tmass", "l.upper lobe(S5)", "inflammatory mass"),  # two columns each
        ("\tr.middl\te lobe\ttuberculoma\t", "r.middle lobe", "tuberculoma"),
        ("\tleft lu\tng\ttuberculoma", "left lung", "tuberculoma"),
        ("\tl.upper lobe\t\tlung cancer\t", "l.upper lobe", "lung cancer"),
        ("\t\t\tlung cancer\t", None, "lung cancer"),
        ("\tl.upper lobe\t\t\t\t\t", "l.upper lobe", None),
        ("  l.upper lobe    lung cancer ", "l.upper lobe", "lung cancer"),  # blanks
        (" l.upper lobe lung cancer", None, None),
        ("   lung cancer", None, None),  # or a place?
        ("\tlung cancer", None, None),
        ("\tl.upper lobe\tlung cancer\t\t", None, None),  # two of one, or one each?
        ("\ta\tb\tc\td\te", None, None),
        ("\t\t\t", None, None),
        ("", None, None),
    ],
)
def test_location_and_diagnosis_are_told_apart_by_their_columns(
    text: str, place: str | None, finding: str | None
) -> None:
    assert split_place(text) == (place, finding)
    for end in ("", "\n", "\r\n\r\n", "\r\n\t\t\t\r\n", "JPCLN002.IMG\t5"):
        _, found = parse_clinical(f"JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant{text}{end}")[0]
        assert isinstance(found, dict)
        assert (found["location"], found["diagnosis"], found["nodule"]) == (place, finding, "malignant")


@given(
    age=st.one_of(st.none(), st.integers(0, 120)),
    sex=st.sampled_from(["male", "Female", "F", "M"]),
    before=st.sampled_from(["", "\ufeff", "file\tage\tsex\n", "\n\n"]),
    gaps=st.lists(st.text("\t ", min_size=1, max_size=3), min_size=3, max_size=3),
    suffix=st.sampled_from([".IMG", ".img", ""]),
    diagnosis=st.sampled_from(["normal", "non-nodule", "no nodule found"]),
)
def test_any_spacing_and_spelling_of_a_normal_is_read(
    age: int | None, sex: str, before: str, gaps: list[str], suffix: str, diagnosis: str
) -> None:
    cells = ["?" if age is None else str(age), sex, diagnosis]
    text = before + f"JPCNN010{suffix}" + "".join(gap + cell for gap, cell in zip(gaps, cells, strict=True)) + "\r\n"
    (one,) = parse_clinical(text)
    expected = {"age": age, "sex": sex[0].upper(), "diagnosis": diagnosis, "nodule": "none", "location": None}
    assert one == ("JPCNN010", expected)


def test_a_long_gap_takes_no_more_than_its_length() -> None:
    gap = "\n" * 2_000_000  # whose square nobody could wait for
    ((_, found),) = parse_clinical(f"JPCNN001.IMG\t52\tfemale{gap}non-nodule")
    assert not isinstance(found, Excluded)
    assert (found["age"], found["sex"]) == (52, "F")


@given(st.text(st.sampled_from("JPCLN0123.IMG\t\n ?malefignt"), max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    for id, attributes in parse_clinical(text):
        assert re.fullmatch(r"JPC[LN]N\d{3}", id)
        assert isinstance(attributes, Excluded) or attributes["sex"] in ("F", "M")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("JPCNN001.IMG\tthirty\tfemale\tnon-nodule", "'thirty' is no age"),
        ("JPCNN001.IMG\t130\tfemale\tnon-nodule", "'130' is no age"),
        ("JPCNN001.IMG\t30\tunknown\tnon-nodule", "'unknown' is no sex"),
        ("JPCNN001.IMG\t30", "expected age, sex"),
        ("JPCLN001.IMG\t53\tmale\tmalignant", "expected subtlety, size"),
        ("JPCLN001.IMG\t15\t5\t53\tmale\t1634\t692\tmalignant\tx", "expected subtlety, size"),  # the guide's order
    ],
)
def test_a_record_that_is_not_understood_says_what_was_expected(record: str, reason: str) -> None:
    ((_, found),) = parse_clinical(record)
    assert isinstance(found, Excluded)
    assert reason in str(found)


def test_contradicting_records_and_useless_files_are_told(tmp_path: Path) -> None:
    same, other = tmp_path / "same.txt", tmp_path / "other.txt"
    same.write_text("JPCNN001.IMG 30 female non-nodule\n" * 2)
    other.write_text("JPCNN001.IMG 31 female non-nodule\n")
    assert read_clinical([same])[0]["JPCNN001"] == parse_clinical(same.read_text())[0][1]
    contradiction = read_clinical([same, other])[0]["JPCNN001"]
    assert isinstance(contradiction, Excluded)
    assert "with other data" in str(contradiction)
    (tmp_path / "readme.txt").write_text("see the web page")
    with refused(DataError, Code.EMPTY, "readme.txt"):
        read_clinical([tmp_path / "readme.txt"])
    with refused(DataError, Code.UNREADABLE, "none.txt"):
        read_clinical([tmp_path / "none.txt"])


@given(size=st.integers(0, 9000).filter(lambda size: size != 8192))
def test_a_file_of_another_size_is_no_raw_image(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    path = tmp_path_factory.getbasetemp() / "JPCLN009.IMG"
    with path.open("wb") as file:
        file.truncate(size * 1024)
    with pytest.raises(Rejected, match=rf"has {size * 1024} bytes, .* has 8388608"):
        read_raw(path)


def test_raw_bytes_become_grey_values(tmp_path: Path) -> None:
    path = tmp_path / "JPCLN009.IMG"
    content = bytearray(8_388_608)
    content[:4] = b"\x0f\xff\x01\x02"  # big-endian 4095 and 258
    path.write_bytes(content)
    grey = read_raw(path)
    assert (grey.dtype, grey.shape) == (np.uint16, (2048, 2048))
    assert grey[0, :3].tolist() == [0, 4095 - 258, 4095]
    path.write_bytes(content[1::-1] + bytes(8_388_606))
    with pytest.raises(Rejected, match=r"holds 65295, more than 12 bits: the bytes of each number are swapped"):
        read_raw(path)
    path.write_bytes(b"\xff" * 8_388_608)
    with pytest.raises(Rejected, match="damaged"):
        read_raw(path)
    with pytest.raises(Rejected, match="cannot read"):
        read_raw(tmp_path / "none.IMG")


def test_masks_are_read_whatever_the_palette(tmp_path: Path) -> None:
    mask = MASKS["heart"]
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "palette.gif")
    assert np.array_equal(read_outline(tmp_path / "palette.gif"), mask)
    for name, pixels, reason in (
        ("empty", np.zeros((8, 8)), "empty"),
        ("full", np.full((8, 8), 255), "full"),
        ("grey", np.arange(64).reshape(8, 8), "64 values"),
    ):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.gif")
        with pytest.raises(Rejected, match=reason):
            read_outline(tmp_path / f"{name}.gif")


def rename_lungs(folder: Path, ids: list[str]) -> None:
    for id in ids:
        (left,), (right,) = (list(folder.glob(f"fold?/masks/{name}/{id}.gif")) for name in ("left lung", "right lung"))
        one, other = left.read_bytes(), right.read_bytes()
        left.write_bytes(other)
        right.write_bytes(one)


def test_lungs_that_are_named_by_the_side_of_the_image_are_told_by_their_place(downloads: Downloads) -> None:
    rename_lungs(downloads.root / "scratch", downloads.ids)
    downloads.convert()
    for id in downloads.ids:
        with Image.open(downloads.root / "out" / "masks" / f"{id}.png") as file:
            mask = np.asarray(file)
        left, right = (np.nonzero(mask & bit)[1].mean() for bit in (1, 2))
        assert right < left


def test_lungs_without_a_rule_and_mirrored_masks_are_errors(downloads: Downloads) -> None:
    rename_lungs(downloads.root / "scratch", downloads.ids[:1])
    with refused(DataError, Code.CONFLICT, downloads.root / "scratch"):
        downloads.convert()
    rename_lungs(downloads.root / "scratch", downloads.ids[:1])
    for path in (downloads.root / "scratch").rglob("*.gif"):
        with Image.open(path) as file:
            pixels = np.asarray(file)[:, ::-1]
        Image.fromarray(pixels).save(path)
    with refused(DataError, Code.CONFLICT, downloads.root / "scratch"):
        downloads.convert()


def cut(downloads: Downloads) -> None:
    with downloads.raw("JPCLN001").open("r+b") as file:
        file.truncate(8_000_000)


def negative(downloads: Downloads) -> None:
    raw = np.fromfile(downloads.raw("JPCLN001"), dtype=">u2")
    (4095 - raw).astype(">u2").tofile(downloads.raw("JPCLN001"))


def no_record(downloads: Downloads) -> None:
    text = downloads.clinical[0].read_text()
    downloads.clinical[0].write_text(text[text.index("JPCLN002") :])


def other_size(downloads: Downloads) -> None:
    Image.fromarray(chest(512)["heart"].astype(np.uint8) * 255).save(downloads.mask("heart", "JPCLN001"))


def no_heart(downloads: Downloads) -> None:
    Image.fromarray(np.zeros((1024, 1024), np.uint8)).save(downloads.mask("heart", "JPCLN001"))


def speck(downloads: Downloads) -> None:
    Image.fromarray(ellipse(1024, 0.55, 0.62, 0.01, 0.01).astype(np.uint8) * 255).save(
        downloads.mask("heart", "JPCLN001")
    )


def constant(downloads: Downloads) -> None:
    downloads.raw("JPCLN001").write_bytes(bytes(8_388_608))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "image or mask unreadable: .*JPCLN001.IMG: has 8000000 bytes"),
        (negative, "inverted grey values"),
        (no_record, "no clinical data"),
        (lambda d: d.raw("JPCLN001").unlink(), "image file missing"),
        (lambda d: d.mask("heart", "JPCLN001").unlink(), "mask file missing: .*heart/JPCLN001.gif"),
        (lambda d: d.mask("heart", "JPCLN001").write_bytes(b"GIF89a"), "cannot read this image"),
        (other_size, "different sizes"),
        (no_heart, "the mask is empty"),
        (speck, "implausible mask: heart covers"),
        (constant, "JPCLN001.IMG: constant image"),
    ],
)
def test_what_is_wrong_with_one_image_leaves_it_out(
    downloads: Downloads, damage: Callable[[Downloads], None], reason: str
) -> None:
    damage(downloads)
    summary = downloads.convert()
    assert sum(summary.samples.values()) == 2
    assert re.search(reason, downloads.left_out()["JPCLN001"])
    assert sorted(downloads.rows()) == ["JPCLN002", "JPCNN001"]


def test_folders_of_something_else_and_two_copies_are_errors(downloads: Downloads, tmp_path: Path) -> None:
    images, masks, out = downloads.root / "All247images", downloads.root / "scratch", tmp_path / "new"
    for folders, code, what in (
        ((tmp_path / "none", masks), Code.MISSING, "--images"),
        ((images, tmp_path / "none"), Code.MISSING, "--masks"),
        ((masks, masks), Code.EMPTY, masks),
        ((images, images), Code.EMPTY, images),
    ):
        with refused(DataError, code, what):
            JSRT(images=folders[0], masks=folders[1], clinical=tuple(downloads.clinical)).convert(out)
    (images / "Nodule154images").mkdir()
    shutil.copy(downloads.raw("JPCLN001"), images / "Nodule154images")
    with refused(DataError, Code.DUPLICATE, "JPCLN001.IMG"):
        downloads.convert()
    assert not out.exists()
