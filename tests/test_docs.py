"""The documentation: `make docs` builds it with warnings as errors; here is what that does not see."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tools.map import LAYERS, SOURCE

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)[^)\s]*\)")
PATH = re.compile(r"(?<![\w/.*-])([\w/*-]+\.py)\b")
MODULE = re.compile(r"\bsegcft((?:\.\w+)+)")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| \d+ \| (.*?) \|", re.MULTILINE)
PAGES = [
    *("README.md", "CONTRIBUTING.md", "benchmarks/README.md"),
    *(
        str(path.relative_to(ROOT))
        for glob in ("*.md", "how-to-add/*.md")
        for path in sorted(ROOT.glob(f"docs/{glob}"))
    ),
]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_links_to_exist(page: str) -> None:
    links = LINK.findall(text_of(page))
    missing = [link for link in links if ":" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_the_modules_that_a_page_names_exist(page: str) -> None:
    text = text_of(page)
    own = re.findall(r"^# (\w+\.py)$", text, re.MULTILINE)  # files that the reader is to write
    paths = set(PATH.findall(BLOCK.sub("", text))) - set(own)
    missing = [path for path in paths if not any(any(folder.glob(path)) for folder in (ROOT, SOURCE, ROOT / "tests"))]
    for names in MODULE.findall(text):
        try:
            resolve("segcft" + names)
        except (ImportError, AttributeError):
            missing.append("segcft" + names)
    assert not missing


def resolve(name: str) -> object:
    """The module, or what in it, of a dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        parent, _, last = name.rpartition(".")
        if not parent:
            raise error
        return getattr(resolve(parent), last)


def test_the_map_is_that_of_the_code() -> None:
    text = text_of("docs/architecture.md")
    rows = [tuple(re.findall(r"`(\w+)`", cell)) for cell in ROW.findall(text)]
    assert rows == list(LAYERS)
    packages = "|".join(name for layer in LAYERS for name in layer)
    for names in re.findall(rf"`((?:{packages})\.\w+)`", text):
        assert resolve(f"segcft.{names}")
