"""Runs the stages of one study, from images to the table.

Every outcome carries the key of all that it was made from (settings, data, what it needed), so a stage is skipped
exactly when its key is that of the outcome that is there, and an interrupted one goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segcft.data.batches import Batch
from segcft.data.store import Store
from segcft.errors import Code, StudyError
from segcft.pipeline.importing import check_values
from segcft.pipeline.run import Run
from segcft.pipeline.stage import STAGES, Stage, stages_of
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Pipeline:
    """Runs the stages of one study in one folder.

    Args:
        run: the folder and its study.
        fabric: the hardware.
        data: folder of images, masks and table, for studies that read one.
        progress: what the user sees.
        compile: have PyTorch compile the image mechanism for its trainings.
        split: the part that is evaluated, "test" or "validation".
        lock: held while a stage runs (default: the folder's, so that one process at a time works in it).

    Raises:
        RunError: the folder is a published model, or of a run in folds; or, when a stage is to run, another process
            works in it.
    """

    def __init__(
        self,
        run: Run,
        fabric: Fabric,
        data: Path | None = None,
        progress: Progress | None = None,
        compile: bool = False,
        split: str = "test",
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        run.require_unpublished()
        run.require_one()
        self.run, self.study, self.fabric, self.data, self.compile = run, run.study, fabric, data, compile
        self.split = split
        # Of several processes one speaks.
        self.progress = progress if progress and fabric.is_global_zero else Progress()
        alone = lock if lock is not None else Lock(run.folder)
        self.lock: AbstractContextManager[Any] = alone if fabric.is_global_zero else nullcontext()
        self.keys: dict[str, str] = {}
        """The key of every stage that is known to be up to date."""
        self._store: Store | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """All stages in order."""
        return tuple(stage.name for stage in stages_of(self.study))

    def stage(self, name: str) -> Stage:
        """The stage of this name.

        Raises:
            StudyError: the study has none.
        """
        stage = STAGES.get(name)
        if stage is None or not stage.is_in(self.study):
            field = stage.switch if stage else name
            raise StudyError(Code.UNKNOWN, field, f"this study has no stage {name!r}, only {', '.join(self.stages)}")
        return stage

    def needs(self, stage: str) -> tuple[str, ...]:
        """The stages whose outcome ``stage`` uses."""
        return STAGES[stage].needs(self.study)

    def dependants(self, stage: str) -> set[str]:
        """All stages that cannot begin before ``stage`` is done."""
        direct = {other for other in self.stages if stage in self.needs(other)}
        return direct.union(*map(self.dependants, direct))

    def key(self, stage: str) -> str:
        """Of all that the outcome of ``stage`` depends on; the keys of what it needs must be in :attr:`keys`."""
        return STAGES[stage].key(self)

    @property
    def store(self) -> Store:
        """The run's samples, once they are imported."""
        if self._store is None:
            self._store = self.run.store()
        return self._store

    def on_device(self, batch: Batch) -> Batch:
        """A batch where the networks are."""
        return {field: value.to(self.fabric.device) for field, value in batch.items()}

    def run_all(self) -> None:
        """Every stage that is not up to date."""
        with self.lock:
            self.run_stage("import")
            check_values(self.study, self.store)
            for stage in self.stages:
                self.run_stage(stage)

    def run_stage(self, stage: str) -> None:
        """One stage, unless it is up to date, after all that it needs.

        Raises:
            StudyError: the study has no such stage.
        """
        self.stage(stage)
        if stage in self.keys:
            return
        with self.lock:
            for before in self.needs(stage):
                self.run_stage(before)
            self.run_next(stage)

    def run_next(self, stage: str) -> None:
        """One stage, unless it is up to date; what it needs is."""
        start = time.monotonic()
        made = STAGES[stage].run(self)
        self.progress.note(f"{stage}: {f'done in {time.monotonic() - start:.0f} s' if made else 'up to date'}")

    def is_current(self, stage: str) -> bool:
        """Whether a stage after the import is up to date; if so its key enters :attr:`keys`, where those of the
        stages that it needs must be.

        Raises:
            RunError: its outcome is damaged, or came from elsewhere and does not fit any more.
        """
        key = STAGES[stage].current_key(self)
        if key is not None:
            self.keys[stage] = key
        return key is not None

    def forget(self, stages: Iterable[str]) -> None:
        """Make these stages, and those that depend on them, out of date whatever their keys: as after a change of code,
        which keys do not cover. A later process runs them, too.

        What depends on the import runs again if the import finds other samples: their fingerprint is its key.

        Raises:
            StudyError: the study has no such stage.
            RunError: one came from elsewhere and cannot be made here.
            DataError: the samples cannot be imported again, as their folder is not given.
        """
        chosen = {self.stage(name).name for name in stages}
        for name in chosen - {"import"}:
            chosen = chosen | self.dependants(name)
        with self.lock:
            if self.fabric.is_global_zero:
                again = [STAGES[name] for name in self.stages if name in chosen]
                for stage in again:  # all, before the first is touched
                    stage.check_forget(self)
                for stage in again:
                    stage.forget(self)
                    self.progress.note(f"{stage.name}: will be made again")
            self.fabric.barrier()
