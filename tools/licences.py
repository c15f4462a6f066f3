"""The licences of everything that segcft is installed with, as their packages state them; those not known are refused.

python -m tools.licences            check, and print the page
python -m tools.licences --write    check, and write docs/licences.md
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"

ALLOWED = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
        *("CC0-1.0", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
    }
)
"""SPDX identifiers (and BSD of an unstated number of clauses) under which anybody may use, change and pass on a package
beside code of another licence. MPL-2.0 asks for changes of its own files to be published, and of nothing else."""

NVIDIA = ("nvidia-", "cuda-")
"""How the packages begin that come with PyTorch's builds for CUDA alone; the page speaks of them as a whole."""

SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "ISC license": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What packages of before SPDX call their licences -> what SPDX does."""

STATED_ELSEWHERE = {
    "docutils": ("BSD-2-Clause", "its COPYING.rst: public domain and BSD-2-Clause; the GPL is of a mode for Emacs"),
}
"""Package -> its licence where its metadata lists what is not of the installed code, and where that is said."""


def installed(requirements: Sequence[str]) -> Iterator[Distribution]:
    """The installed packages that the requirements lead to, directly or not, each once, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in map(Requirement, requirements)]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # of an extra that was not asked for when it was installed
        found[name] = package
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(line), wanted) for line in package.requires or ()]
    yield from (found[name] for name in sorted(found) if not name.startswith(NVIDIA))


def requirements() -> list[str]:
    """What ``make`` installs beside segcft itself: its dependencies and those of the extra ``test``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines, extras = list(project["dependencies"]), ["test"]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == "segcft":
                extras += sorted(requirement.extras)
            else:
                lines.append(line)
    return lines


def licence(package: Distribution) -> str:
    """What the package states: its SPDX expression, else its classifiers, else the first line of its licence."""
    name = canonicalize_name(package.name)
    if name in STATED_ELSEWHERE:
        return STATED_ELSEWHERE[name][0]
    metadata = package.metadata

    def first_line(field: str) -> str:
        return (metadata[field] or "").strip().partition("\n")[0] if field in metadata else ""

    if expression := first_line("License-Expression"):
        return expression
    text = first_line("License")
    if spdx := SPELLINGS.get(text, text if text in ALLOWED or re.search(r" (AND|OR) ", text) else ""):
        return spdx
    stated = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License :: ")]
    return " AND ".join(SPELLINGS.get(one, one) for one in stated) or text or "none stated"


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be satisfied: all parts of AND, one part of OR."""
    # OR binds here as if in parentheses, which never allows more than the expression does.
    return all(
        any(choice.strip(" ()") in ALLOWED for choice in part.split(" OR ")) for part in expression.split(" AND ")
    )


def page(packages: Sequence[Distribution]) -> str:
    """Every package and its licence, in Markdown."""
    rows = "\n".join(f"| {package.name} | {licence(package)} |" for package in packages)
    return f"""\
# Licences

segcft is under the Apache License 2.0. What `make` installs it with, dependencies of dependencies included, is under
the licences below, as each package states them. `make licences` writes this page, and the tests refuse a package whose
licence is not among these: {", ".join(sorted(ALLOWED))}.
Builds of PyTorch for CUDA bring NVIDIA's libraries besides, under licences of NVIDIA's own.

The extras `dicom` and `padchest` are not part of that. **`pylibjpeg-libjpeg`, of the extra `dicom`, is under the
GPL 3.0**: whoever passes on a program together with it has to heed that. segcft does not need it: without it, DICOM
files that are compressed by other methods than JPEG, JPEG 2000 and RLE are refused with a reason.

| package | licence |
| --- | --- |
{rows}
"""


def main() -> int:
    """0, or 1 where a licence is not allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/licences.md")
    options = parser.parse_args()
    packages = list(installed(requirements()))
    refused = [f"{package.name}: {licence(package)}" for package in packages if not is_allowed(licence(package))]
    if refused:
        print("licences that are not allowed:", *refused, sep="\n  ", file=sys.stderr)
        return 1
    if options.write:
        PAGE.write_text(page(packages), encoding="utf-8")
    else:
        print(page(packages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
