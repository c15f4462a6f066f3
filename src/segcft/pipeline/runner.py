"""The stages from images to the table: what each one needs and makes.

Every part carries the key of all that it was made from (settings, data, parts before it), so a stage is skipped
exactly when running it again would give the same, and an interrupted one goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import segcft
from segcft.causal.scm import StructuralCausalModel
from segcft.config.section import Training
from segcft.counterfactual.finetune import CounterfactualObjective, constraint_level
from segcft.data.batches import Batches, sequential
from segcft.data.grey import to_unit
from segcft.data.store import Store
from segcft.errors import RunError
from segcft.image_models.mechanism import ImageMechanism
from segcft.image_models.objective import LikelihoodObjective
from segcft.image_models.typicality import typical_ranges
from segcft.measures.measurements import Measurements
from segcft.pipeline.importing import check_values, import_samples
from segcft.pipeline.judging import UNKNOWN_PEOPLE, evaluate_people
from segcft.pipeline.run import Run
from segcft.readers.regressor import RegressorObjective
from segcft.readers.segmentor import SegmentorObjective, dice
from segcft.training import artefact
from segcft.training.loop import Objective, freeze, train
from segcft.utils.atomic import write_text
from segcft.utils.digest import key_of
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class SCMObjective(Objective):
    """Negative log-likelihood of the attributes, nats a person."""

    network: StructuralCausalModel

    def __init__(self, network: StructuralCausalModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return -self.network.log_prob(batch["values"]).sum(dim=1).mean(), {}


class Pipeline:
    """Runs the stages of one study in one folder.

    Args:
        run: the folder and its study.
        fabric: the hardware.
        data: folder of images, masks and table, for studies that read one.
        progress: what the user sees.
        compile: have PyTorch compile the image mechanism for its trainings.
        split: whom the evaluation is on, "test" or "validation" people.
        lock: held while a stage runs (default: the folder's, so that one process at a time works in it).

    Raises:
        RunError: when a stage is to run, another process works in the folder.
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
        return ("import", *self.run.parts, "evaluate")

    def needs(self, stage: str) -> tuple[str, ...]:
        """The stages whose outcome ``stage`` uses."""
        if stage == "import":
            return ()
        if stage in ("segmentor", "judge", "regressor", "scm", "hvae"):
            return ("import",)
        if stage.startswith("cft-"):
            return ("import", "scm", "hvae", stage.removeprefix("cft-"))
        return tuple(s for s in self.stages if s not in ("evaluate", "segmentor", "regressor"))

    def run_all(self) -> None:
        """Every stage that is not up to date."""
        with self.lock:
            self.run_stage("import")
            check_values(self.study, self.store)
            for stage in self.stages:
                self.run_stage(stage)

    def run_stage(self, stage: str) -> None:
        """One stage, unless it is up to date, after all that it needs."""
        if stage in self.keys:
            return
        with self.lock:
            for before in self.needs(stage):
                self.run_stage(before)
            self._run_one(stage)

    def _run_one(self, stage: str) -> None:
        start = time.monotonic()
        if stage == "import":
            made = self._import()
        elif stage == "evaluate":
            made = self._evaluate()
        else:
            made = self._train(stage)
        self.progress.note(f"{stage}: {f'done in {time.monotonic() - start:.0f} s' if made else 'up to date'}")

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = self.run.store()
        return self._store

    def _import(self) -> bool:
        fresh = self.fabric.is_global_zero and import_samples(self.run, self.data, self.progress)
        if self.fabric.is_global_zero and not fresh:
            self.run.store(verify=True)  # once a run: the trainings read it by parts, and see no damage
        self.fabric.barrier()
        self.keys["import"] = self.store.fingerprint
        return fresh

    def is_current(self, stage: str) -> bool:
        """Whether a stage after the import is up to date; if so its key enters :attr:`keys`, where those of the
        stages that it needs must be.

        Raises:
            RunError: it was adopted with other settings or samples than the run's.
        """
        key = self.key(stage)
        meta = self._meta(stage)
        if "source" in meta:
            key = self._adopted_key(self.run.path(stage), meta, key)
        if meta.get("key") != key:
            return False
        self.keys[stage] = key
        return True

    def _meta(self, stage: str) -> dict[str, Any]:
        """What is recorded of the outcome of ``stage``; {} where there is none."""
        if stage != "evaluate":
            path = self.run.path(stage)
            return artefact.read_meta(path) if path.is_file() else {}
        try:
            return dict(json.loads(self._evaluation_record.read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    @property
    def _evaluation_record(self) -> Path:
        return self.run.evaluation_of(self.split) / "evaluation.json"

    def _train(self, stage: str) -> bool:
        if self.is_current(stage):
            self.drop_checkpoint(stage)
            return False
        if self.run.path(stage).is_file():
            self.progress.note(f"{stage}: made anew, since its settings, the samples or an earlier part changed")
        start = time.monotonic()
        guide = stage.removeprefix("cft-") if stage.startswith("cft-") else None
        spec = self._spec(stage)
        key = self.key(stage)
        network = self.run.build(stage)
        # Readers of images need no attributes, and the mechanisms learn from those that are known.
        complete = stage not in ("segmentor", "judge", "regressor", "scm")
        batches = self._batches(spec, complete)
        if self.compile and isinstance(network, ImageMechanism):
            network.compile_passes()
        objective, facts = self._objective(stage, network, spec, batches, guide)
        figures = train(
            objective,
            batches,
            spec,
            self.fabric,
            folder=self.run.training,
            name=stage,
            key=key,
            progress=self.progress,
        )
        self._keep(stage, network, key, figures | facts, start)
        return True

    def _spec(self, stage: str) -> Any:
        """The section of the study that a stage after the import is of."""
        section = "finetune" if stage.startswith("cft-") else {"evaluate": "evaluation"}.get(stage, stage)
        return getattr(self.study, section)

    def _adopted_key(self, path: Path, meta: Mapping[str, Any], settings_key: str) -> str:
        """The key of a part that was adopted; what was not made here is never made anew in its stead.

        Raises:
            RunError: it was adopted with other settings or samples than ``settings_key`` is of.
        """
        if meta.get("settings_key") != settings_key:
            raise RunError(
                f"{path}: was imported from {meta['source'].get('checkpoint')}, and the settings, the samples or "
                "segcft's version changed since: import it again, or remove this file to train the image mechanism"
            )
        return str(meta["key"])

    def adopt_image_mechanism(self, load: Callable[[Any], dict[str, Any]]) -> None:
        """Take the image mechanism from elsewhere instead of training it; the stage is then up to date.

        ``load`` gives the network its weights and returns what to record of where they come from: the path
        "checkpoint", its "sha256", the "parents" as they were given, and more.
        """
        with self.lock:
            self.run_stage("import")
            self._adopt(load)

    def _adopt(self, load: Callable[[Any], dict[str, Any]]) -> None:
        start = time.monotonic()
        network: Any = self.run.build("hvae")
        rows = self.store.indices("train", complete=True)
        network.parents.set_statistics(torch.from_numpy(self.store.values()[rows]))
        source = load(network)
        settings_key = self.key("hvae")
        network.to(self.fabric.device)
        # Other weights from the same settings: what was made from those before must be made anew. Not the path: a
        # checkpoint that was moved is the same.
        key = key_of(settings_key, source["sha256"], source["parents"])
        self._keep("hvae", network, key, {}, start, {"source": source, "settings_key": settings_key})
        self.progress.note(f"warning: {UNKNOWN_PEOPLE}")

    def _keep(
        self,
        stage: str,
        network: nn.Module,
        key: str,
        figures: dict[str, float],
        start: float,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Validate and save the part that ``stage`` has made since the time ``start``; ``record`` adds to its meta."""
        freeze(network)
        if self.fabric.is_global_zero:
            metrics = figures | self._validate(stage, network)
            meta = {
                "part": stage,
                "key": key,
                "made_from": {before: self.keys[before] for before in self.needs(stage)},
                "version": segcft.__version__,
                "torch": torch.__version__,
                "device": str(self.fabric.device),
                "compile": self.compile and isinstance(network, ImageMechanism),
                "data": self.store.fingerprint,
                "seconds": round(time.monotonic() - start, 1),
                "metrics": metrics,
                "study": self.study.model_dump(mode="json"),
                **(record or {}),
            }
            if isinstance(network, ImageMechanism):
                typical = typical_ranges(network, self.store, self.study.evaluation.batch_size)
                meta |= {"usual": typical.model_dump()} if typical else {}
            artefact.save(self.run.path(stage), network, meta)
            self.drop_checkpoint(stage)
            self.progress.note(f"  {stage}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        self.fabric.barrier()
        self.keys[stage] = key

    def drop_checkpoint(self, stage: str) -> None:
        """Remove what ``stage``, which is done, needed to go on; a killed process may have left it, or half of it."""
        if self.fabric.is_global_zero:
            for left in ("", ".partial"):
                (self.run.training / f"{stage}.checkpoint{left}").unlink(missing_ok=True)

    def key(self, stage: str) -> str:
        """Of all that the outcome of ``stage`` depends on; the keys of what it needs must be in :attr:`keys`."""
        study = self.study.model_dump(mode="json")
        shared = [study[name] for name in ("image", "variables", "structures")]
        upstream = {before: self.keys[before] for before in self.needs(stage)}
        return key_of(stage, segcft.__version__, self._settings(self._spec(stage)), shared, upstream)

    def _settings(self, spec: Any) -> dict[str, Any]:
        """What of a section decides the outcome: not which stages there are, nor how often they save or recompute.

        An architecture's name says nothing that its settings do not: no two architectures have the same ones.
        """
        return spec.model_dump(mode="json", exclude={"guides", "checkpoint_steps", "recompute", "architecture"})

    def _batches(self, spec: Training, complete: bool) -> Batches:
        rows = self.store.indices("train", complete)
        fabric = self.fabric
        return Batches(self.store, rows, spec.batch_size, spec.seed, rank=fabric.global_rank, world=fabric.world_size)

    def _objective(
        self, stage: str, network: Any, spec: Any, batches: Batches, guide: str | None
    ) -> tuple[Objective, dict[str, float]]:
        """What ``stage`` minimises, and facts about it to record."""
        study, device = self.study, self.fabric.device
        values = torch.from_numpy(self.store.values()[batches.indices])
        if stage in ("segmentor", "judge"):
            return SegmentorObjective(network, spec), {}
        if stage == "regressor":
            network.set_statistics(values[:, study.measured_columns])
            return RegressorObjective(network, spec, Measurements.of(study)), {}
        if stage == "scm":
            network.set_statistics(values)
            return SCMObjective(network), {}
        if stage == "hvae":
            network.parents.set_statistics(values)
            return LikelihoodObjective(network, study), {}
        artefact.load(self.run.path("hvae"), network)
        network.to(device)
        bound = constraint_level(network, study, batches, self.fabric) + study.finetune.slack
        assert guide is not None
        scm, reader = self.run.load("scm", device), self.run.load(guide, device)
        objective = CounterfactualObjective(network, scm, reader, spec, study, values.to(device), bound)
        return objective, {"bound": bound}

    @torch.no_grad()
    def _validate(self, stage: str, network: nn.Module) -> dict[str, float]:
        """Figures on the validation people, whom no training step has seen; {} where there are none."""
        rows = self.store.indices("validation", complete=stage in ("scm", "hvae"))
        if len(rows) == 0 or stage.startswith("cft-"):
            return {}
        measure = self._measures()[stage]
        torch.manual_seed(0)
        found = []
        for batch in sequential(self.store, rows, self.study.evaluation.batch_size):
            found.append(measure(network, {k: v.to(self.fabric.device) for k, v in batch.items()}))
        # Who lacks a structure has no overlap with it, which is NaN.
        return {name: float(torch.cat([f[name] for f in found]).nanmean()) for name in found[0]}

    def _measures(self) -> dict[str, Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]]:
        areas = self.study.measured_columns
        structures = list(self.study.structures)

        def reading(network: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            true = batch["values"][:, areas]
            error = (network.read(to_unit(batch["image"])) - true).abs()
            return {f"validation_area_error_{s}": error[:, i] for i, s in enumerate(structures)}

        def segmentation(network: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            overlap = dice((network(to_unit(batch["image"])) > 0).float(), (batch["mask"] >= 128).float())
            return reading(network, batch) | {f"validation_dice_{s}": overlap[:, i] for i, s in enumerate(structures)}

        def likelihood(network: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            density = network.log_density(to_unit(batch["image"]), batch["values"])
            return {} if density is None else {"validation_bits_per_pixel": -density / np.log(2)}

        def attributes(network: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"validation_nats_per_person": -network.log_prob(batch["values"]).sum(dim=1)}

        return {
            "segmentor": segmentation,
            "judge": segmentation,
            "regressor": reading,
            "scm": attributes,
            "hvae": likelihood,
        }

    def _evaluate(self) -> bool:
        if self.is_current("evaluate"):
            return False
        key, record = self.key("evaluate"), self._evaluation_record
        if self.fabric.is_global_zero:
            record.unlink(missing_ok=True)  # it is of what is now replaced, file by file
            with Lock(record.parent):  # which `segcft evaluate` also writes to
                evaluate_people(self.run, self.store, record.parent, self.fabric.device, self.progress, self.split)
                write_text(record, json.dumps({"key": key, "data": self.store.fingerprint}))
        self.fabric.barrier()
        self.keys["evaluate"] = key
        return True
