"""Published readers: the segmentor and the judge of a run, without its samples and without an image mechanism.

They make masks for images that have none (`segcft segment`), and judge other models. The folder opens like a run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from segcft.config.study import Study
from segcft.errors import Code, RunError
from segcft.evaluate.reading import by_source, readings, render
from segcft.importers.masks import BITS
from segcft.pipeline.publish import licensed, require_room, require_small, samples_in_words, training_table
from segcft.pipeline.run import READERS, Run
from segcft.utils.atomic import replaced_folder, write_text


def in_order(study: Study) -> list[str]:
    """The structures that a study's readers see, in the order of the flags of masks that they make: that of the study;
    of lungs and heart that of :data:`~segcft.importers.masks.BITS`."""
    names = list(study.masked)
    return list(BITS) if set(names) == set(BITS) else names


def publish_readers(run: Run, folder: Path, card: str = "", large: bool = False) -> None:
    """Write the readers of a run to ``folder``, in place of earlier ones, with how well they read its test samples.

    Args:
        run: with a segmentor and a judge.
        folder: new, empty or earlier readers.
        card: Markdown on the data and their licence. Needed for real data, of which code knows neither.
        large: allow more than 20 MB of weights.

    Raises:
        RunError: the run lacks a reader or test samples with masks, ``folder`` holds something else, or the above is
            not met.
    """
    store = run.samples_of(READERS)
    card = licensed(run.study, card)
    require_small(run, READERS, large)
    require_room(run.study, folder)
    if Run(folder, run.study).published and not Run(folder, run.study).only_reads:
        raise RunError(Code.EXISTS, folder, "a published model that answers questions, and not earlier readers")
    rows = store.indices("test", masked=True)
    if not len(rows):
        raise RunError(Code.EMPTY, run.folder, "no test sample has masks, so nobody knows how well the readers read")
    readers = {part: run.load(part) for part in READERS}
    found = {source: readings(run.study, readers, store, some) for source, some in by_source(store, rows).items()}
    with replaced_folder(folder) as partial:
        model = Run(partial, run.study)
        model.write_study()
        for part in READERS:
            shutil.copyfile(run.path(part), model.path(part))
        write_text(model.folder / "samples.json", json.dumps(run.samples()) + "\n")
        table = render(found)
        write_text(model.folder / "README.md", _card(run, table, card))


def _card(run: Run, figures: str, card: str) -> str:
    """The card, in Markdown."""
    study, store = run.study, run.store()
    things = "volumes" if study.image.is_volume else "images"
    bits = "\n".join(f"- `{name}`: {1 << bit}" for bit, name in enumerate(in_order(study)))
    people = store.table["patient"].nunique()
    return f"""\
# {study.name}: readers of segcft

{study.description}

**For research only, not for clinical use.**

    segcft segment FOLDER IMAGES --out masked

FOLDER is where this file is, IMAGES a folder of {things}. Two networks of different kinds read each of them, and must
agree. They see it at {study.image.words}; masks are in its own. Flags of the masks:

{bits}

## Data

{card.strip()}

{samples_in_words(run.samples())}\
{"" if people == len(store) else f", of {people} people"}, split by patient; \
fingerprint `{store.fingerprint}`.

## Training

`study.yaml` has every setting.

{training_table(run, READERS)}

## Intended use and limits

Research: masks for {things} that have none, and a judge of counterfactuals that were made without these readers.
They see what looks like their training data; where they do not agree there is no mask, and `rejected.csv` says why.
Masks are made by networks: look at some before they are used. No diagnosis or decision may rest on them.

## Figures

On test samples that no stage has seen. *Together* is what both see on average, as `segcft segment` has it.

{figures}
"""
