"""An importer from outside of the package, that of docs/how-to-add/importer.md: its options are declared once.

tests/test_how_to_add.py follows the page.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refused import refused
from segcft.cli import main
from segcft.errors import Code, DataError, SegcftError
from segcft.importers.convert import UNREADABLE
from segcft.importers.formats.ccta import CCTA
from segcft.importers.formats.dicom import DICOM
from segcft.importers.formats.jsrt import JSRT
from segcft.importers.importer import IMPORTERS
from segcft.importers.options import COUNT, FLAG, number, option
from tests import howto


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's table of scans, while its importer is known, with a few options more."""
    monkeypatch.chdir(tmp_path)
    howto.write_files("importer", tmp_path)
    page = howto.load(tmp_path / "toy.py")
    runpy.run_path("make_scans.py")

    @dataclass(frozen=True, kw_only=True)
    class Toy(page.Toy):
        ages: tuple[float, float] = option(number(low=0, high=130), "that are kept", (0, 130), many="pair")
        invert: bool = option(FLAG, "white is air", False)
        limit: int | None = option(COUNT, "scans at most", None, setting="")

    IMPORTERS._things["toy"] = Toy
    yield tmp_path / "scans" / "scans.csv"
    IMPORTERS._things.pop("toy")


def test_a_folder_is_gone_on_with_if_its_settings_are_the_same(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import", "toy", "--table", str(scans), "--out", "out", "--threshold", "99"]
    assert main(words) == 0
    settings = json.loads(Path("out", "journal.jsonl").read_text().splitlines()[0])["settings"]
    assert settings.pop("splits")["seed"] == 0
    expected = {"format": "toy", "size": [32, 32], "threshold": 99, "youngest": 18, "ages": [0, 130], "invert": False}
    assert settings == expected
    assert main([*words, "--seed", "0", "--workers", "1", "--limit", "3"]) == 0  # of no consequence for the result
    assert main([*words, "--threshold", "120"]) == 1
    assert "other settings: threshold was 99" in capsys.readouterr().err


def test_a_damaged_file_is_left_out_and_told_of(scans: Path) -> None:
    scans.with_name("50.npy").write_bytes(b"")
    scans.with_name("51.npy").write_bytes(b"\x93NUMPY")
    assert main(["import", "toy", "--table", str(scans), "--out", "out"]) == 0
    left_out = [line.split(",") for line in Path("out", "rejected.csv").read_text().splitlines()]
    assert [id for id, kind, *_ in left_out if kind == UNREADABLE] == ["scan50", "scan51"]


def test_what_is_declared_is_help(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "toy", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "--table FILE a row a scan: id, file and age --",
        "--size HxW of the images, in pixels (default: 32x32)",
        "--threshold GREY above which the heart is (default: 128)",
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
        IMPORTERS["toy"](table=scans, **options)
    ((_, value),) = options.items()
    texts = ["x".join(map(str, value))] if name == "--size" else [str(one) for one in np.ravel(value)]
    words = ["import", "toy", "--table", str(scans), "--out", str(scans.parent / "out"), name, *texts]
    assert status(words) in (1, 2)  # 1: of values each of which is one
    assert name in capsys.readouterr().err
    assert not (scans.parent / "out").exists()


def test_a_missing_file_and_a_missing_module_are_told(scans: Path) -> None:
    with refused(DataError, Code.MISSING, "--table"):
        IMPORTERS["toy"](table=scans.with_name("none.csv"))

    @dataclass(frozen=True, kw_only=True)
    class Needy(IMPORTERS["toy"]):
        needs = ("no_such_module",)

    with refused(DataError, Code.NOT_INSTALLED, "import toy"):
        Needy(table=scans)


def test_a_name_is_taken_once(scans: Path) -> None:
    with refused(SegcftError, Code.DUPLICATE, "importer 'jsrt'"):
        IMPORTERS.add("jsrt", IMPORTERS["toy"])


@pytest.mark.parametrize("name", ["padchest", "jsrt", "dicom", "ccta", "acdc"])
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
