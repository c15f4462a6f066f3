"""What `pip install segcft` brings: wheel and source distribution, in an environment without this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src")


def build(folder: Path, kind: str, out: Path) -> Path:
    """The distribution that the backend of pyproject.toml makes of a folder."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return out / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return build(folder, "build_sdist", folder / "out")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of the source distribution, as pip does where there is no wheel."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return build(unpacked, "build_wheel", folder / "out")


def test_a_wheel_has_all_files_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("segcft/")}
    source = ROOT / "src"
    own = {
        path.relative_to(source).as_posix()
        for path in (source / "segcft").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert packed == own
    assert "segcft/py.typed" in packed


def test_it_works_where_only_the_wheel_is(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(place)]
    subprocess.run([*install, str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    model = ROOT / "models" / "chest-sim"
    code = f"""\
import segcft

assert segcft.__file__.startswith({str(place)!r}), segcft.__file__
model = segcft.load({str(model)!r})
answer = model.counterfactual({str(model / "examples" / "1.png")!r}, do={{"heart_area": "+10%"}})
assert answer.image.shape == answer.original.shape
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    shown = [sys.executable, "-m", "segcft", "results", str(model), "--out", "results.md"]
    subprocess.run(shown, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "results.md").is_file()
