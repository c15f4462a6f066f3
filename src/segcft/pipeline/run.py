"""A run's folder: its study, its data and its trained parts.

study.yaml                the study, whole
store/                    the imported samples
segmentor.safetensors     the guide of Seg-CFT, and of users' own images
judge.safetensors         the independent segmentor of the evaluation
regressor.safetensors     the guide of Reg-CFT
scm.safetensors           mechanisms of the attributes
hvae.safetensors          mechanism of the image, pre-trained ("No CFT")
cft-<guide>.safetensors   the same after fine-tuning with that guide
training/                 checkpoints and figures of every step
README.md                 of a published model only: its card
samples.json              of a published model only: how many samples it was made from
people.csv                of a published model only: made-up subjects instead of samples, see segcft.pipeline.publish
calibration.json          how far answers can be believed, see segcft.pipeline.calibration
evaluation/               table.json, table.md, scores.parquet, figures/; of validation samples: evaluation-validation/
report.html               all of it on one page, see segcft.report

A run in folds has in its folder the study, the samples and the evaluation of all, and a run a fold: fold-1, fold-2, ...
See segcft.pipeline.folds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.counterfactual.joint_support import JointSupport
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.splits import JUDGE, PARTS, listed
from segcft.data.store import Store
from segcft.errors import Code, RunError
from segcft.evaluate.names import method_name
from segcft.grid import channels_last
from segcft.image_models.typicality import TypicalRanges
from segcft.measures.measurements import Measurements
from segcft.pipeline.stage import JUDGES, TrainingStage, training_stage, training_stages
from segcft.readers.reader import MaskReader, NoStructures
from segcft.training import artefact
from segcft.training.loop import freeze
from segcft.utils.atomic import write_text

READERS = ("segmentor", "judge")
"""The parts of a run that see masks."""


class Run:
    """Opens what is in a run's folder.

    Args:
        folder: where the run is.
        study: the study, for a run that begins; by default the one in the folder.

    Raises:
        RunError: the folder is not a run.
    """

    def __init__(self, folder: str | Path, study: Study | None = None) -> None:
        self.folder = Path(folder)
        if study is None:
            path = self.folder / "study.yaml"
            if not self.folder.exists():
                others = [Path(name) / self.folder for name in ("models", "runs")]
                near = [f"; did you mean {other}?" for other in others if (other / "study.yaml").is_file()]
                expected = "; give a run, as `segcft run` makes it, or a published model"
                raise RunError(Code.MISSING, self.folder, f"no such folder{near[0] if near else expected}")
            if not path.is_file():
                raise RunError(Code.MISSING, self.folder, "not a run: it has no study.yaml (see `segcft run --help`)")
            study = load_study(path)
        self.study = study

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def evaluation(self) -> Path:
        return self.evaluation_of("test")

    def evaluation_of(self, split: str) -> Path:
        """Where the evaluation on one part, "validation" or "test", is."""
        return self.folder / ("evaluation" if split == "test" else f"evaluation-{split}")

    def write_study(self) -> None:
        """Keep the study in the folder, with every default spelled out."""
        content = yaml.safe_dump(self.study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(self.folder / "study.yaml", content)

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts that the study trains, in order."""
        return tuple(stage.name for stage in training_stages(self.study))

    def path(self, part: str) -> Path:
        """The file of a trained part."""
        return self.folder / f"{part}.safetensors"

    @property
    def published(self) -> bool:
        """Whether this is a published model: trained parts without the samples."""
        return self.subjects_file.is_file() or self._counts.is_file()

    @property
    def only_reads(self) -> bool:
        """Whether this is a published model of readers alone, which answers no question."""
        return self.published and not self.subjects_file.is_file()

    @property
    def _counts(self) -> Path:
        """Of a published model: how many samples it was made from."""
        return self.folder / "samples.json"

    @property
    def subjects_file(self) -> Path:
        return self.folder / "people.csv"

    def require_card(self) -> None:
        """Check that a published model says what it is.

        Raises:
            RunError: its card is missing or empty.
        """
        card = self.folder / "README.md"
        if self.published and not (card.is_file() and card.read_text(encoding="utf-8", errors="replace").strip()):
            raise RunError(
                Code.MISSING,
                card,
                "missing, so nothing says what the model was trained on, how well it answers and what it is not for; "
                "get the folder whole, or publish the model again",
            )

    def require_unpublished(self) -> None:
        """Check that this is a run, which has samples.

        Raises:
            RunError: it is a published model.
        """
        if self.published:
            raise RunError(
                Code.MISSING,
                self.folder,
                f"a published model has no samples: `segcft evaluate {self.folder} --data DIR` judges it on others, "
                f"and `segcft run {self.folder}/study.yaml --out RUN` trains it again, as a run",
            )

    def require_one(self) -> None:
        """Check that this is not a run in folds, each of which has parts of its own.

        Raises:
            RunError: it is.
        """
        if self.study.splits.in_folds:
            raise RunError(
                Code.UNSUPPORTED,
                self.folder,
                f"a run in {self.study.splits.folds} folds, each with parts of its own: give one of them, e.g. "
                f"{self.fold(1)}; of all folds there are the samples, the table and the report",
            )

    def fold(self, number: int) -> Path:
        """The folder of a fold, from 1, of a run in folds."""
        return self.folder / f"fold-{number}"

    def store(self, verify: bool = False) -> Store:
        """The run's samples; ``verify`` as of :class:`~segcft.data.store.Store`.

        Raises:
            RunError: it is a published model, which has none.
            DataError: there are none, they are of another study, or damaged.
        """
        self.require_unpublished()
        store = Store(self.folder / "store", verify)
        store.require(self.study)
        return store

    def build(self, part: str) -> nn.Module:
        """A part with fresh weights, drawn from the seed of its section in the study."""
        return training_stage(part).build(self.study)

    def load(self, part: str, device: torch.device | str = "cpu") -> Any:
        """A trained part, frozen, on ``device``.

        Raises:
            RunError: it is not trained yet, is damaged, or is another part under this one's name; or the judge is the
                guide; or this is a run in folds.
        """
        self.require_one()
        module = self.build(part)
        said = artefact.load(self.path(part), module).get("part", part)
        if said != part:
            raise RunError(
                Code.INVALID, self.path(part), f"it holds the {said}, not the {part}: it was copied or renamed"
            )
        training_stage(part).check(self)
        return self.ready(module, device)

    @property
    def judges(self) -> tuple[str, ...]:
        """The parts that judge: of measures, where there are any, and of attributes."""
        return tuple(part for part in JUDGES if part in self.parts)

    @property
    def asked(self) -> tuple[str, ...]:
        """The parts that every answer needs, beside a mechanism of the image."""
        return tuple(part for part in ("judge", "scm") if part in self.parts)

    def judge(self, device: torch.device | str = "cpu") -> MaskReader:
        """Who reads the measures, on ``device``; of a study without structures there are none.

        Raises:
            RunError: see :meth:`load`.
        """
        if "judge" not in self.parts:
            return NoStructures(Measurements.of(self.study))
        judge: MaskReader = self.load("judge", device)
        return judge

    @staticmethod
    def ready(module: nn.Module, device: torch.device | str) -> Any:
        """A part as it is used: frozen, on ``device``."""
        return freeze(channels_last(module.to(device)))

    def methods(self) -> dict[str, str]:
        """Method (none, regressor, segmentor) -> the part that is its image mechanism, as far as trained.

        Fine-tuned parts whose starting point or attributes' mechanisms were trained again since are left out.

        Raises:
            RunError: this is a run in folds.
        """
        self.require_one()
        stages = [stage for stage in training_stages(self.study) if stage.method]
        return {stage.method: stage.name for stage in stages if self._is_current(stage)}

    def _is_current(self, stage: TrainingStage) -> bool:
        if not self.path(stage.name).is_file():
            return False
        if self.published:  # was checked then
            return True
        before = artefact.read_meta(self.path(stage.name)).get("made_from", {})
        return all(
            artefact.read_meta(self.path(name)).get("key") == key
            for name, key in before.items()
            if name in stage.answers_with
        )

    def typical(self, part: str, lengths: Collection[str]) -> TypicalRanges | None:
        """Which images are typical to an image mechanism with these ``lengths``; None where that is not recorded, or it
        has none.

        Raises:
            RunError: the part is missing or damaged, e.g. without a range for each of its lengths.
        """
        said = artefact.read_meta(self.path(part)).get("usual")
        try:
            typical = None if said is None or not lengths else TypicalRanges.model_validate(said)
            if typical and typical.ranges.keys() != {*lengths}:
                raise ValueError
            return typical
        except ValueError:
            raise RunError(
                Code.DAMAGED, f"{self.path(part)}: usual", "not the ranges of numbers that this header should hold"
            ) from None

    def joint_support(self) -> JointSupport | None:
        """Which values of variables go together; None where that is not recorded.

        Raises:
            RunError: the part is missing or damaged.
        """
        said = artefact.read_meta(self.path("scm")).get("joint")
        try:
            joint = None if said is None else JointSupport.model_validate(said)
            if joint and not joint.fits(self.study.variables):
                raise ValueError
            return joint
        except ValueError:
            raise RunError(
                Code.DAMAGED, f"{self.path('scm')}: joint", "not what this header should hold of the study's variables"
            ) from None

    def samples_of(self, parts: Iterable[str]) -> Store:
        """The run's samples, checked to be those that ``parts`` were trained on. Else a test subject of now may have
        been a training subject then.

        Raises:
            RunError: there is such a part, or one is not trained yet.
        """
        store = self.store()
        for part in parts:
            if artefact.read_meta(self.path(part)).get("data") != store.fingerprint:
                raise RunError(
                    Code.OTHER,
                    self.folder,
                    f"{part} was trained on other samples than those imported since; bring the run up "
                    "to date with `segcft run`",
                )
        return store

    def training_values(self, parts: Iterable[str]) -> NDArray[np.float32]:
        """Values (N, V) of the samples that ``parts`` were trained on, or of a published model's made-up subjects.

        Raises:
            RunError: see :meth:`samples_of`; or the published values are damaged.
        """
        if self.published:
            return read_subjects(self.subjects_file, self.study)
        store = self.samples_of(parts)
        return store.values()[store.indices("train", complete=True)]

    def samples(self) -> dict[str, int]:
        """How many samples each split has, or had when the model was published.

        Raises:
            RunError: there are no samples, or what a published model says of them is damaged.
        """
        if not self.published:
            return self.store().samples
        path = self._counts
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            return listed({split: int(said[split]) for split in PARTS if split != JUDGE or split in said})
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise RunError(Code.DAMAGED, path, f"it does not say how many samples there were ({error!r})") from None

    def model(self, method: str, device: torch.device | str = "cpu") -> CounterfactualModel:
        """The whole model with the image mechanism of ``method``.

        Raises:
            RunError: that method is not trained in this run.
        """
        return CounterfactualModel(self.load("scm", device), self.load(self.mechanism(method), device))

    def meant(self, method: str | None) -> str:
        """A ``method``, or the last that is trained, where none is named.

        Raises:
            RunError: none is trained.
        """
        methods = list(self.methods()) if method is None else [method]
        if not methods:
            raise RunError(Code.MISSING, self.folder, "it has no image mechanism yet")
        return methods[-1]

    def mechanism(self, method: str) -> str:
        """The part that is the image mechanism of ``method``.

        Raises:
            RunError: that method is not trained in this run.
        """
        methods = self.methods()
        if method not in methods:
            known = ", ".join(f"{name} ({method_name(name)})" for name in methods)
            raise RunError(Code.UNKNOWN, self.folder, f"method {method!r} is not here, only {known or 'none'}")
        return methods[method]


def read_subjects(path: Path, study: Study) -> NDArray[np.float32]:
    """Values (N, V) from a table with a column for every variable, categories by name.

    Raises:
        RunError: it is not such a table.
    """
    try:
        table = pd.read_csv(path, dtype={n: str for n, v in study.variables.items() if v.categories})
        columns = [
            table[name].map(variable.categories.index) if variable.categories else table[name].astype(float)
            for name, variable in study.variables.items()
        ]
        values = np.stack([column.to_numpy(dtype=np.float32) for column in columns], axis=1)
        if len(values) == 0 or not np.isfinite(values).all():
            raise ValueError("there is no row, or a value is missing")
    except (OSError, ValueError, KeyError) as error:
        raise RunError(Code.DAMAGED, path, f"not the table of study {study.name!r} ({error})") from None
    return values


def write_subjects(path: Path, study: Study, values: NDArray[np.float32]) -> None:
    """Write values (N, V) as :func:`read_subjects` reads them."""
    write_text(path, to_table(study, values).to_csv(index=False, float_format="%.6g"))


def to_table(study: Study, values: NDArray[np.float32]) -> pd.DataFrame:
    """Values (N, V) as a table with a column for every variable, categories by name."""
    table = pd.DataFrame({name: values[:, k] for k, name in enumerate(study.variables)})
    for name, variable in study.variables.items():
        if variable.categories:
            table[name] = [variable.categories[int(index)] for index in table[name]]
    return table
