"""The import of ACDC: small hearts in the official layout, whose areas are known in square millimetres."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study
from segcft.data.crop import Crop
from segcft.errors import Code, DataError
from segcft.importers.acdc import BITS, choose, parse_info
from segcft.importers.folder import import_folder
from segcft.importers.formats.acdc import ACDC
from segcft.io.reject import Rejected

STUDY = Path(__file__).parents[1] / "configs" / "acdc.yaml"
SHAPE, SPACING = (60, 72, 5), (2.5, 2.0)
"""Voxels along x, y and z, and mm along x and y."""
MIDDLE = (70.0, 80.0)
"""Of the left ventricle, in mm along x and y."""
ED, ES = 1, 9
INFO = "ED: 1\nES: 9\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"


def radius(k: int, frame: int) -> float:
    """Of the left ventricle, in mm: smaller towards the apex, and after the contraction."""
    return (24 - 3 * k) * (1 if frame == ED else 0.7)


def labels(frame: int) -> np.ndarray:
    """A left ventricle in its myocardium, and a right ventricle on its side of smaller x."""
    x, y = np.meshgrid(*((np.arange(n) + 0.5) * step for n, step in zip(SHAPE, SPACING, strict=False)), indexing="ij")
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for k in range(SHAPE[2]):
        r = radius(k, frame)
        mask[np.hypot(x - MIDDLE[0] + r + 6, y - MIDDLE[1]) < r, k] = 1
        mask[np.hypot(x - MIDDLE[0], y - MIDDLE[1]) < r + 8, k] = 2
        mask[np.hypot(x - MIDDLE[0], y - MIDDLE[1]) < r, k] = 3
    return mask


def write_volume(path: Path, values: np.ndarray, spacing: tuple[float, float] = SPACING) -> None:
    image = nibabel.Nifti1Image(values, np.diag([-spacing[0], -spacing[1], 10, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_patient(folder: Path, info: str = INFO) -> Path:
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(info, encoding="utf-8")
    for frame in (ED, ES):
        mask = labels(frame)
        grey = np.choose(mask, [40, 200, 80, 220]) + np.random.default_rng(frame).integers(0, 20, SHAPE)
        write_volume(folder / f"{folder.name}_frame{frame:02}.nii.gz", grey.astype(np.int16))
        write_volume(folder / f"{folder.name}_frame{frame:02}_gt.nii.gz", mask)
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients, two of them in training and one in testing; the film of one is there, too, and is no film."""
    folder = tmp_path_factory.mktemp("acdc") / "database"
    for part, patient in (("training", "patient001"), ("training", "patient002"), ("testing", "patient101")):
        write_patient(folder / part / patient)
    (folder / "training" / "patient001" / "patient001_4d.nii.gz").write_bytes(b"")
    return folder


@pytest.fixture
def spoilt(official: Path, tmp_path: Path) -> Path:
    """A copy of them, to be spoilt."""
    shutil.copytree(official, tmp_path / "database")
    return tmp_path / "database"


@pytest.fixture(scope="module")
def converted(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "out"
    ACDC(folder=official, size=(64, 64), field_of_view=128.0).convert(out)
    return out


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metadata.csv").set_index("id")


def mask_of(folder: Path, id: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "masks" / f"{id}.png"))


def test_every_heart_is_there_at_three_places_and_two_phases(converted: Path) -> None:
    table = table_of(converted)
    assert len(table) == 3 * 3 * 2
    one = table[table["patient"] == "patient001"]
    assert one["position"].tolist() == ["base", "base", "mid", "mid", "apex", "apex"]
    assert one["slice"].tolist() == [1, 1, 3, 3, 5, 5]
    assert one["phase"].tolist() == ["ED", "ES"] * 3
    assert {*one["group"]} == {"DCM"}
    assert {*one["height_cm"]} == {184.0}
    assert table["official"].tolist() == ["training"] * 12 + ["testing"] * 6
    assert (table.groupby("patient")["split"].nunique() == 1).all()


def test_areas_are_kept_in_square_millimetres(converted: Path) -> None:
    table = table_of(converted)
    for _, row in table.iterrows():
        mask = labels(ED if row["phase"] == "ED" else ES)[..., row["slice"] - 1]
        for value, name in ((3, "lv"), (2, "myocardium"), (1, "rv")):
            known = np.count_nonzero(mask == value) * SPACING[0] * SPACING[1]
            # A pixel here has 4 mm2, one of the scan 5: outlines differ by parts of a pixel, areas by few per cent.
            assert row[f"{name}_area"] * row["pixel_mm"] ** 2 == pytest.approx(known, rel=0.05, abs=20)


def test_masks_are_flags_that_exclude_each_other(converted: Path) -> None:
    table = table_of(converted)
    for id, row in table.iterrows():
        mask = mask_of(converted, str(id))
        assert {*np.unique(mask)} == {0, *BITS.values()}
        assert {name: np.count_nonzero(mask == bit) for name, bit in BITS.items()} == {
            name: row[f"{name}_area"] for name in BITS
        }


def test_both_phases_have_one_frame_and_one_grey_scale(converted: Path) -> None:
    """The left ventricle contracts about its middle, which stays where it is; so does what is behind the heart."""
    for id in ("patient001_s01", "patient001_s03"):
        middles = [
            np.argwhere(mask_of(converted, f"{id}_{phase}") == BITS["lv"]).mean(axis=0) for phase in ("ED", "ES")
        ]
        assert np.allclose(*middles, atol=0.5)
        images = [np.asarray(Image.open(converted / "images" / f"{id}_{phase}.png")) for phase in ("ED", "ES")]
        behind = [float(np.median(image[:4])) for image in images]
        assert behind[0] == pytest.approx(behind[1], abs=8)  # the noise of the two


def test_pixels_of_the_scan_stay_as_they_are_on_demand(official: Path, tmp_path: Path) -> None:
    ACDC(folder=official, size=(72, 60), field_of_view=0.0, slices=1).convert(tmp_path / "out")
    table = table_of(tmp_path / "out")
    assert table["position"].isna().all()  # one slice alone is nowhere between base and apex
    for _, row in table.iterrows():
        mask = labels(ED if row["phase"] == "ED" else ES)[..., row["slice"] - 1]
        assert row["lv_area"] == np.count_nonzero(mask == 3)
        assert row["rv_area"] == np.count_nonzero(mask == 1)


def test_the_apex_may_come_first(spoilt: Path, tmp_path: Path) -> None:
    for path in spoilt.rglob("*_frame*.nii.gz"):
        write_volume(path, np.asarray(nibabel.load(path).dataobj)[..., ::-1])
    ACDC(folder=spoilt).convert(tmp_path / "out")
    table = table_of(tmp_path / "out")
    assert {*table.loc[table["position"] == "base", "slice"]} == {5}
    assert {*table.loc[table["position"] == "apex", "slice"]} == {1}


def test_an_interrupted_import_goes_on(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import", "acdc", str(official), "--out", str(tmp_path / "out"), "--size", "32x32", "--slices", "all"]
    assert main(words) == 0
    first = table_of(tmp_path / "out")
    assert len(first) == 3 * 5 * 2
    image = tmp_path / "out" / "images" / "patient001_s02_ES.png"
    written = image.stat().st_mtime_ns
    assert main(words) == 0
    assert image.stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(table_of(tmp_path / "out"), first)
    assert main([*words, "--field-of-view", "100"]) == 1
    assert "field_of_view was 180" in capsys.readouterr().err


def spoil_info(text: str) -> Callable[[Path], None]:
    return lambda patient: (patient / "Info.cfg").write_text(text, encoding="utf-8") and None


def spoil_volume(name: str, values: np.ndarray, spacing: tuple[float, float] = SPACING) -> Callable[[Path], None]:
    return lambda patient: write_volume(patient / f"patient001_{name}.nii.gz", values, spacing)


def without(name: str) -> Callable[[Path], None]:
    return lambda patient: (patient / name).unlink()


def cut_off(patient: Path) -> None:
    path = patient / "patient001_frame01.nii.gz"
    path.write_bytes(path.read_bytes()[:500])


ONE_SIDED = np.where(labels(ES) == 1, 0, labels(ES))


@pytest.mark.parametrize(
    ("spoil", "kind", "left_out"),
    [
        (without("Info.cfg"), "Info.cfg missing", 1),
        (spoil_info("ED: 1\nGroup: DCM\n"), "Info.cfg unclear", 1),
        (spoil_info(INFO.replace("DCM", "XYZ")), "Info.cfg unclear", 1),
        (spoil_info(INFO.replace("ES: 9", "ES: 1")), "Info.cfg unclear", 1),
        (spoil_info(INFO.replace("95.0", "heavy")), "Info.cfg unclear", 1),
        (spoil_info("x" * (1 << 17)), "Info.cfg unclear", 1),
        (spoil_info(INFO.replace("ES: 9", "ES: 8")), "mask missing", 1),
        (without("patient001_frame09_gt.nii.gz"), "mask missing", 1),
        (without("patient001_frame09.nii.gz"), "frame missing", 6),
        (spoil_volume("frame09", np.zeros((60, 72, 4), np.int16)), "shapes differ", 6),
        (spoil_volume("frame09_gt", labels(ES)[:, :, :4]), "shapes differ", 1),
        (spoil_volume("frame09", labels(ES).astype(np.int16), (1.0, 1.0)), "spacings differ", 6),
        (spoil_volume("frame09_gt", labels(ES) + 1), "unknown label", 1),
        (spoil_volume("frame09_gt", ONE_SIDED), "no whole slice", 1),
        (spoil_volume("frame01", np.full(SHAPE, 7, np.int16)), "constant image", 6),
        (cut_off, "image or mask unreadable", 6),
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_reason(
    spoilt: Path, tmp_path: Path, spoil: Callable[[Path], None], kind: str, left_out: int
) -> None:
    spoil(spoilt / "training" / "patient001")
    ACDC(folder=spoilt, size=(32, 32)).convert(tmp_path / "out")
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv")
    assert rejected["kind"].tolist() == [kind] * left_out
    assert rejected["id"].str.startswith("patient001").all()
    assert {*table_of(tmp_path / "out")["patient"]} == {"patient002", "patient101"}


def test_a_heart_beyond_the_frame_is_told_of(official: Path, tmp_path: Path) -> None:
    summary = ACDC(folder=official, size=(32, 32), field_of_view=40.0).convert(tmp_path / "out")
    assert "heart cut off" in summary.warning


@pytest.mark.parametrize(
    ("options", "field"),
    [({"slices": 0}, "--slices"), ({"slices": "some"}, "--slices"), ({"field_of_view": -1.0}, "--field-of-view")],
)
def test_options_are_checked(official: Path, options: dict[str, Any], field: str) -> None:
    with refused(DataError, Code.INVALID, field):
        ACDC(folder=official, **options)


def test_a_folder_without_patients_and_a_patient_who_is_there_twice(spoilt: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refused(DataError, Code.EMPTY, tmp_path / "empty"):
        ACDC(folder=tmp_path / "empty").convert(tmp_path / "out")
    write_patient(spoilt / "testing" / "patient001")
    with refused(DataError, Code.DUPLICATE, "patient001"):
        ACDC(folder=spoilt).convert(tmp_path / "out")


def test_the_study_reads_the_folder(converted: Path, tmp_path: Path) -> None:
    store = import_folder(load_study(STUDY), converted, tmp_path / "store", split="test")
    assert len(store) == 18
    assert store.structures == {name: f"{name}_area" for name in BITS}
    assert not len(store.rejected)


def test_facts_may_be_missing() -> None:
    info = parse_info("ED: 1\nES: 12\nGroup: RV\nHeight: nan\n")
    assert (info.frames, info.group, info.height, info.weight) == ({"ED": 1, "ES": 12}, "RV", None, None)


@given(st.text(max_size=80))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with suppress(Rejected):
        assert parse_info(text).frames.keys() == {"ED", "ES"}


@given(st.dictionaries(st.integers(0, 30), st.integers(1, 5000), min_size=1), st.integers(1, 12))
def test_slices_are_chosen_in_order_without_repetition(hearts: dict[int, int], count: int) -> None:
    chosen = list(choose(hearts, count))
    assert len(chosen) == min(count, len(hearts))
    assert {*chosen} <= hearts.keys()
    assert chosen in (sorted(chosen), sorted(chosen, reverse=True))
    positions = [position for position in choose(hearts, count).values() if position]
    assert positions == sorted(positions, key=["base", "mid", "apex"].index)


pictures = arrays.arrays(np.float64, st.tuples(st.integers(2, 9), st.integers(2, 9)), elements=st.floats(0, 1))
lengths = st.floats(0.5, 20)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(pictures, st.floats(0, 3), st.floats(0, 3), sizes)
def test_no_area_is_invented_or_lost(picture: np.ndarray, above: float, left: float, size: tuple[int, int]) -> None:
    extent = (picture.shape[0] + 2 * above, picture.shape[1] + 2 * left)
    framed = Crop((-above, -left), extent, size).average(picture)
    cell = extent[0] / size[0] * extent[1] / size[1]
    assert framed.sum() * cell == pytest.approx(picture.sum(), abs=1e-9)


@given(pictures, st.tuples(st.floats(-5, 5), st.floats(-5, 5)), lengths, lengths, sizes, st.floats(0, 1))
def test_a_frame_holds_nothing_but_the_picture_and_its_fill(
    picture: np.ndarray, start: tuple[float, float], down: float, across: float, size: tuple[int, int], fill: float
) -> None:
    crop = Crop(start, (down, across), size)
    for framed in (crop.average(picture, fill), crop.smooth(picture, fill)):
        assert framed.shape == size
        assert framed.min() >= min(fill, picture.min()) - 1e-9
        assert framed.max() <= max(fill, picture.max()) + 1e-9


@given(pictures, st.integers(-3, 3), st.integers(-3, 3), sizes)
def test_whole_pixels_are_copied(picture: np.ndarray, top: int, left: int, size: tuple[int, int]) -> None:
    wide = np.pad(picture, 12, constant_values=0.5)
    expected = wide[12 + top : 12 + top + size[0], 12 + left : 12 + left + size[1]]
    crop = Crop((top, left), size, size)
    assert np.allclose(crop.average(picture, 0.5), expected)
    assert np.allclose(crop.smooth(picture, 0.5), expected)
