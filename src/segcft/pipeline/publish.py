"""A published model: the trained parts of a run without its samples, with a card that says what they are.

The folder opens like a run (:class:`segcft.pipeline.run.Run`). What a question needs to know of the
training samples, their ranges and how attributes go together, comes from made-up subjects that the attributes'
mechanisms drew (``people.csv``), so no real subject's values leave the run but those of examples that are named.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import segcft
from segcft.causal.scm import StructuralCausalModel
from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.counterfactual.support import all_limits
from segcft.data.splits import JUDGE
from segcft.data.store import Store
from segcft.errors import Code, DataError, RunError
from segcft.evaluate.names import method_name
from segcft.io.volumeout import grid_file
from segcft.pipeline.calibration import read_calibration, write_calibration
from segcft.pipeline.judging import guides_of
from segcft.pipeline.privacy import privacy_in_words
from segcft.pipeline.run import Run, write_subjects
from segcft.training import artefact
from segcft.utils.atomic import replaced_folder, write_bytes, write_text

MADE_UP = 2000
"""Made-up subjects in a published model."""

EXAMPLES = 3
"""Simulated test images to try a published model on, unless others are named."""

LARGEST = 20_000_000
"""Bytes of weights that fit a repository."""


def publish(
    run: Run,
    folder: Path,
    methods: Sequence[str] = (),
    card: str = "",
    large: bool = False,
    examples: Sequence[str] = (),
) -> None:
    """Write the published model of an evaluated run to ``folder``, in place of an earlier one.

    Args:
        run: with a judge, attributes' mechanisms, an image mechanism and its evaluation on test samples.
        folder: new, empty or a published model.
        methods: none, regressor, segmentor (default: the last of these that is trained).
        card: Markdown on the data and their licence. Needed for real data, of which code knows neither.
        large: allow more than 20 MB of weights.
        examples: ids of test samples whose images and values are given away with the model, to try it on (default: some
            of simulated data, and none of real ones).

    Raises:
        RunError: the run lacks a part or its evaluation, ``folder`` holds something else, or the above is not met.
        DataError: an example is no test sample.
    """
    methods = list(methods) or list(run.methods())[-1:]
    mechanisms = list(map(run.mechanism, methods))
    # Guides correct answers that are to be exact.
    guides = [guide for guide in guides_of(run) if f"cft-{guide}" in mechanisms]
    parts = [*run.judges, "scm", *mechanisms, *guides]
    store = run.samples_of(parts)
    if not (run.evaluation / "table.json").is_file():
        raise RunError(
            Code.MISSING, run.evaluation, "not evaluated yet, and a model without figures helps nobody: segcft evaluate"
        )
    card = licensed(run.study, card)
    require_small(run, [part for part in parts if part not in guides], large)
    require_room(run.study, folder)
    rows = _example_rows(store, examples, isinstance(run.study.data, SimulatedData))
    with replaced_folder(folder) as partial:
        _write_model(run, store, partial, parts, methods, card, rows)


def licensed(study: Study, card: str) -> str:
    """What a card says of the data and their licence: ``card``, after what is known of simulated ones.

    Raises:
        RunError: the data are real, and it is empty.
    """
    if isinstance(study.data, SimulatedData):
        simulator = f"{study.data.source}, {study.data.people} people, seed {study.data.seed}"
        return f"Simulated ({simulator}): no person is in the data, and there is nothing to license.\n\n{card}"
    if not card.strip():
        why = "expected a file in Markdown that says of whom the data are and what their licence allows"
        raise RunError(Code.MISSING, "--card", why)
    return card


def require_small(run: Run, parts: Sequence[str], large: bool) -> None:
    """Check that the weights of ``parts`` fit a repository, unless ``large`` ones are wanted.

    Raises:
        RunError: they do not.
    """
    size = sum(run.path(part).stat().st_size for part in parts)
    if size > LARGEST and not large:
        why = f"{size / 1e6:.0f} MB of weights are more than {LARGEST / 1e6:.0f} (--large)"
        raise RunError(Code.TOO_LARGE, run.folder, why)


def require_room(study: Study, folder: Path) -> None:
    """Check that a published model may be written to ``folder``.

    Raises:
        RunError: it holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not Run(folder, study).published:
        raise RunError(Code.EXISTS, folder, "neither empty nor a published model")


def _example_rows(store: Store, ids: Sequence[str], simulated: bool) -> list[int]:
    """The rows of test samples to give away: those named, or else the first ones of ``simulated`` data.

    Raises:
        DataError: an id is not of a test sample, or it is there twice.
    """
    if len(set(ids)) < len(ids):
        raise DataError(Code.DUPLICATE, "--example", "a sample is named twice")
    if not ids:
        return store.indices("test", complete=True)[:EXAMPLES].tolist() if simulated else []
    tested = {str(store.table["id"].iloc[row]): int(row) for row in store.indices("test")}
    for id in ids:
        if id not in tested:
            raise DataError(Code.UNKNOWN, "--example", f"no test sample is {id!r}; those of training look too good")
    return [tested[id] for id in ids]


def _write_model(
    run: Run,
    store: Store,
    folder: Path,
    parts: Sequence[str],
    methods: Sequence[str],
    card: str,
    examples: Sequence[int],
) -> None:
    """Write the published model into the empty ``folder``; ``examples`` are rows of samples that it comes with."""
    model = Run(folder, run.study)
    model.write_study()
    for part in parts:
        shutil.copyfile(run.path(part), model.path(part))
    model.evaluation.mkdir()
    for name in ("table.json", "table.md"):
        shutil.copyfile(run.evaluation / name, model.evaluation / name)
    known = store.values()[store.indices("train", complete=True)]
    write_subjects(model.subjects_file, run.study, made_up_subjects(run.load("scm"), known, run.study.scm.seed))
    write_text(model.folder / "samples.json", json.dumps(run.samples()) + "\n")  # from here on it is a published one
    write_calibration(model, {method: one for method, one in read_calibration(run).items() if method in methods})
    if examples:
        _write_examples(run, store, examples, folder / "examples")
    write_text(folder / "README.md", model_card(run, store, parts, methods, card, len(examples)))


def made_up_subjects(scm: StructuralCausalModel, known: np.ndarray, seed: int) -> np.ndarray:
    """Values (MADE_UP, V) drawn from the attributes' mechanisms, in the range of the ``known`` values (N, V), see
    :func:`segcft.counterfactual.support.limits`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = scm.sample(4 * MADE_UP, generator).numpy()
    low, high = all_limits(scm.definitions, known)
    within = ((drawn >= low) & (drawn <= high)).all(axis=1)
    return drawn[within][:MADE_UP]


def _write_examples(run: Run, store: Store, rows: Sequence[int], folder: Path) -> None:
    """Test images and a table of their attributes; empty where a value is not known."""
    folder.mkdir()
    table = []
    said = None  # of real images: they are not synthetic
    if isinstance(run.study.data, SimulatedData):
        said = {"segcft": segcft.__version__, "study": run.study.name, "simulator": run.study.data.source}
    for number, row in enumerate(rows, start=1):
        suffix, content = grid_file(np.asarray(store.images[row]), run.study.image.spacing, said)
        write_bytes(folder / f"{number}{suffix}", content)
        attributes: dict[str, float | str] = {"image": f"{number}{suffix}"}
        for k, (name, variable) in enumerate(run.study.variables.items()):
            value = float(store.values()[row][k])
            if variable.derived or np.isnan(value):
                continue
            attributes[name] = variable.categories[int(value)] if variable.categories else value
        table.append(attributes)
    write_text(folder / "attributes.csv", pd.DataFrame(table).to_csv(index=False, float_format="%.6g"))


def samples_in_words(samples: Mapping[str, int]) -> str:
    """How many samples each part has."""
    names = {"train": "training", JUDGE: "judge's training"}
    *others, last = (f"{count} {names.get(part, part)}" for part, count in samples.items())
    return f"{', '.join(others)} and {last} samples"


def _question(study: Study) -> tuple[str, str]:
    """A variable and what to set it to, which works for everybody: 20 % less of what may be absent is an error."""
    numbers = [name for name in study.measured or study.attributes if not study.variables[name].categories]
    name = min(numbers or study.attributes, key=lambda one: study.variables[one].zero_inflated)
    return name, "-20%" if numbers else study.variables[name].categories[0]


def training_table(run: Run, parts: Sequence[str]) -> str:
    """How each part was made, in Markdown."""
    rows = ["| part | parameters | seconds | segcft | key |", "| --- | ---: | ---: | --- | --- |"]
    for part in parts:
        meta = artefact.read_meta(run.path(part))
        count = sum(parameter.numel() for parameter in run.build(part).parameters())
        made = f"{meta.get('seconds', float('nan')):.0f} | {meta.get('version', 'unknown')} | `{meta['key']}`"
        rows.append(f"| {part} | {count:,} | {made} |")
    return "\n".join(rows)


def _privacy(run: Run, methods: Sequence[str]) -> str:
    """The section on what is given away of training people, if that was looked at."""
    found = privacy_in_words(run, list(map(run.mechanism, methods)))
    return f"## Privacy\n\n{found}\n\n" if found else ""


def model_card(run: Run, store: Store, parts: Sequence[str], methods: Sequence[str], card: str, examples: int) -> str:
    """The card, in Markdown; where there are so many ``examples`` it asks of the first of them."""
    study = run.study
    people = store.table["patient"].nunique()
    suffix, measures = ("nii.gz", "volumes") if study.image.is_volume else ("png", "areas")
    example = f"FOLDER/examples/1.{suffix}" if examples else f"image.{suffix}"
    simulated = isinstance(study.data, SimulatedData)
    again, given = "" if simulated else " --data DIR", ""
    if examples:
        what = "simulated" if simulated else "real"
        given = f"\n`examples/` has the images of {examples} {what} test samples as they are, and their values.\n"
    area, change = _question(study)
    table = (run.evaluation / "table.md").read_text(encoding="utf-8")
    figures = table.split("\n", 1)[1].replace("\n## ", "\n### ").strip()
    interventions = "\n".join(
        f"- `{name}`: " + (", ".join(v.categories) if v.categories else f"continuous, in {v.unit or 'its unit'}")
        for name, v in study.variables.items()
    )
    return f"""\
# {study.name}: a pretrained model of segcft

{study.description}

**For research only, not for clinical use. Every image that it makes is synthetic.**

    segcft counterfactual FOLDER {example} --do {area}={change} --out answer

```python
import segcft

model = segcft.load("FOLDER")
answer = model.counterfactual("{example}", do={{"{area}": "{change}"}})
answer.image, answer.areas, answer.warnings
```

FOLDER is where this file is. Images are brought to {study.image.words}; {measures} are in \
{study.image.cell_unit} of that grid.

## What it knows

{interventions}

Methods: {", ".join(map(method_name, methods))}. `people.csv` are made-up subjects that the attributes' \
mechanisms drew in the training range, which they stand for; no person is among them.

## Data

{card.strip()}

{samples_in_words(run.samples())}\
{"" if people == len(store) else f", of {people} people"}, split by patient; \
fingerprint `{store.fingerprint}`.
{given}
## Training

`study.yaml` has every setting; `segcft run FOLDER/study.yaml{again} --out RUN` trains it again.

{training_table(run, parts)}

## Intended use and limits

Research on counterfactual image generation: methods, evaluation, teaching. It answers for images like its training \
data, in its training range, and says so where that is not the case. A counterfactual shows what the \
model has learnt of an anatomy, not what would happen to a person; no diagnosis or decision may rest on one.

{_privacy(run, methods)}\
## Figures

On test samples that no stage has seen, by a judge that no stage was trained with.

{figures}
"""
