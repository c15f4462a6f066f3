"""Make an environment that borrows what this Python has, PyTorch above all, and installs what is missing.

    python benchmarks/gpu/environment.py FOLDER

needs nothing but the standard library and a PyTorch that is there already, which is never replaced. What is missing
comes in the versions of constraints.txt; where nothing is, no network is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TESTING = ("pytest", "hypothesis")
"""What the tests that need CUDA import beside segcft's own dependencies."""


def main(folder: Path) -> None:
    """Make or complete the environment in ``folder``.

    Raises:
        SystemExit: it cannot be; the message says what to do.
    """
    versions = {_normal(one.name): one.version for one in distributions() if one.name}
    if "torch" not in versions:
        raise SystemExit(f"{sys.executable} has no PyTorch; name a Python that has it: make gpu PYTHON=PATH")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = borrow(folder)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins((ROOT / "constraints.txt").read_text(encoding="utf-8"), versions)) + "\n")
    # One try: without a network the answer is to come at once.
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "10",
    ]
    if subprocess.run([*command, "-c", constraints, *project["dependencies"], *TESTING]).returncode:
        raise SystemExit(
            "What is missing could not be installed (see above). It needs a package index: the network, or a folder of "
            "wheels: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER make gpu"
        )


def borrow(folder: Path) -> Path:
    """An environment in ``folder`` that sees all packages of this Python, be this an environment too; its Python."""
    python = folder / "bin" / "python"
    here = [path for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")} if path]
    borrowed = "\n".join(sorted(here)) + "\n"
    record = folder / "borrowed"
    if not (python.exists() and record.exists() and record.read_text() == borrowed):
        has_pip = any(_normal(one.name) == "pip" for one in distributions() if one.name)
        venv.EnvBuilder(
            system_site_packages=True, clear=True, symlinks=os.name == "posix", with_pip=not has_pip
        ).create(folder)
        # Of an environment `system_site_packages` would see the Python below it alone.
        places: Any = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(places) / "borrowed.pth").write_text(borrowed)
        record.write_text(borrowed)
    return python


def pins(constraints: str, versions: dict[str, str]) -> list[str]:
    """The constraints of what is not there yet, and PyTorch as it is there."""
    lines = [line for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    missing = [line for line in lines if _normal(line.partition("==")[0]) not in versions]
    return [f"torch=={versions['torch']}", *missing]


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
