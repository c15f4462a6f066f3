"""An importer from outside of the package is one file; options are declared once."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from refused import refused
from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.errors import Code, DataError, SegcftError
from segcft.importers.convert import Converted, Summary, convert
from segcft.importers.folder import import_folder
from segcft.importers.formats.ccta import CCTA
from segcft.importers.formats.dicom import DICOM
from segcft.importers.formats.jsrt import JSRT
from segcft.importers.importer import IMPORTERS, Importer
from segcft.importers.options import COUNT, FLAG, SIZE, TABLE, number, option
from segcft.io.reject import Excluded
from segcft.utils.progress import Progress


@dataclass(frozen=True)
class Scan:
    id: str
    file: Path
    age: str


@dataclass(frozen=True, kw_only=True)
class Toy(Importer):
    """Scans are arrays of NumPy; what is brighter than ``threshold`` is the heart."""

    name = "toy"
    summary = "make a folder of toy scans"

    table: Path = option(TABLE, "a row a scan: id, file and age")
    size: tuple[int, int] = option(SIZE, "of the images, in pixels", (32, 32))
    threshold: float = option(number(low=0, high=255), "above which the heart is, of 100 %", 128.0, unit="grey")
    ages: tuple[float, float] = option(number(low=0, high=130), "that are kept", (0, 130), many="pair")
    invert: bool = option(FLAG, "white is air", False)
    limit: int | None = option(COUNT, "scans at most", None, setting="")

    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        with self.table.open(newline="") as file:
            scans = [Scan(row["id"], self.table.parent / row["file"], row["age"]) for row in csv.DictReader(file)]
        scans = scans[: self.limit]
        return convert(
            scans,
            len(scans),
            self.read,
            out,
            settings=self.settings,
            splits=self.splits,
            workers=self.workers,
            progress=progress,
        )

    def read(self, scan: Scan) -> Converted:
        if not self.ages[0] <= float(scan.age) <= self.ages[1]:
            raise Excluded("age", f"age is {scan.age}")
        picture = Image.fromarray(np.load(scan.file)).resize(self.size[::-1])
        pixels: NDArray[np.uint8] = 255 - np.asarray(picture) if self.invert else np.asarray(picture)
        return Converted(scan.id, scan.id, pixels, (pixels > self.threshold).astype(np.uint8), {"age": scan.age})


@pytest.fixture
def scans(tmp_path: Path) -> Iterator[Path]:
    """A table of scans, while the importer is known."""
    IMPORTERS.add("toy", Toy)
    y, x = np.mgrid[:48, :48]
    with (tmp_path / "scans.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "file", "age"])
        for number in range(20):
            disc = np.hypot(y - 24, x - 24) < 8 + number / 2
            np.save(tmp_path / f"{number}.npy", (200 * disc).astype(np.uint8))
            writer.writerow([f"scan{number:02}", f"{number}.npy", 30 + number])
    yield tmp_path / "scans.csv"
    IMPORTERS._things.pop("toy")


def test_an_importer_from_outside_writes_what_a_study_imports(
    scans: Path, small_study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scans.parent / "out"
    words = ["import", "toy", "--table", str(scans), "--out", str(out), "--threshold", "99", "--ages", "0", "48"]
    assert main(words) == 0
    assert "19  images converted" in capsys.readouterr().out
    settings = json.loads((out / "journal.jsonl").read_text().splitlines()[0])["settings"]
    assert settings.pop("splits")["seed"] == 0
    assert settings == {"format": "toy", "size": [32, 32], "threshold": 99, "ages": [0, 48], "invert": False}
    small = yaml.safe_load(small_study_file.read_text())
    raw = small | {
        "image": {"size": [32, 32]},
        "variables": {
            "age": {"kind": "continuous"},
            "heart_area": {"kind": "continuous", "scale": "log", "parents": ["age"]},
        },
        "structures": {"heart": {"variable": "heart_area", "bit": 1}},
        "data": {"source": "folder"},
        "finetune": small["finetune"] | {"intervene": []},
        "evaluation": {},
    }
    store = import_folder(parse_study(raw), out, scans.parent / "store", split="test")
    assert list(store.table["age"]) == list(range(30, 49))
    assert np.all(np.diff(store.table["heart_area"]) > 0)
    assert main([*words, "--seed", "0", "--workers", "1", "--limit", "3"]) == 0  # of no consequence for the result
    assert main([*words, "--invert"]) == 1
    assert "other settings: invert was false and is true" in capsys.readouterr().err


def test_what_is_declared_is_help(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "toy", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "--table FILE a row a scan: id, file and age --",
        "--size HxW of the images, in pixels (default: 32x32)",
        "--threshold GREY above which the heart is, of 100 % (default: 128)",
        "--ages LOW HIGH that are kept (default: 0 130)",
        "--invert white is air --",
        "--limit N scans at most",
        "--seed N of the split by patient (default: 0)",
    ):
        assert words in shown
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    shown = capsys.readouterr().out
    for name, importer in IMPORTERS.items():
        assert name in shown
        assert importer.summary in shown


def status(words: list[str]) -> object:
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"threshold": 256}, "--threshold"),
        ({"threshold": float("nan")}, "--threshold"),
        ({"size": (0, 8)}, "--size"),
        ({"ages": (9, 131)}, "--ages"),
        ({"ages": (60, 60)}, "--ages"),
        ({"limit": 0}, "--limit"),
        ({"limit": 1.5}, "--limit"),
        ({"workers": 0}, "--workers"),
    ],
)
def test_what_is_declared_is_checked_in_python_and_on_the_command_line(
    scans: Path, options: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with refused(DataError, Code.INVALID, name):
        Toy(table=scans, **options)
    ((_, value),) = options.items()
    texts = ["x".join(map(str, value))] if name == "--size" else [str(one) for one in np.ravel(value)]
    words = ["import", "toy", "--table", str(scans), "--out", str(scans.parent / "out"), name, *texts]
    assert status(words) in (1, 2)  # 1: of values each of which is one
    assert name in capsys.readouterr().err
    assert not (scans.parent / "out").exists()


def test_a_missing_file_and_a_missing_module_are_told(scans: Path) -> None:
    with refused(DataError, Code.MISSING, "--table"):
        Toy(table=scans.with_name("none.csv"))

    @dataclass(frozen=True, kw_only=True)
    class Needy(Toy):
        needs = ("no_such_module",)

    with refused(DataError, Code.NOT_INSTALLED, "import toy"):
        Needy(table=scans)


def test_a_name_is_taken_once(scans: Path) -> None:
    with refused(SegcftError, Code.DUPLICATE, "importer 'jsrt'"):
        IMPORTERS.add("jsrt", Toy)


@pytest.mark.parametrize("name", ["padchest", "jsrt", "dicom", "ccta"])
def test_help_imports_nothing_heavy(name: str) -> None:
    code = "import sys; from segcft.cli import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "import", name, "--help"], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"torch", "pandas", "numpy", "pydantic", "PIL", "pydicom"} & set(loaded)


def test_settings_are_those_of_earlier_journals(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").touch()
    assert CCTA(table=tmp_path / "cases.csv", sweep=4, workers=3).settings == {
        "format": "ccta",
        "size": (64, 384),
        "spacing": 0.25,
        "start": 0.0,
        "smooth": 0.0,
        "window": (-200.0, 800.0),
        "threshold": {"floor": 350.0, "deviations": 3.0},
        "ras": False,
    }
    assert DICOM(folder=tmp_path, salt="secret", views=("PA",)).settings == {
        "format": "dicom",
        "size": (256, 256),
        "window": None,
        "views": ("PA",),
        "naming": "digest",
        "keep_patients": False,
    }
    assert JSRT(images=tmp_path, masks=tmp_path, clinical=(tmp_path / "cases.csv",)).settings == {
        "format": "jsrt",
        "size": (256, 256),
        "window": (0.5, 99.5),
    }
