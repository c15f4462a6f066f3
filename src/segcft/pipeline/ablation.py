"""An ablation: variants of one study, what is trained alike trained once, and one table of them all.

An ablation file names a base study and what each variant changes in it::

    base: ../quickstart.yaml
    variants:
      best: {}
      one-variable: {why: one variable set in every step, finetune: {also: 0}}

Variants change the sections that train. Samples, judge and evaluation are the base's, so all variants are judged on
the same samples, by the same judge, with the same questions: on validation samples, since an ablation is there to
choose settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from segcft.config.loader import parse_study, read_mapping, validate
from segcft.config.section import Section
from segcft.config.study import Study
from segcft.errors import Code, SegcftError, StudyError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from segcft.evaluate.comparison import Judged
    from segcft.evaluate.scores import Row
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline
    from segcft.utils.progress import Progress

SPLIT = "validation"
"""The part that variants are judged on."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Changes = dict[str, Any]


class VariantSpec(Section):
    """What one variant changes in the base study, and ``why`` it is there."""

    why: str = ""
    segmentor: Changes = Field(default_factory=dict)
    regressor: Changes = Field(default_factory=dict)
    predictor: Changes = Field(default_factory=dict)
    scm: Changes = Field(default_factory=dict)
    hvae: Changes = Field(default_factory=dict)
    finetune: Changes = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_all_share(cls, raw: Any) -> Any:
        if isinstance(raw, dict):
            for key in raw.keys() & (Study.model_fields.keys() - cls.model_fields.keys()):
                raise ValueError(
                    f"a variant cannot change '{key}', only {', '.join(cls.sections())}: samples, judge and "
                    "evaluation are one for all variants; change them in the base study"
                )
        return raw

    @classmethod
    def sections(cls) -> list[str]:
        """The sections of a study that a variant may change."""
        return [name for name in cls.model_fields if name != "why"]

    @property
    def changes(self) -> dict[str, Changes]:
        """The sections that it changes."""
        return {name: changes for name in self.sections() if (changes := getattr(self, name))}


class AblationSpec(Section):
    """An ablation file. ``base`` is the path of a study file, relative to this file; a file without it goes with any
    study. The table compares each variant with the first one."""

    base: str | None = None
    variants: dict[Name, VariantSpec] = Field(min_length=1)


@dataclass(frozen=True)
class Ablation:
    """An ablation that was read: its ``name``, its ``base`` and a whole study for every variant."""

    name: str
    base: Study
    specs: Mapping[str, VariantSpec]
    studies: Mapping[str, Study]

    def choose(self, only: Sequence[str]) -> list[str]:
        """The variants named, in the order of the file; all if none is.

        Raises:
            StudyError: there is no such variant.
        """
        for name in only:
            if name not in self.studies:
                raise StudyError(Code.UNKNOWN, f"--only {name}", f"the variants are {', '.join(self.studies)}")
        return [name for name in self.studies if name in only or not only]


def load_ablation(path: str | Path, base: str | Path | None = None) -> Ablation:
    """Read and validate an ablation file and the study that each variant makes of its base.

    Args:
        path: the file.
        base: a study file to take for its base.

    Raises:
        StudyError: a file is missing, is not YAML or breaks a rule; the message names file, variant and key.
    """
    path = Path(path)
    spec = validate(AblationSpec, read_mapping(path, "ablation file"), str(path))
    if base is None and spec.base is None:
        raise StudyError(Code.MISSING, f"{path}: base", "this file goes with any study; name one by --base STUDY")
    base_path = Path(base) if base is not None else path.parent / str(spec.base)
    raw = read_mapping(base_path)
    study = parse_study(raw, str(base_path))
    if study.splits.validation == 0:
        field = f"{base_path}: splits.validation"
        raise StudyError(Code.OUT_OF_RANGE, field, "must not be 0: an ablation is judged on validation samples")
    studies: dict[str, Study] = {}
    for name, variant in spec.variants.items():
        where = f"{path}: variants.{name}"
        names = {"name": f"{study.name}-{name}", "description": variant.why}
        made = parse_study(merged(raw, variant.changes) | names, where)
        for other, same in studies.items():
            if made.model_copy(update={"name": same.name, "description": same.description}) == same:
                raise StudyError(Code.DUPLICATE, where, f"the same study as variants.{other}")
        studies[name] = made
    return Ablation(path.stem if base is None else f"{path.stem}-{study.name}", study, spec.variants, studies)


def merged(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with ``changes``: mappings key by key; lists, values and ``{}`` (all defaults) replace what was there."""
    result = dict(raw)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) and value else value
    return result


def run_ablation(
    ablation: Ablation,
    folder: Path,
    fabric: Fabric,
    *,
    data: Path | None = None,
    progress: Progress,
    jobs: int = 1,
    compile: bool = False,
    only: Sequence[str] = (),
) -> list[Row]:
    """Run the variants one after another, in ``folder/NAME``, and write ``table.json`` and ``table.md`` in ``folder``.

    Each is a run like any other: skipped where it is up to date, and going on where it was interrupted. What another
    variant has made from the same is shared. The table is written anew after each, with all that are up to date.

    Args:
        ablation: see :func:`load_ablation`.
        folder: where the runs are.
        fabric: the hardware.
        data: folder of images, masks and table, for studies that read one.
        progress: what the user sees.
        jobs: parts that are trained at once.
        compile: have PyTorch compile the image mechanism for its trainings.
        only: the variants to run, by default all.

    Returns:
        the rows of the table, see :func:`segcft.evaluate.comparison.compare`.

    Raises:
        StudyError: ``only`` names no variant.
        SegcftError: the first variant failed; or others did, after all have been tried.
    """
    from segcft.pipeline.pool import Failures, run_all
    from segcft.pipeline.run import Run
    from segcft.pipeline.runner import Pipeline
    from segcft.pipeline.sharing import share
    from segcft.utils.lock import Lock

    chosen = ablation.choose(only)
    runs = {name: Run(folder / name, study) for name, study in ablation.studies.items()}
    rows: list[Row] = []
    failures = Failures(progress)
    with Lock(folder):
        for count, name in enumerate(chosen, start=1):
            progress.note(f"[{count}/{len(chosen)}] {name}")
            pipeline = Pipeline(runs[name], fabric, data, progress, compile, split=SPLIT)
            try:
                with pipeline.lock:
                    share(pipeline, {other: run for other, run in runs.items() if other != name})
                    run_all(pipeline, jobs)
            except SegcftError as error:
                if not rows:  # what ails the first one ails all
                    raise
                failures.add(name, error)
            else:
                rows = _write_table(ablation, runs, folder, pipeline)
    failures.check(folder, f"of {len(chosen)} variants failed; table.md has the rest")
    return rows


def _write_table(ablation: Ablation, runs: Mapping[str, Run], folder: Path, pipeline: Pipeline) -> list[Row]:
    """Compare all variants that are up to date; ``pipeline`` is of one that is."""
    from segcft.evaluate.comparison import compare, render_comparison
    from segcft.utils.atomic import write_text

    judged = list(_judged(runs, pipeline))
    rows = compare(judged, ablation.base)
    reasons = {one.name: _reason(ablation.specs[one.name]) for one in judged}
    write_text(folder / "table.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    write_text(folder / "table.md", render_comparison(rows, ablation.base, f"Ablation {ablation.name}", reasons))
    return rows


def _judged(runs: Mapping[str, Run], current: Pipeline) -> Iterator[Judged]:
    """The variants that are up to date, judged on the same samples as that of ``current``."""
    import pandas as pd

    from segcft.evaluate.comparison import Judged
    from segcft.pipeline.runner import Pipeline
    from segcft.pipeline.stage import training_stages
    from segcft.training import artefact

    for name, run in runs.items():
        pipeline = Pipeline(run, current.fabric, split=SPLIT)
        pipeline.keys["import"] = current.keys["import"]
        if not all(pipeline.is_current(stage) for stage in pipeline.stages[1:]):
            continue
        seconds = {part: artefact.read_meta(run.path(part)).get("seconds", 0.0) for part in run.parts}
        training: dict[str, float] = {
            stage.method: sum(seconds[part] for part in (stage.name, *stage.needs(run.study)) if part in seconds)
            for stage in training_stages(run.study)
            if stage.answers_with
        }
        yield Judged(name, pd.read_parquet(run.evaluation_of(SPLIT) / "scores.parquet"), training)


def _reason(variant: VariantSpec) -> str:
    """What a variant changes and why, in a line."""
    changes = ", ".join(f"{key}: {value}" for key, value in _flat(variant.changes))
    return " - ".join(part for part in (variant.why, f"`{changes}`" if changes else "") if part)


def _flat(changes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; of a list, "..."."""
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, "..." if isinstance(value, list) else value
