"""Files and folders are replaced whole: whenever a writer is killed, the old one or the new one is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refused import refused
from segcft.data.store import Store
from segcft.errors import Code, DataError, WriteError
from segcft.importers.convert import convert
from segcft.importers.converted import Converted
from segcft.pipeline.importing import import_samples, take_samples
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.utils.atomic import put, recover, replaced_folder, sync, whole_folder, written
from segcft.utils.progress import Progress

STEPS = ("rename", "replace", "fsync")
"""Calls of the system at which a writer is killed."""


class Killed(BaseException):
    """What no ``except`` handles: the end of a process."""


@contextmanager
def killed_at(number: int) -> Iterator[Callable[[], bool]]:
    """In here the call ``number``, from 0, of :data:`STEPS` ends the work, and nothing is tidied up. Gives a function
    that tells whether it was reached."""
    calls, patch = count(), pytest.MonkeyPatch()
    reached = False

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal reached
            if next(calls) >= number:
                reached = True
                raise Killed
            return call(*arguments, **options)

        return step

    def removed(folder: Path, ignore_errors: bool = False) -> None:
        if reached:  # a process that was killed removes nothing any more
            raise Killed
        remove(folder, ignore_errors=ignore_errors)

    remove = shutil.rmtree
    for name in STEPS:
        patch.setattr(os, name, counted(getattr(os, name)))
    patch.setattr(shutil, "rmtree", removed)
    try:
        yield lambda: reached
    finally:
        patch.undo()


def each_kill(prepare: Callable[[Path], object], work: Callable[[Path], object], tmp_path: Path) -> Iterator[Path]:
    """A folder for every step of ``work``, which was killed there; the last one is that of a work that was not."""
    for number in count():
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare(folder)
        with killed_at(number) as reached:
            with suppress(Killed):
                work(folder)
            done = not reached()
        yield folder
        if done:
            assert number > 2  # there were steps to be killed at
            return


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> content of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def path_of(handle: int) -> str:
    """Of an open file."""
    return os.readlink(f"/proc/self/fd/{handle}")


def fill(folder: Path, text: str) -> None:
    (folder / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (folder / name).write_text(text)


def test_a_folder_is_the_old_one_or_the_new_one_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        with replaced_folder(folder / "out") as partial:
            fill(partial, "new")

    seen = []
    for folder in each_kill(lambda folder: fill(folder / "out", "old"), work, tmp_path):
        recover(folder / "out")
        found = contents(folder / "out")
        assert found.keys() == {"a", "deep/b"}
        assert len(set(found.values())) == 1
        seen.append(found["a"])
        work(folder)
        assert contents(folder / "out")["a"] == b"new"
    assert seen == sorted(seen, reverse=True)  # b"old" up to some step, b"new" from there on
    assert {*seen} == {b"old", b"new"}


def test_a_file_is_the_old_one_or_the_new_one_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        with written(folder / "file") as partial:
            partial.write_text("new")

    for folder in each_kill(lambda folder: (folder / "file").write_text("old"), work, tmp_path):
        assert (folder / "file").read_text() in ("old", "new")
    assert (folder / "file").read_text() == "new"


def test_what_takes_its_place_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (order.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append("in place"), rename(a, b)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("in place"), replace(a, b)))
    with replaced_folder(tmp_path / "out") as partial:
        fill(partial, "new")
    synced = {Path(path).name for path in order[: order.index("in place")]}
    assert synced >= {"a", "b", "deep", partial.name}
    assert order[-1] == str(tmp_path)  # the name of the new one, too
    order.clear()
    (tmp_path / "file.partial").write_text("new")
    put(tmp_path / "file.partial", tmp_path / "file")
    assert order == [str(tmp_path / "file.partial"), "in place", str(tmp_path)]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(KeyError), replaced_folder(tmp_path / "out"):
        raise KeyError("something else")
    assert contents(tmp_path / "out") == {"a": b"old", "deep/b": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_is_replaced_again_and_again(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "old")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        with replaced_folder(tmp_path / "out") as partial:
            fill(partial, "new")
    assert contents(tmp_path / "out")["a"] == b"new"
    assert contents(tmp_path / "elsewhere")["a"] == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "elsewhere"}


def test_a_whole_folder_overwrites_nothing_not_even_what_a_kill_moved_aside(tmp_path: Path) -> None:
    fill(tmp_path / ".out.replaced", "old")
    with refused(DataError, Code.EXISTS, "out"), whole_folder(tmp_path / "out"):
        pytest.fail("it may be written")
    assert contents(tmp_path / "out")["a"] == b"old"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        refused(WriteError, Code.NOT_WRITABLE, tmp_path / "file" / "deep"),
        written(tmp_path / "file" / "deep"),
    ):
        pytest.fail("it may be written")


def test_what_is_read_only_can_be_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o400)
    sync(tmp_path / "file")


# --- what replaces folders and images ---


def test_a_published_model_is_the_old_one_or_the_new_one(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("none", "segmentor"):
        publish(small_run, tmp_path / method, [method])
    old, new = contents(tmp_path / "none"), contents(tmp_path / "segmentor")

    def written_before(run: Run, store: Store, folder: Path, *_: object) -> None:
        shutil.copytree(tmp_path / "segmentor", folder, dirs_exist_ok=True)

    def prepare(folder: Path) -> None:
        shutil.copytree(tmp_path / "none", folder / "model")

    monkeypatch.setattr("segcft.pipeline.publish._write_model", written_before)  # for speed
    seen = []
    for folder in each_kill(prepare, lambda folder: publish(small_run, folder / "model", ["segmentor"]), tmp_path):
        recover(folder / "model")
        seen.append(contents(folder / "model"))
        assert seen[-1] in (old, new)
    assert (seen[0], seen[-1]) == (old, new)


def test_shared_samples_are_the_old_ones_or_the_new_ones(small_run: Run, make_small_study: Any, tmp_path: Path) -> None:
    other = make_small_study({"data.seed": 5, "data.people": 20})
    import_samples(Run(tmp_path / "before", other), None, Progress())
    old = Run(tmp_path / "before").store().fingerprint

    def work(folder: Path) -> None:
        take_samples(Run(folder / "run", small_run.study), None, [small_run])

    seen = set()
    for folder in each_kill(
        lambda folder: shutil.copytree(tmp_path / "before", folder / "run") and None, work, tmp_path
    ):
        recover(folder / "run" / "store")
        run = Run(folder / "run", small_run.study)
        seen.add(run.store(verify=True).fingerprint)
        work(folder)
        assert run.store().fingerprint == small_run.store().fingerprint
    assert seen == {old, small_run.store().fingerprint}


def test_a_run_goes_on_with_the_samples_that_a_kill_moved_aside(small_run: Run, tmp_path: Path) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    (run.folder / "store").rename(run.folder / ".store.replaced")
    assert not import_samples(run, None, Progress())
    assert run.store(verify=True).fingerprint == small_run.store().fingerprint


def test_an_image_of_a_conversion_is_on_the_disk_before_the_journal_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(Path(path_of(handle)).name))

    class Item:
        def __init__(self, id: str) -> None:
            self.id = id

    def read(item: Item) -> Converted:
        for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()[1:]:
            assert f"{json.loads(line)['row']['id']}.png.partial" in synced
        return Converted(item.id, item.id, np.full((4, 4), 9, np.uint8), np.ones((4, 4), np.uint8))

    items = [Item(f"{number}") for number in range(12)]
    convert(items, len(items), read, tmp_path / "out", settings={}, workers=1)
    assert {f"{number}.png.partial" for number in range(12)} <= synced
