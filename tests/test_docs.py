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
