"""The documentation: `make docs` builds it with warnings as errors; here is what that does not see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)[^)\s]*\)")
PAGES = ["README.md", "benchmarks/README.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_links_to_exist(page: str) -> None:
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if ":" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_every_module_but_the_command_line_is_in_the_reference() -> None:
    files = ROOT.joinpath("src/segcft").rglob("*.py")
    modules = {".".join(file.relative_to(ROOT / "src").with_suffix("").parts) for file in files}
    public = {name for name in modules if not name.endswith("__init__") and not name.startswith("segcft.cli")}
    reference = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
    assert public == set(re.findall(r"automodule:: (segcft\.\S+)", reference))
