"""The layout of the package: no import runs upwards, no circle, nothing too long; and the map sees each of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.map import faults, imports, main, modules


def test_the_package_has_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().out


def write(folder: Path, files: dict[str, str]) -> list[str]:
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    known = modules(folder)
    return faults(known, imports(known), folder)


def test_what_runs_upwards_or_in_a_circle_is_found_even_inside_a_function(tmp_path: Path) -> None:
    files = {
        "config/study.py": "def late():\n    from segcft.api.model import Model\n",
        "api/model.py": "class Model: ...\n",
        "io/one.py": "import segcft.io.two\n",
        "io/two.py": "from segcft.io import one\n",
    }
    wrong = write(tmp_path, files)
    assert [line.partition(":")[0] for line in wrong] == ["config.study", "circle"]


def test_types_alone_and_the_package_itself_may_be_named_anywhere(tmp_path: Path) -> None:
    upward = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from segcft.api.model import Model\n"
    files = {"config/study.py": f"{upward}import segcft\n", "api/model.py": "from segcft.config.study import Study\n"}
    assert write(tmp_path, files) == []


def test_what_is_long_says_why(tmp_path: Path) -> None:
    long = "def f():\n" + "    pass\n" * 90
    wrong = write(tmp_path, {"io/a.py": long, "io/b.py": "x = 1\n" * 401, "new/c.py": ""})
    assert {line.partition(":")[0] for line in wrong} == {"io.a.f", "io.b", "new.c"}
    excused = {
        "io/a.py": long.replace(":\n", ":\n    # Long because it is a test.\n", 1),
        "io/b.py": "# Long because it is a test.\n" * 401,
    }
    assert write(tmp_path / "other", excused) == []
