"""CT angiographies imported as straightened vessels: a phantom of known widths, and everything wrong with one."""

from __future__ import annotations

import csv
import gc
import re
import shutil
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import pyvista
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from refused import refused
from segcft.cli import main
from segcft.config.sources import Splits
from segcft.data.splits import assign
from segcft.errors import Code, DataError
from segcft.importers import ccta
from segcft.importers.ccta import BITS, label_angles, to_bits
from segcft.importers.convert import Summary
from segcft.importers.formats.ccta import CCTA
from segcft.io import volumefile
from segcft.io.reject import Rejected
from segcft.io.space import Frame, parse_frame
from segcft.io.vesselfile import read_centreline, read_surface
from segcft.io.volume import Volume
from tests.test_coronary_volumes import write_series

Array = NDArray[np.float64]

SIZE, SPACING = (32, 96), 0.25
LUMEN, WALL = 1.5, 2.5
"""Radii of the phantom in mm: a straight vessel along z whose wall is calcified where x is positive."""
CENTRE = np.array([30.0, -50.0, 80.0])
LENGTH = 30.0


def phantom(turn: int = 1) -> tuple[NDArray[np.int16], Array]:
    """Hounsfield units on a grid at an angle to the vessel, and the affine to LPS."""
    shape, affine = (70, 70, 84), np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(0.2 * np.random.default_rng(turn).uniform(-1, 1, 3)).as_matrix() * 0.45
    affine[:3, 3] = CENTRE - affine[:3, :3] @ (np.array(shape) - 1) / 2
    x, y, _ = np.tensordot(affine[:3, :3], np.indices(shape), 1) + (affine[:3, 3] - CENTRE)[:, None, None, None]
    radius = np.hypot(x, y)
    hu = np.where(radius < LUMEN, 400, np.where(radius < WALL, np.where(x > 0, 1000, 60), -90))
    noise = np.random.default_rng(turn).normal(0, 10, shape)
    return (hu + noise).astype(np.int16), affine


def tube(path: Path, radius: float, length: float = LENGTH + 4, **options: Any) -> None:
    mesh = pyvista.Cylinder(center=CENTRE, direction=(0, 0, 1), radius=radius, height=length, resolution=90, **options)
    mesh.triangulate().save(path)


@dataclass
class Cases:
    """A table of vessels and its files; ``a`` and ``b`` are two of one person in one volume."""

    root: Path

    @property
    def table(self) -> Path:
        return self.root / "cases" / "cases.csv"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def file(self, name: str) -> Path:
        return self.table.parent / name

    def write(self) -> None:
        for name in ("one", "two"):
            self.file(name).mkdir(parents=True)
        values, affine = phantom()
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1]) @ affine), self.file("one/ct.nii.gz"))
        shutil.copy(self.file("one/ct.nii.gz"), self.file("two/ct.nii.gz"))
        points = CENTRE + np.linspace(-LENGTH / 2, LENGTH / 2, 40)[:, None] * [0, 0, 1]
        for name, line, mesh in (("one", ".vtp", ".stl"), ("two", ".csv", ".ply")):
            self.write_line(f"{name}/line{line}", points)
            tube(self.file(f"{name}/lumen{mesh}"), LUMEN)
            tube(self.file(f"{name}/wall{mesh}"), WALL)
        one = {
            "volume": "one/ct.nii.gz",
            "centreline": "one/line.vtp",
            "lumen": "one/lumen.stl",
            "wall": "one/wall.stl",
        }
        two = {
            "volume": "two/ct.nii.gz",
            "centreline": "two/line.csv",
            "lumen": "two/lumen.ply",
            "wall": "two/wall.ply",
        }
        self.rows = [
            {"id": "a", "patient": "p1", **one, "artery": "LAD", "age": "61"},
            {"id": "c", "patient": "p2", **two, "artery": "RCA", "age": ""},
            {"id": "b", "patient": "p1", **one, "artery": "LCX", "age": "61"},
        ]
        self.save()

    def write_line(self, name: str, points: Array) -> None:
        if name.endswith(".csv"):
            self.file(name).write_text("x,y,z\n" + "\n".join(",".join(map(repr, row)) for row in points.tolist()))
        else:
            pyvista.lines_from_points(points).save(self.file(name))

    def save(self) -> None:
        with self.table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(chain(*self.rows))), restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def convert(self, **options: Any) -> Summary:
        progress = options.pop("progress", None)
        usual: dict[str, Any] = {"table": self.table, "size": SIZE, "spacing": SPACING, "start": 2}
        return CCTA(**usual | options).convert(self.out, progress)

    def read(self, name: str) -> list[dict[str, str]]:
        with (self.out / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def pixels(self, name: str) -> NDArray[np.uint8]:
        with Image.open(self.out / f"{name}.png") as file:
            assert file.mode == "L"
            return np.asarray(file)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    cases = Cases(tmp_path_factory.mktemp("ccta"))
    cases.write()
    cases.convert(angles=[0, 90])
    return cases


@pytest.fixture
def cases(original: Cases, tmp_path: Path) -> Cases:
    """A copy to be changed, not converted."""
    shutil.copytree(original.table.parent, tmp_path / "cases")
    copy = Cases(tmp_path)
    copy.rows = [dict(row) for row in original.rows]
    return copy


def mm2(mask: NDArray[np.uint8], name: str) -> float:
    return float((mask == BITS[name]).sum()) * SPACING**2


@pytest.mark.parametrize("id", ["a", "b", "c"])
def test_a_straight_vessel_has_its_widths_in_any_grid(original: Cases, id: str) -> None:
    image, mask = original.pixels(f"images/{id}_a000"), original.pixels(f"masks/{id}_a000")
    assert image.shape == mask.shape == SIZE
    length = SIZE[1] * SPACING
    assert set(np.unique(mask)) == {0, *BITS.values()}
    assert mm2(mask, "lumen") == pytest.approx(2 * LUMEN * length, rel=0.01)
    # The cross-section at angle 0 goes along x: calcified on one side, not on the other.
    assert mm2(mask, "calcified") == pytest.approx((WALL - LUMEN) * length, rel=0.15)
    assert mm2(mask, "noncalcified") == pytest.approx((WALL - LUMEN) * length, rel=0.15)
    assert (mask != 0).sum() * SPACING**2 == pytest.approx(2 * WALL * length, rel=0.01)
    calcified, other = (np.nonzero(mask == BITS[name])[0] for name in ("calcified", "noncalcified"))
    assert np.median(calcified) > SIZE[0] / 2 > np.median(other)
    # Grey values: -200 to 800 HU are 0 to 255.
    levels = {"lumen": 400, "noncalcified": 60, "calcified": 1000}
    for name, hu in levels.items():
        inner = np.median(image[mask == BITS[name]])
        assert inner == pytest.approx(min(255, (hu + 200) * 0.255), abs=25 if name == "noncalcified" else 8)


def test_the_table_keeps_what_is_known_and_says_what_was_measured(original: Cases) -> None:
    rows = original.read("metadata.csv")
    assert [row["id"] for row in rows] == ["a_a000", "a_a090", "b_a000", "b_a090", "c_a000", "c_a090"]
    first = rows[0]
    known = {"patient": "p1", "artery": "LAD", "age": "61", "vessel_id": "a", "angle_deg": "0.0"}
    assert known.items() <= first.items()
    assert float(first["lumen_hu"]) == pytest.approx(400, abs=25)
    assert 400 < float(first["calcium_hu"]) < 600
    assert {row["split"] for row in rows if row["patient"] == "p1"} == {assign("p1", Splits())}
    assert rows[-1]["age"] == ""
    assert not original.read("rejected.csv")


def test_a_dicom_series_and_points_of_the_rotterdam_evaluation_are_imported_too(cases: Cases, original: Cases) -> None:
    write_series(cases.file("two/series"), *phantom())
    points = CENTRE + np.linspace(-LENGTH / 2, LENGTH / 2, 40)[:, None] * [0, 0, 1]
    np.savetxt(cases.file("two/reference.txt"), np.column_stack([points, np.ones((40, 2))]))
    cases.rows[1] |= {"volume": "two/series", "centreline": "two/reference.txt"}
    cases.save()
    cases.convert()
    for name in ("images", "masks"):
        assert np.array_equal(cases.pixels(f"{name}/c_a000"), original.pixels(f"{name}/c_a000"))


def test_the_parts_of_the_table_are_kept(cases: Cases) -> None:
    for row, part in zip(cases.rows, ("test", "validation", "test"), strict=True):
        row["split"] = part
    cases.save()
    assert cases.convert().samples == {"test": 2, "validation": 1}
    assert {row["patient"]: row["split"] for row in cases.read("metadata.csv")} == {"p1": "test", "p2": "validation"}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders of the volumes that were read."""
    seen: list[str] = []
    real = ccta.read_volume

    def counted(path: Path) -> Any:
        seen.append(path.parent.name)
        return real(path)

    monkeypatch.setattr(ccta, "read_volume", counted)
    return seen


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_volume_is_read_once_for_all_its_vessels_and_angles(cases: Cases, read: list[str]) -> None:
    summary = cases.convert(angles=range(0, 180, 45), workers=3)
    assert read == ["one", "two"] or read == ["two", "one"]
    assert sum(summary.samples.values()) == 12


def test_an_interrupted_import_goes_on_and_ends_as_one_that_was_not(cases: Cases, original: Cases) -> None:
    def cut(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        for number, item in enumerate(items):
            if number == 5:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        cases.convert(angles=[0, 90], workers=1, progress=cut)
    assert not (cases.out / "metadata.csv").exists()
    assert list((cases.out / "images").iterdir())
    cases.convert(angles=[0, 90])
    ours, theirs = files(cases.out), files(original.out)
    for content in (ours, theirs):
        content.pop("journal.jsonl")  # has the times of files
    assert ours == theirs


def test_angles_are_added_and_only_what_has_changed_is_made_again(cases: Cases, read: list[str]) -> None:
    cases.convert()
    read.clear()
    cases.convert(angles=[0, 30])
    assert {row["angle_deg"] for row in cases.read("metadata.csv")} == {"0.0", "30.0"}
    before = cases.pixels("masks/c_a000")
    read.clear()
    cases.convert(angles=[0, 30])
    assert not read
    tube(cases.file("two/wall.ply"), WALL + 1)
    cases.convert(angles=[0, 30])
    assert read == ["two"]
    assert (cases.pixels("masks/c_a000") != 0).sum() > (before != 0).sum()
    cases.rows[1]["age"] = "48"
    cases.save()
    cases.convert(angles=[0, 30])
    rows = cases.read("metadata.csv")
    assert [row["age"] for row in rows if row["vessel_id"] == "c"] == ["48", "48"]
    assert len(rows) == 6
    cases.file("two/wall.ply").write_bytes(b"ply\n")  # what is spoilt since is no sample any more
    cases.convert(angles=[0, 30])
    assert {row["vessel_id"] for row in cases.read("metadata.csv")} == {"a", "b"}
    with pytest.raises(DataError) as error:
        cases.convert(window=(-100, 600))
    assert error.value.field == str(cases.out)


@pytest.mark.parametrize(
    ("rescaled", "kind"),
    [(lambda hu: np.abs(hu), "not Hounsfield units"), (lambda hu: hu - 340, "lumen without contrast agent")],
)
def test_volumes_that_are_rejected_do_not_stay_in_memory(
    cases: Cases, monkeypatch: pytest.MonkeyPatch, rescaled: Callable[[Any], Any], kind: str
) -> None:
    names = [f"{number}.nii.gz" for number in range(8)]
    for name in names:
        cases.file(name).symlink_to(cases.file("one/ct.nii.gz"))
    cases.rows += [cases.rows[0] | {"id": name[0], "volume": name} for name in names]
    cases.save()
    real = volumefile.read_nifti
    read: list[weakref.ref[Volume]] = []
    held = []

    def noted(path: Path) -> Volume:
        held.append(sum(one() is not None for one in read))
        found = real(path)
        if path.name in names:
            found = Volume(rescaled(found.values), found.affine)
        read.append(weakref.ref(found))
        return found

    monkeypatch.setattr(volumefile, "read_nifti", noted)
    gc.disable()
    try:
        summary = cases.convert(workers=1)
    finally:
        gc.enable()
    assert summary.left_out == {kind: 8}
    assert max(held) <= 2  # the one that is kept, and one that was not looked at yet


def shorten(cases: Cases) -> None:
    cases.write_line("two/line.csv", CENTRE + np.linspace(-9, 9, 20)[:, None] * [0, 0, 1])


def move(cases: Cases) -> None:
    points = CENTRE + np.linspace(-15, 15, 20)[:, None] * [0, 0, 1]
    cases.write_line("two/line.csv", points * [-1, -1, 1])


def move_all(cases: Cases) -> None:
    """Beside the vessel, in the fat."""
    for name in ("lumen", "wall"):
        mesh = pyvista.read(cases.file(f"two/{name}.ply"))
        mesh.translate((6, 0, 0)).save(cases.file(f"two/{name}.ply"))
    cases.write_line("two/line.csv", CENTRE + [6, 0, 0] + np.linspace(-15, 15, 20)[:, None] * [0, 0, 1])


def zigzag(cases: Cases) -> None:
    """As if along voxels of 0.4 mm, beside the vessel's middle by half of one."""
    points = CENTRE + np.linspace(-15, 15, 76)[:, None] * [0, 0, 1]
    points[::2, 0] += 0.4
    cases.write_line("two/line.csv", points)


def cut_volume(cases: Cases) -> None:
    path = cases.file("two/ct.nii.gz")
    path.write_bytes(path.read_bytes()[:-1000])


def swap(cases: Cases) -> None:
    cases.rows[1] |= {"lumen": "two/wall.ply", "wall": "two/lumen.ply"}
    cases.save()


def cell(column: str, text: str) -> Callable[[Cases], None]:
    def change(cases: Cases) -> None:
        cases.rows[1][column] = text
        cases.save()

    return change


FAULTS: dict[str, tuple[Callable[[Cases], object], str, str]] = {
    "no volume": (lambda c: c.file("two/ct.nii.gz").unlink(), "file missing", "two/ct.nii.gz: no such file (volume)"),
    "no cell": (cell("wall", ""), "file missing", "no file in column 'wall'"),
    "outside": (cell("lumen", "../lumen.ply"), "unusable path", "lumen is '../lumen.ply', which leads out"),
    "long name": (cell("lumen", f"{300 * 'x'}.ply"), "file missing", "xx.ply: no such file (lumen)"),
    "cut volume": (cut_volume, "volume unreadable", "two/ct.nii.gz: cannot read this NIfTI file"),
    "cut mesh": (
        lambda c: c.file("two/wall.ply").write_bytes(c.file("two/wall.ply").read_bytes()[:-60]),
        "mesh unreadable",
        "two/wall.ply: cut off",
    ),
    "no points": (
        lambda c: c.file("two/line.csv").write_text("x,y,z\n"),
        "centreline unreadable",
        "two/line.csv: holds a header and no points",
    ),
    "two points": (
        lambda c: c.file("two/line.csv").write_text("1,2,3\n1,2,9\n"),
        "centreline unusable",
        "two/line.csv: the centreline has 2 different points",
    ),
    "far away": (
        lambda c: c.write_line("two/line.csv", 1e12 * np.arange(12.0).reshape(4, 3) ** 2),
        "centreline unusable",
        "two/line.csv: the centreline has coordinates of up to 1.21e+14 mm",
    ),
    "zigzag": (zigzag, "centreline too jagged", "two/line.csv: the centreline turns by up to"),
    "short": (shorten, "vessel shorter than the crop", "two/line.csv: the centreline is 18.0 mm long"),
    "open mesh": (
        lambda c: tube(c.file("two/lumen.ply"), LUMEN, capping=False),
        "mesh not closed",
        "two/lumen.ply: the mesh is not a closed surface",
    ),
    "short mesh": (
        lambda c: tube(c.file("two/wall.ply"), WALL, 18),
        "mesh shorter than the crop",
        "two/wall.ply: the mesh is in 75% of the image's columns, expected 95%",
    ),
    "short lumen": (
        lambda c: tube(c.file("two/lumen.ply"), LUMEN, 18),
        "mesh shorter than the crop",
        "two/lumen.ply: from the first to the last that the mesh is in are 75% of the image's columns, expected 95%",
    ),
    "exchanged": (swap, "lumen outside the wall", "two/lumen.ply: 40% of the lumen is outside"),
    "other coordinates": (move, "coordinates confused", "in the table (centreline_in = RAS mm)"),
    "in fat": (move_all, "lumen without contrast agent", "two/lumen.ply: the lumen has"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_one_vessel_leaves_it_out(cases: Cases, fault: str) -> None:
    damage, kind, reason = FAULTS[fault]
    damage(cases)
    summary = cases.convert()
    assert sum(summary.samples.values()) == 2
    assert summary.left_out == {kind: 1}
    (row,) = cases.read("rejected.csv")
    assert (row["id"], row["kind"]) == ("c_a000", kind)
    assert reason in row["reason"]


def test_a_vessel_may_be_occluded_in_between(cases: Cases, original: Cases) -> None:
    whole = pyvista.read(cases.file("two/lumen.ply"))
    parts = []
    for side in (-1, 1):
        part = whole.copy()
        part.points = (part.points - CENTRE) * [1, 1, 0.4] + CENTRE + [0, 0, side * 0.3 * (LENGTH + 4)]
        parts.append(part)
    parts[0].append_polydata(parts[1]).save(cases.file("two/lumen.ply"))
    assert not cases.convert().left_out
    occluded = (cases.pixels("masks/c_a000") & BITS["lumen"]).max(axis=0) == 0
    assert occluded.mean() == pytest.approx(0.2 * (LENGTH + 4) / (SIZE[1] * SPACING), abs=0.03)
    ours, before = cases.pixels("masks/c_a000"), original.pixels("masks/c_a000")
    assert np.array_equal(ours[:, ~occluded], before[:, ~occluded])
    assert np.array_equal(ours != 0, before != 0)


def test_a_zigzag_is_smoothed(cases: Cases, original: Cases, capsys: pytest.CaptureFixture[str]) -> None:
    zigzag(cases)
    words = ["--table", str(cases.table), "--out", str(cases.out), "--size", "32x96", "--start", "2"]
    assert main(["import", "ccta", *words, "--smooth", "0.2"]) == 0
    assert "3  images converted" in capsys.readouterr().out
    for name in BITS:
        before = mm2(original.pixels("masks/c_a000"), name)
        assert mm2(cases.pixels("masks/c_a000"), name) == pytest.approx(before, rel=0.1)
    assert main(["import", "ccta", *words, "--smooth", "0.3"]) == 1
    assert "other settings: smooth was 0.2" in capsys.readouterr().err


def test_coordinates_that_are_confused_throughout_are_told_and_read_with_ras(cases: Cases) -> None:
    for name in ("one/line.vtp", "one/lumen.stl", "one/wall.stl", "two/lumen.ply", "two/wall.ply"):
        mesh = pyvista.read(cases.file(name))
        mesh.points *= [-1, -1, 1]
        mesh.save(cases.file(name))
    move(cases)
    with refused(DataError, Code.EMPTY, cases.out):
        cases.convert()
    assert "centreline_in = RAS mm and meshes_in = RAS mm" in cases.read("rejected.csv")[0]["reason"]
    shutil.rmtree(cases.out)
    assert sum(cases.convert(ras=True).samples.values()) == 3


RAS = np.array([-1.0, -1, 1])


def write_stl(path: Path, mesh: pyvista.PolyData, title: str) -> None:
    """A binary STL file with a header of its own."""
    triangles = np.zeros(mesh.n_cells, np.dtype([("n", "<f4", 3), ("corners", "<f4", (3, 3)), ("a", "<u2")]))
    triangles["corners"] = mesh.points[mesh.faces.reshape(-1, 4)[:, 1:]]
    path.write_bytes(title.encode().ljust(80) + len(triangles).to_bytes(4, "little") + triangles.tobytes())


def write_in(path: Path, mesh: pyvista.PolyData, space: str, binary: bool) -> None:
    """Poly data in the coordinates that the file says, in the manner of 3D Slicer."""
    title = f"3D Slicer output. SPACE={space}"
    mesh = mesh.copy()
    mesh.points = mesh.points * (RAS if space == "RAS" else 1)
    if path.suffix == ".vtp":
        mesh.field_data["SPACE"] = [space]
    mesh.save(path, binary=binary)
    content = path.read_bytes()
    match path.suffix:
        case ".stl" if binary:
            write_stl(path, mesh, title)
        case ".stl":
            path.write_bytes(f"solid {title}\n".encode() + content.partition(b"\n")[2])
        case ".ply":
            path.write_bytes(content.replace(b"\nelement", b"\ncomment x\ncomment " + title.encode() + b"\nelement", 1))
        case ".vtk":
            first, _, rest = content.partition(b"\n")
            path.write_bytes(first + b"\n" + title.encode() + b"\n" + rest.partition(b"\n")[2])


@pytest.mark.parametrize("ras", [False, True])
@pytest.mark.parametrize("space", ["RAS", "LPS"])
@pytest.mark.parametrize("suffix", [".stl", ".ply", ".vtk", ".vtp"])
@pytest.mark.parametrize("binary", [True, False])
def test_coordinates_are_what_the_file_says(tmp_path: Path, suffix: str, space: str, binary: bool, ras: bool) -> None:
    ball = pyvista.Sphere(center=(30, -50, 80), theta_resolution=8, phi_resolution=8)
    silent, telling = tmp_path / f"silent{suffix}", tmp_path / f"telling{suffix}"
    ball.save(silent, binary=binary)
    write_in(telling, ball, space, binary)
    expected, found = read_surface(silent), read_surface(telling, ras)
    apart = cdist(found.vertices, expected.vertices).min(axis=1)
    assert len(apart) == len(expected.vertices)
    assert apart.max() <= (0 if binary else 1e-3)
    assert found.frame.space == space
    meant = read_surface(telling, frame=Frame("RAS" if space == "LPS" else "LPS"))  # the user knows better
    assert meant.vertices.mean(axis=0) == pytest.approx(found.vertices.mean(axis=0) * RAS)
    if suffix in (".vtk", ".vtp"):
        line = pyvista.lines_from_points(ball.points)
        write_in(telling, line, space, binary)
        assert read_centreline(telling, ras).points == pytest.approx(ball.points, abs=0 if binary else 1e-3)
    if suffix == ".vtk":  # as a field, if it was .vtp before
        ball.field_data["a"] = ["x" * 200, "%41"]
        ball.field_data["SPACE"] = [space]
        ball.save(telling, binary=binary)
        assert read_surface(telling).frame.space == space


def test_coordinates_of_a_table_of_points_are_what_a_comment_says(tmp_path: Path) -> None:
    points = np.arange(12.0).reshape(4, 3)
    for name, comment in (("a.csv", "# CoordinateSystem = RAS"), ("a.txt", "#SPACE=RAS")):
        rows = ["# exported", comment, *((", " if name == "a.csv" else " ").join(map(str, row)) for row in points)]
        (tmp_path / name).write_text("\n".join(rows))
        assert np.array_equal(read_centreline(tmp_path / name).points, points * RAS)
    (tmp_path / "a.txt").write_text("# SPACE=scanner\n1 2 3\n4 5 6\n")
    with pytest.raises(Rejected, match="SPACE=scanner, expected LPS or RAS"):
        read_centreline(tmp_path / "a.txt")
    assert read_centreline(tmp_path / "a.txt", frame=Frame("LPS")).points[0].tolist() == [1, 2, 3]


def test_meshes_that_say_they_are_ras_give_the_same_image(cases: Cases, original: Cases) -> None:
    for name in ("lumen.stl", "wall.stl", "line.vtp"):
        write_in(cases.file(f"one/{name}"), pyvista.read(cases.file(f"one/{name}")), "RAS", binary=True)
    assert not cases.convert().left_out
    for name in ("images", "masks"):
        assert np.array_equal(cases.pixels(f"{name}/a_a000"), original.pixels(f"{name}/a_a000"))


@pytest.mark.parametrize("columns", [["meshes_in"], ["centreline_in"], ["meshes_in", "centreline_in"]])
@pytest.mark.parametrize("frame", ["RAS", "cm", "m", "RAS cm", "RAS m"])
def test_coordinates_that_nothing_says_are_found_and_said_in_the_table(
    cases: Cases, original: Cases, columns: list[str], frame: str
) -> None:
    cases.rows = [row for row in cases.rows if row["id"] != "b"]
    for name, column in (("line.vtp", "centreline_in"), ("lumen.stl", "meshes_in"), ("wall.stl", "meshes_in")):
        if column in columns:
            mesh = pyvista.read(cases.file(f"one/{name}"))
            mesh.points = mesh.points.astype(np.float64) / parse_frame(frame).of_file("", False).vector
            mesh.save(cases.file(f"one/{name}"))
    cases.save()
    assert cases.convert().left_out == {"coordinates confused": 1}
    (row,) = cases.read("rejected.csv")
    said = dict(re.findall(r"(\w+) = (\w+ \w+)", row["reason"]))
    assert set(said) == set(columns)
    cases.rows[0] |= said
    cases.save()
    assert not cases.convert().left_out
    ours, before = (one.pixels("images/a_a000").astype(int) for one in (cases, original))
    assert np.abs(ours - before).max() <= 2  # files hold numbers of 32 bits
    assert (cases.pixels("masks/a_a000") != original.pixels("masks/a_a000")).mean() < 0.005


def test_a_vessel_that_lies_nowhere_has_no_diagnosis(cases: Cases) -> None:
    for name in ("lumen", "wall"):
        path = cases.file(f"one/{name}.stl")
        pyvista.read(path).translate((25, 0, 0)).save(path)
    assert cases.convert().left_out == {"mesh elsewhere": 2}


def test_files_beside_a_series_are_told_of_each_image(cases: Cases) -> None:
    write_series(cases.file("two/series"), *phantom())
    cases.file("two/series/LICENSE").write_text("free")
    cases.rows[1]["volume"] = "two/series"
    cases.save()
    summary = cases.convert()
    assert "LICENSE" in summary.warning
    assert [row["id"] for row in cases.read("warnings.csv")] == ["c_a000"]


TABLES: dict[str, tuple[Callable[[list[dict[str, str]]], object], Code, str]] = {
    "no column": (lambda rows: [row.pop("wall") for row in rows], Code.MISSING, "column 'wall'"),
    "taken column": (
        lambda rows: [row.update(angle_deg="0") for row in rows],
        Code.DUPLICATE,
        "column 'angle_deg'",
    ),
    "no id": (lambda rows: rows[1].update(id=""), Code.MISSING, "line 3: id"),
    "two of an id": (lambda rows: rows[2].update(id="a"), Code.DUPLICATE, "line 4: id"),
    "no part": (
        lambda rows: [row.update(split="train" if row["id"] == "c" else "val") for row in rows],
        Code.INVALID,
        "line 2: split",
    ),
    "coordinates": (lambda rows: rows[0].update(meshes_in="RAS inch"), Code.INVALID, "line 2: meshes_in"),
    "twice": (lambda rows: rows[0].update(centreline_in="RAS LPS"), Code.INVALID, "line 2: centreline_in"),
    "two parts": (
        lambda rows: [row.update(split="train" if row["id"] == "a" else "") for row in rows],
        Code.CONFLICT,
        "line 4: split",
    ),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_table_that_cannot_be_says_where(cases: Cases, fault: str) -> None:
    damage, code, field = TABLES[fault]
    damage(cases.rows)
    cases.save()
    with refused(DataError, code, f"cases.csv: {field}"):
        cases.convert()
    assert not cases.out.exists()


def test_other_things_that_cannot_be(cases: Cases, tmp_path: Path) -> None:
    with refused(DataError, Code.MISSING, "--table"):
        CCTA(table=tmp_path / "none.csv")
    with refused(DataError, Code.DUPLICATE, "--angles"):
        cases.convert(angles=[30, 390.01])
    with refused(DataError, Code.INVALID, "--spacing"):
        cases.convert(spacing=0)
    with refused(DataError, Code.INVALID, "--smooth"):
        cases.convert(smooth=-1)


def test_angles_have_names() -> None:
    assert label_angles([0, 22.5, -45, 120]) == {"a000": 0, "a022.5": 22.5, "a315": 315, "a120": 120}
    assert label_angles([359.97, 180 / 7, -0.12]) == {"a000": 0, "a025.7": 25.7, "a359.9": 359.9}
    assert label_angles([-1e-12]) == {"a000": 0}
    for angles, code in (([0, 359.97], Code.DUPLICATE), ([np.nan], Code.OUT_OF_RANGE), ([], Code.MISSING)):
        with refused(DataError, code, "--angles"):
            label_angles(angles)


def test_a_pixel_is_what_covers_most_of_it() -> None:
    # of lumen, calcified, non-calcified plaque
    shares = [(0.6, 0.4, 0), (0.4, 0, 0.5), (0.35, 0.3, 0.3), (0.2, 0.15, 0.15), (0, 0.9, 0), (0, 0, 0)]
    assert to_bits(np.array(shares).T[:, None]).tolist() == [[1, 2, 1, 0, 4, 0]]


def test_the_command(cases: Cases, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--table", str(cases.table), "--out", str(cases.out), "--size", "32x96", "--start", "2"]
    assert main(["import", "ccta", *words, "--sweep", "2", "--window", "-100", "700", "--calcium-floor", "1200"]) == 0
    assert "6  images converted, of 2 people" in capsys.readouterr().out
    mask = cases.pixels("masks/a_a090")
    assert not mm2(mask, "calcified")
    assert float(cases.read("metadata.csv")[0]["calcium_hu"]) == 1200
    assert main(["import", "ccta", *words, "--window", "100", "-100"]) == 1
    assert "--window: 100 is not below -100" in capsys.readouterr().err


def test_thresholds_are_settings(cases: Cases) -> None:
    cases.convert()
    with pytest.raises(DataError) as error:
        cases.convert(calcium_floor=300, calcium_deviations=2)
    assert "threshold" in error.value.text


@pytest.mark.parametrize(
    ("package", "file"), [("nibabel", "one/ct.nii.gz"), ("pyvista", "one/line.vtp"), ("pyvista", "two/lumen.ply")]
)
def test_a_package_that_is_not_installed_is_named(
    cases: Cases, monkeypatch: pytest.MonkeyPatch, package: str, file: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    cases.rows = [row for row in cases.rows if file in row.values()]
    cases.save()
    with refused(DataError, Code.NOT_INSTALLED, file):
        cases.convert()
    assert not cases.out.exists()


def test_a_series_with_points_and_stl_meshes_needs_no_package(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(cases.file("two/series"), *phantom())
    cases.rows = [cases.rows[1] | {"volume": "two/series", "lumen": "one/lumen.stl", "wall": "one/wall.stl"}]
    cases.save()
    for package in ("nibabel", "pyvista", "vtkmodules"):
        monkeypatch.setitem(sys.modules, package, None)
    assert sum(cases.convert().samples.values()) == 1
