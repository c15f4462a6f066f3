"""A registry is whole for whoever looks into it: threads at once, and beside installed packages that do not load."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from refused import refused
from segcft.cli import main
from segcft.errors import Code, SegcftError
from segcft.importers.importer import IMPORTERS
from segcft.utils.registry import Registry


class Thing:
    """One of the registry's."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Thing]]:
    """Of a package ``things`` with the modules ``a`` and ``b``, which each add one of their name."""
    package = tmp_path / "things"
    package.mkdir()
    (package / "__init__.py").write_text("meet = lambda: None\n")
    for name in "ab":
        (package / f"{name}.py").write_text(
            f"import things\nclass Own: pass\nthings.meet()\nthings.registry.add('{name}', Own())\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    things = importlib.import_module("things")
    things.registry = Registry("thing", "things")
    yield things.registry
    for name in ("things", "things.a", "things.b", "broken"):
        sys.modules.pop(name, None)


def plug_in(folder: Path, **modules: str) -> None:
    """Install a package with these modules, each of which is a plug-in."""
    info = folder / "plugs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[segcft]\n" + "".join(f"{name} = {name}\n" for name in modules))
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


def test_threads_that_look_things_up_at_once_find_them(registry: Registry[Thing]) -> None:
    import things  # type: ignore[import-not-found]

    loading, go_on = threading.Event(), threading.Event()

    def meet() -> None:
        loading.set()
        go_on.wait(timeout=60)

    things.meet = meet
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(registry.find, "b")
        assert loading.wait(timeout=60)
        second, names = pool.submit(registry.find, "b"), pool.submit(lambda: [*registry])
        threading.Timer(0.2, go_on.set).start()  # by when both look
        assert second.result() is first.result()
        assert names.result() == ["a", "b"]


def test_modules_that_look_into_the_registry_while_it_is_loaded_see_what_is_there(registry: Registry[Thing]) -> None:
    import things

    seen: list[list[str]] = []
    things.meet = lambda: seen.append([*registry])
    assert [*registry] == ["a", "b"]
    assert seen == [[], ["a"]]


def test_whoever_is_imported_first_does_not_change_the_order(registry: Registry[Thing]) -> None:
    registry.add("own", Thing())
    importlib.import_module("things.b")
    assert [*registry] == ["a", "b", "own"]
    registry.add("later", Thing())
    assert [*registry] == ["a", "b", "own", "later"]


@pytest.mark.parametrize("plug", ["import not_there", "import things; things.registry.add('a', things)", "1 / 0"])
def test_a_plug_in_that_does_not_load_is_named_whenever_it_is_in_the_way(
    registry: Registry[Thing], tmp_path: Path, plug: str
) -> None:
    plug_in(tmp_path, broken=plug)
    for _ in range(2):
        with refused(SegcftError, Code.FAILED, "plug-in 'broken' (broken)"):
            registry.find("c")
        with refused(SegcftError, Code.FAILED, "plug-in 'broken' (broken)"):
            list(registry)
    assert registry.find("a") is not None  # it is not in the way of what is there


def test_a_name_that_is_taken_says_by_whom(registry: Registry[Thing]) -> None:
    registry.find("a")
    with pytest.raises(SegcftError, match=r"things\.a") as caught:
        registry.add("a", Thing())
    assert caught.value.code == Code.DUPLICATE


def test_the_command_line_names_a_plug_in_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(tmp_path, broken="import not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(IMPORTERS, "_loaded", False)
    assert main(["import", "formatless", "--out", "x"]) == 1
    assert "segcft: error: plug-in 'broken'" in capsys.readouterr().err
