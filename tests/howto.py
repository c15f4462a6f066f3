"""The pages "How to add", to the letter: their files are written and their commands run outside of the package."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "how-to-add"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.\w+)(?:: a copy of (\S+) with these sections)?")
"""The first line of a block that is a file, or that has some sections of one."""

FOLLOW = """\
import runpy, shlex, sys
from segcft.cli import main
for line in sys.stdin:
    print("$", line, end="", flush=True)
    program, *words = shlex.split(line, comments=True)
    if program == "segcft":
        status = main(words)
    else:
        assert program == "python", line
        sys.argv = words
        sys.path.insert(0, "")
        try:
            status = runpy.run_path(words[0], run_name="__main__") and 0
        except SystemExit as end:
            status = end.code
    if status:
        sys.exit(f"{line} ended with {status}")
"""
"""What runs commands one after the other, in one process: to import PyTorch takes longer than most of them."""


class Page(NamedTuple):
    """What a page has its reader do: ``files`` to write, by name, ``commands`` to give, and what is ``seen`` then."""

    files: dict[str, str]
    commands: list[str]
    seen: list[str]


def read_page(name: str) -> Page:
    """The blocks of the page ``docs/how-to-add/NAME.md``."""
    files, commands, seen = {}, [], []
    for language, text in BLOCK.findall((PAGES / f"{name}.md").read_text(encoding="utf-8")):
        if file := FILE.match(text):
            files[file[1]] = _with_sections(file[2], text) if file[2] else text
        elif language == "sh":
            commands += text.splitlines()
        elif language == "text":
            seen += text.splitlines()
    return Page(files, commands, seen)


def _with_sections(file: str, sections: str) -> str:
    whole = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    return yaml.safe_dump(whole | yaml.safe_load(sections), sort_keys=False)


def write_files(name: str, folder: Path) -> str:
    """Write the files of a page into ``folder``; returns the name of the module that the page is about, its first."""
    files = read_page(name).files
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return next(Path(file).stem for file in files if file.endswith(".py"))


def load(file: Path) -> ModuleType:
    """The module in a file of a page, imported, which makes it known in this process."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def install(module: str, folder: Path) -> None:
    """What ``pip install -e .`` does: entry points of the index's pyproject.toml are written beside the module."""
    project = tomllib.loads(read_page("index").files["pyproject.toml"].replace("NAME", module))
    about = project["project"]
    info = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    points = [
        line
        for group, found in about["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in found.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    assert project["tool"]["setuptools"]["py-modules"] == [module]


def give(commands: list[str], folder: Path) -> str:
    """Give the commands in ``folder``, in which the repository's studies and models are; returns what they print."""
    for name in ("configs", "models"):
        (folder / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW],
        input="\n".join(commands) + "\n",
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def check_seen(expected: list[str], printed: str) -> None:
    """Assert that the lines are printed, in this order; "..." stands for anything."""
    rest = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected:
        pattern = ".*".join(map(re.escape, " ".join(line.split()).split("...")))
        assert any(re.search(pattern, one) for one in rest), f"{line!r} is not in, or not in its place of\n{printed}"


def follow(name: str, folder: Path, small_run: Path | None = None) -> None:
    """Do all that the page says in ``folder``. ``small_run`` is a run of configs/small.yaml, if it need not be made."""
    if small_run is not None:
        shutil.copytree(small_run, folder / "runs" / "small")
    page = read_page(name)
    install(write_files(name, folder), folder)
    check_seen(page.seen, give(page.commands, folder))
