"""DICOM images are turned to be looked at, and masks with them; headers that contradict themselves are refused."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.config.structure import Structure
from segcft.importers.folder import import_folder
from segcft.io.dicom import Shown, shown
from segcft.io.dicomfile import open_dicom
from segcft.io.imagefile import read_image
from segcft.io.maskfile import read_masks
from segcft.io.nifti import Axes
from segcft.io.orientation import letters_of, turn_of
from segcft.io.reject import Excluded
from segcft.io.turn import AS_STORED, Turn
from segcft.pipeline.run import Run
from tests.test_dicom import chest, drawn_chest, make, rows, save

UPRIGHT = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
"""What is seen: four columns to the patient's left, three rows to the feet."""

TURNS = [Turn(*flags) for flags in itertools.product((False, True), repeat=3)]

FRONTAL = {  # Patient Orientation -> how the pixels are stored that are seen as UPRIGHT
    "L\\F": UPRIGHT,
    "R\\F": UPRIGHT[:, ::-1],
    "L\\H": UPRIGHT[::-1],
    "R\\H": UPRIGHT[::-1, ::-1],
    "F\\L": UPRIGHT.T,
    "H\\L": UPRIGHT.T[:, ::-1],
    "F\\R": UPRIGHT.T[::-1],
    "H\\R": UPRIGHT.T[::-1, ::-1],
}

VECTORS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}


def see(tmp_path: Path, pixels: NDArray[Any] = UPRIGHT, said: str | None = None, **elements: Any) -> Shown:
    """What is read of a file, with Patient Orientation ``said``."""
    more = {} if said is None else {"PatientOrientation": said.split("\\")}
    path = save(tmp_path / "x.dcm", make(np.ascontiguousarray(pixels), **more, **elements))
    return shown(path, open_dicom(path), grey_range=(0, 3300))


def kinds(picture: Shown) -> list[str]:
    return [remark.kind for remark in picture.remarks]


@pytest.mark.parametrize("said", FRONTAL)
def test_a_frontal_image_has_the_patients_left_on_the_right_and_the_head_up(tmp_path: Path, said: str) -> None:
    picture = see(tmp_path, FRONTAL[said], said, ViewPosition="PA", PixelSpacing=["0.4", "0.2"])
    np.testing.assert_allclose(picture.grey, UPRIGHT / 3300, atol=1e-6)
    assert picture.aspect == pytest.approx(0.5 if said[0] in "FH" else 2)
    assert kinds(picture) == ([] if said == "L\\F" else ["turned"])
    np.testing.assert_array_equal(picture.turn(FRONTAL[said]), UPRIGHT)


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_what_was_turned_is_turned_back(turn: Turn) -> None:
    np.testing.assert_array_equal(turn.inverse(turn(UPRIGHT)), UPRIGHT)


@pytest.mark.parametrize("said", FRONTAL)
def test_image_orientation_says_the_same_in_numbers(tmp_path: Path, said: str) -> None:
    cosines = [number for letter in said.split("\\") for number in VECTORS[letter]]
    alone = see(tmp_path, FRONTAL[said], ImageOrientationPatient=cosines)
    both = see(tmp_path, FRONTAL[said], said, ImageOrientationPatient=cosines)
    for picture in (alone, both):
        np.testing.assert_allclose(picture.grey, UPRIGHT / 3300, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "turn"),
    [
        ("P\\F", AS_STORED),  # a lateral: the front is on the left
        ("A\\F", Turn(mirrored=True)),
        ("L\\P", AS_STORED),  # an axial slice: the front is up
        ("L\\A", Turn(upside_down=True)),
        ("A\\L", Turn(exchanged=True, upside_down=True)),
        ("LF\\FP", AS_STORED),  # the first letter of each counts
        ("PH\\FL", AS_STORED),
        ("RAH\\HL", Turn(upside_down=True, mirrored=True)),
        ("R \\F ", Turn(mirrored=True)),
    ],
)
def test_other_planes_and_oblique_directions(tmp_path: Path, said: str, turn: Turn) -> None:
    assert see(tmp_path, said=said).turn == turn


@pytest.mark.parametrize(("view", "said"), [("CC", "A\\R"), ("CC", "P\\L"), ("MLO", "A\\FR"), ("MLO", "P\\FL")])
def test_mammograms_are_as_stored(tmp_path: Path, view: str, said: str) -> None:
    """By its directions a craniocaudal one would be an axial slice, and lie on its side."""
    picture = see(tmp_path, said=said, Modality="MG", ViewPosition=view)
    assert (picture.turn, picture.remarks) == (AS_STORED, ())


def test_padding_is_turned_with_the_image(tmp_path: Path) -> None:
    pixels = UPRIGHT.copy()
    pixels[0, 0] = 4000
    picture = see(tmp_path, pixels, "R\\F", PixelPaddingValue=4000, PhotometricInterpretation="MONOCHROME1")
    assert picture.grey[0, -1] == 0
    assert picture.grey[0, 0] == pytest.approx(1 - 900 / 3300)


@pytest.mark.parametrize("said", ["", "\\", None])
def test_a_radiograph_that_does_not_say_is_as_stored_and_nothing_is_told(tmp_path: Path, said: str | None) -> None:
    picture = see(tmp_path, said=said, ViewPosition="PA")
    np.testing.assert_allclose(picture.grey, UPRIGHT / 3300, atol=1e-6)
    assert (picture.turn, picture.remarks) == (AS_STORED, ())


@pytest.mark.parametrize("said", ["R", "R\\", "R\\L", "R\\LF", "X\\F", "RL\\F", "LE\\CD", "R\\F\\F"])
def test_what_is_no_pair_of_directions_is_as_stored_and_told(tmp_path: Path, said: str) -> None:
    picture = see(tmp_path, said=said)
    assert (picture.turn, kinds(picture)) == (AS_STORED, ["orientation not understood"])


@pytest.mark.parametrize(
    "cosines", [[0] * 6, [1, 0, 0, 1, 0, 0], [1, 0, 0], [1, 0, 0, 0.7, 0.7, 0], [2, 0, 0, 0, 2, 0]]
)
def test_what_is_no_pair_of_unit_vectors_is_as_stored_and_told(tmp_path: Path, cosines: list[float]) -> None:
    picture = see(tmp_path, ImageOrientationPatient=cosines)
    assert (picture.turn, kinds(picture)) == (AS_STORED, ["orientation not understood"])


def test_both_elements_may_name_an_oblique_plane_each_in_its_way_but_not_contradict(tmp_path: Path) -> None:
    oblique = [0.7, -0.714, 0, 0, 0, -1]  # to the left and, a little more, to the front
    assert see(tmp_path, said="L\\F", ImageOrientationPatient=oblique).turn == Turn(mirrored=True)
    same = see(tmp_path, said="L\\F", ImageOrientationPatient=[1, 0, 0, 0, 1, 0])  # axial: the same picture
    assert same.turn == AS_STORED
    for said, cosines in (("R\\F", [1, 0, 0, 0, 0, -1]), ("L\\H", oblique), ("R\\F", [1, 0, 0, 0, 1, 0])):
        with pytest.raises(Excluded) as refused:
            see(tmp_path, said=said, ImageOrientationPatient=cosines)
        assert refused.value.kind == "orientation contradicts itself"


@pytest.mark.parametrize(("view", "said"), [("PA", "A\\F"), ("AP", "R\\P"), ("LL", "R\\F"), ("LATERAL", "L\\H")])
def test_a_projection_that_is_of_another_plane_is_as_stored_and_told(tmp_path: Path, view: str, said: str) -> None:
    picture = see(tmp_path, said=said, ViewPosition=view)
    assert (picture.turn, kinds(picture)) == (AS_STORED, ["orientation does not fit the view"])
    assert see(tmp_path, said=said, ViewPosition="RAO").turn != AS_STORED


@given(st.sampled_from(TURNS), st.integers(1, 4), st.integers(1, 4), st.floats(0.1, 10))
def test_turns_are_the_eight_ways_to_lay_an_image_down(turn: Turn, height: int, width: int, aspect: float) -> None:
    pixels = np.arange(height * width).reshape(1, height, width)
    turned = turn(pixels)
    assert turned.shape == ((1, width, height) if turn.exchanged else pixels.shape)
    assert sorted(turned.ravel()) == sorted(pixels.ravel())
    corner = turned[0, -1 if turn.upside_down else 0, -1 if turn.mirrored else 0]
    assert corner == 0  # the first pixel is where the turn takes it
    assert turn.aspect(turn.aspect(aspect)) == pytest.approx(aspect)


@given(st.sampled_from(sorted(VECTORS)), st.sampled_from(sorted(VECTORS)))
def test_a_turned_image_always_leads_to_left_back_or_feet(across: str, down: str) -> None:
    if not np.cross(VECTORS[across], VECTORS[down]).any():  # the same axis
        return
    directions = np.array([[f"{y}{x}" for x in ("0", across)] for y in ("0", down)])
    turned = turn_of(across, down)(directions)
    opposite = dict(zip("LPFRAH", "RAHLPF", strict=True))
    start = turned[0, 0]

    def step(other: str, place: int) -> str:
        """The direction from the corner to its neighbour, along one of the stored axes."""
        return other[place] if start[place] == "0" else opposite[start[place]]

    horizontal, vertical = turned[0, 1], turned[1, 0]
    right = step(horizontal, 0 if horizontal[0] != start[0] else 1)
    below = step(vertical, 0 if vertical[0] != start[0] else 1)
    assert right + below in ("LF", "PF", "LP")


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_any_rotation_has_directions_of_two_axes(numbers: list[float]) -> None:
    w, x, y, z = numbers
    norm = w * w + x * x + y * y + z * z
    if norm < 1e-3:
        return
    s = 2 / norm
    row = (1 - s * (y * y + z * z), s * (x * y + w * z), s * (x * z - w * y))
    column = (s * (x * y - w * z), 1 - s * (x * x + z * z), s * (y * z + w * x))
    across, down = letters_of([*row, *column])
    assert np.cross(VECTORS[across], VECTORS[down]).any()
    assert np.dot(row, VECTORS[across]) >= 0
    assert np.dot(column, VECTORS[down]) >= 0


def test_the_same_chest_stored_from_either_side_is_one_image(tmp_path: Path) -> None:
    """Converted: the pictures are the same, the turn is told, and ready-made masks, which may be of either, refuse."""
    pixels, flags = drawn_chest()
    stored = {"lf": pixels, "rf": pixels[:, ::-1], "lh": pixels[::-1], "fl": pixels.T}
    (tmp_path / "drawn").mkdir()
    for name, values in stored.items():
        said = list({"lf": "LF", "rf": "RF", "lh": "LH", "fl": "FL"}[name])
        save(tmp_path / "archive" / f"{name}.dcm", make(np.ascontiguousarray(values), PatientOrientation=said))
        Image.fromarray(flags).save(tmp_path / "drawn" / f"{name}.png")
    words = ["import", "dicom", str(tmp_path / "archive"), "--id", "file", "--size", "40", "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    pictures = [np.asarray(Image.open(tmp_path / "out" / "images" / f"{name}.png")) for name in stored]
    assert all(np.abs(picture.astype(int) - pictures[0]).max() <= 1 for picture in pictures[1:])
    table = {row["id"]: row for row in rows(tmp_path / "out" / "metadata.csv")}
    assert {(row["file_height"], row["file_width"]) for row in table.values()} == {("60", "50")}
    told = rows(tmp_path / "out" / "warnings.csv")
    assert {(row["id"], row["kind"]) for row in told} == {(name, "turned") for name in ("rf", "lh", "fl")}
    assert main([*words, "--out", str(tmp_path / "masked"), "--masks", str(tmp_path / "drawn")]) == 0
    left_out = {row["id"]: row["kind"] for row in rows(tmp_path / "masked" / "rejected.csv")}
    assert left_out == dict.fromkeys(("rf", "lh", "fl"), "pixels turned")


def test_masks_beside_a_dicom_image_are_turned_with_it(tmp_path: Path) -> None:
    raw = yaml.safe_load((Path(__file__).parents[1] / "configs" / "jsrt.yaml").read_text())
    raw["image"]["size"], raw["hvae"]["patch"] = [48, 48], 2
    pixels, flags = drawn_chest(48, 48)
    ways = {"LF": TURNS[0], "RF": Turn(mirrored=True), "LH": Turn(upside_down=True), "FL": Turn(exchanged=True)}
    lines = ["id,age,sex"]
    (tmp_path / "masks").mkdir()
    for k in range(32):
        said = list(ways)[k % 4]
        stored, mask = (np.ascontiguousarray(ways[said](values)) for values in (pixels, flags))
        save(tmp_path / "images" / f"p{k}.dcm", make(stored, PatientOrientation=list(said)))
        Image.fromarray(mask).save(tmp_path / "masks" / f"p{k}.png")
        lines.append(f"p{k},{40 + k},{'FM'[k % 2]}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    store = import_folder(parse_study(raw), tmp_path, tmp_path / "store")
    assert len(store.table) == 32
    np.testing.assert_array_equal(np.unique(store.masks, axis=0), store.masks[:1])
    np.testing.assert_array_equal(np.unique(store.images, axis=0), store.images[:1])
    assert np.argwhere(store.masks[0, 0])[:, 1].mean() > 24 > np.argwhere(store.masks[0, 1])[:, 1].mean()
    with (tmp_path / "store" / "warnings.csv").open(encoding="utf-8", newline="") as file:
        assert sum(row["kind"] == "turned" for row in csv.DictReader(file)) == 24


@pytest.mark.parametrize("said", FRONTAL)
@pytest.mark.parametrize("axes", [None, "header", "xy", "yx"])
def test_a_mask_in_nifti_is_of_the_stored_pixels_too(tmp_path: Path, said: str, axes: Axes | None) -> None:
    """ITK does not heed Patient Orientation: what it makes of such a file lies as the stored pixels do."""
    stored, elsewhere = np.ascontiguousarray(FRONTAL[said]), FRONTAL[said] > 2000
    path = save(tmp_path / "p.dcm", make(stored, PatientOrientation=said.split("\\")))
    mask = elsewhere.astype(np.uint8) if axes == "yx" else elsewhere.T.astype(np.uint8)
    known = np.diag([-1.0, -1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4) if axes in ("xy", "yx") else known), tmp_path / "p.nii.gz")
    assert np.array_equal(mask_beside(path, axes), UPRIGHT > 2000)


@pytest.mark.parametrize("letters", ["LF", "RF", "AL", "RA", "PF", "AH"])
@pytest.mark.parametrize("axes", [None, "xy"])
def test_a_mask_in_nifti_lies_as_image_orientation_says(tmp_path: Path, letters: str, axes: Axes | None) -> None:
    row, column = (np.array(VECTORS[letter], dtype=float) for letter in letters)
    path = save(tmp_path / "p.dcm", make(UPRIGHT, ImageOrientationPatient=[*row, *column]))
    affine = np.eye(4)
    affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([row, column, np.cross(row, column), [30, 20, 10]])
    nibabel.save(nibabel.Nifti1Image((UPRIGHT > 2000).T[:, :, None].astype(np.uint8), affine), tmp_path / "p.nii")
    assert np.array_equal(mask_beside(path, axes), turn_of(*letters)(UPRIGHT > 2000))


def mask_beside(path: Path, axes: Axes | None) -> NDArray[np.bool_]:
    """The mask of a DICOM image, as it is seen."""
    seen = read_image(path, 1, axes=axes)
    structures = {"a": Structure(variable="a", label=1)}
    return read_masks(path.parent, "p", structures, seen, axes).coverage[0] == 1


def test_a_question_about_a_mirrored_file_is_about_the_chest_as_it_is_seen(small_run: Run, tmp_path: Path) -> None:
    answers = []
    for name, said in (("plain", ["L", "F"]), ("mirrored", ["R", "F"])):
        path = chest(small_run, tmp_path / f"{name}.dcm", PatientOrientation=said)
        if name == "mirrored":
            dataset = open_dicom(path)
            stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
            dataset.PixelData = np.ascontiguousarray(stored[:, ::-1]).tobytes()
            dataset.save_as(path)
        np.testing.assert_array_equal(read_image(path, 1).grey, read_image(tmp_path / "plain.dcm", 1).grey)
        out = tmp_path / name
        words = ["counterfactual", str(small_run.folder), str(path), "--do", "heart_area=+10%", "--out", str(out)]
        assert main([*words, "--device", "cpu"]) == 0
        answers.append(json.loads((out / "counterfactual.json").read_text()))
    assert answers[0]["variables"] == answers[1]["variables"]
    assert not any("turned" in str(text) for text in answers[0].get("warnings", ()))
    assert any("mirrored" in str(text) for text in answers[1]["warnings"])
