"""A study for readers who do not know which images are real: images in random order, and a key that stays in the run.

Half of the images are of real people. The others are made: answers to questions whose values real people have, and some
reconstructions, which whoever looks closely should tell. Every image is of another test person, so that none gives
another away, and all are brought to the model's grid and grey levels, as its answers are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import segcft
from segcft.config.sources import SimulatedData
from segcft.counterfactual.model import CounterfactualModel
from segcft.errors import Code, DataError
from segcft.evaluate.blinded import ALL, ANSWER, LEVELS, REAL, RECONSTRUCTION, Ratings
from segcft.evaluate.cohort import Cohort, one_each
from segcft.evaluate.planes import Planes
from segcft.grey import to_grey_levels
from segcft.grid import Grid
from segcft.pipeline.realism import WITHIN, asked_of, chosen_of
from segcft.pipeline.run import Run
from segcft.utils.atomic import replaced_folder, write_bytes, write_text
from segcft.utils.progress import Progress

CASES = 60
"""Images by default: half an hour of a reader's time."""
FEWEST = 12
"""Images, below which nothing can be said."""
SHARES = {ANSWER: 1 / 3, RECONSTRUCTION: 1 / 6}
"""Of all images; the others are real."""
COLUMNS = ("study", "reader", "case", "level")
"""Of the table that a reader gives back."""
KEYS = "readers"
"""The folder of keys, in the run."""
PAGE = "index.html"


class Case(NamedTuple):
    """One image: as what readers know it, of which kind, and of whom it is."""

    code: str
    kind: str
    id: str
    do: dict[str, float]


class Blinded(NamedTuple):
    """A study: its name, PNG files by code, and whether its people are a simulator's."""

    study: str
    pictures: dict[str, bytes]
    simulated: bool


def make_blinded(
    run: Run,
    device: torch.device,
    progress: Progress,
    *,
    method: str | None = None,
    cases: int | None = None,
    within: float = WITHIN,
    seed: int | None = None,
) -> Blinded:
    """Choose and make the images of a study, and keep its key in the run.

    Args:
        run: with test people.
        device: where answers are computed.
        progress: what the user sees.
        method: whose answers are shown; None: the last that is trained.
        cases: images; None: :data:`CASES`, or as many as there are test people.
        within: standard deviations of a variable by which answers change it at most, to a value that another has.
        seed: of who is shown as what, and in which order; None: one that nobody can guess. The key has it.

    Raises:
        RunError: parts are missing or damaged, or it is a published model.
        DataError: there are too few test people, or nobody can be asked for another value.
    """
    method, seed = run.meant(method), secrets.randbits(32) if seed is None else seed
    model = run.model(method, device)
    store, rows = chosen_of(run, len(run.store()))
    random = np.random.default_rng(seed)
    first = one_each(store, rows, random)
    cases = min(CASES, len(first)) if cases is None else cases
    if cases < FEWEST or len(first) < cases:
        why = f"{cases} images of as many people are asked for, at least {FEWEST}; there are {len(first)} test people"
        raise DataError(Code.EMPTY, "--cases", why)
    chosen = np.sort(random.permutation(first)[:cases])
    cohort = Cohort(run.study, store, chosen, device)
    do = asked_of(cohort, within)
    asked = do.isfinite().any(dim=1).cpu().numpy()
    if not asked.any():
        raise DataError(Code.EMPTY, run.folder, "nobody has a value near that of another one, so nothing can be asked")
    kinds = _kinds(asked, _explains(model, cohort), random)
    picture = Planes(Grid.of(run.study.image))
    shown = list[Tensor]()
    generator = torch.Generator(device).manual_seed(run.study.evaluation.seed)
    with torch.no_grad():
        batches = -(-len(cohort) // run.study.evaluation.batch_size)
        for samples in progress(cohort.batches(), batches, "Making images"):
            noise = model.abduct(samples.image, samples.values)
            after = model.scm.counterfactual(samples.values, do[samples.places], generator)
            answer, explained = noise.predict(after), model.mechanism.reconstruction(noise.noise)
            made = {REAL: samples.image, ANSWER: answer, RECONSTRUCTION: explained}
            for k, place in enumerate(samples.places.tolist()):
                image = made[kinds[place]]
                assert image is not None  # such are of mechanisms that explain images
                shown.append(image[k])
    codes = [f"{number + 1:03}" for number in random.permutation(cases)]
    told = [
        Case(code, kind, str(id), _named(run, row))
        for code, kind, id, row in zip(codes, kinds, cohort.named("id"), do.cpu().numpy(), strict=True)
    ]
    pictures = {code: _png(picture(image, corner=-1.0)) for code, image in zip(codes, shown, strict=True)}
    # Of other images it is another study, whose answers are not mixed up with those to this one.
    study = hashlib.sha256(b"".join(pictures[code] for code in sorted(pictures))).hexdigest()[:8]
    _keep(run, study, told, {"method": method, "within": within, "seed": seed})
    return Blinded(study, dict(sorted(pictures.items())), isinstance(run.study.data, SimulatedData))


@torch.no_grad()
def _explains(model: CounterfactualModel, cohort: Cohort) -> bool:
    """Whether the mechanism tells what it explains of an image from the noise of its pixels."""
    first = next(iter(cohort.batches()))
    return model.mechanism.reconstruction(model.abduct(first.image[:1], first.values[:1]).noise) is not None


def write_blinded(blinded: Blinded, page: str, folder: Path) -> None:
    """Write what readers are given: the page, and its images as files. Nothing in it tells which are made.

    Raises:
        DataError: ``folder`` holds something else.
    """
    require_empty(folder)
    with replaced_folder(folder) as partial:
        for code, png in blinded.pictures.items():
            write_bytes(partial / "images" / f"{code}.png", png)
        write_text(partial / PAGE, page)


def require_empty(folder: Path) -> None:
    """Check that a study may be written to ``folder``.

    Raises:
        DataError: it holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(Code.EXISTS, folder, "it is not empty, and readers are to see nothing but their images")


def read_ratings(run: Run, tables: Sequence[Path]) -> tuple[Ratings, dict[str, int]]:
    """What readers said, with the key of the run.

    Args:
        run: of which the study was made.
        tables: that readers gave back, one each.

    Returns:
        The ratings, and the number of images of each kind.

    Raises:
        DataError: a table is none, of another study, or has a case or a level that is not.
    """
    said: dict[str, dict[str, float]] = {}
    studies: dict[str, Path] = {}
    for path in tables:
        lines = _lines(path)
        names = {line["reader"] for line in lines}
        reader = names.pop() if len(names) == 1 else ""
        if not reader or reader in said or reader == ALL:
            why = f"a table is of one reader, whose name no other has, and not {', '.join(sorted(names)) or reader!r}"
            raise DataError(Code.DUPLICATE if reader in said else Code.INVALID, f"{path}: column 'reader'", why)
        own = said[reader] = {}
        for number, line in enumerate(lines, start=2):
            studies.setdefault(line["study"], path)
            if line["case"] in own:
                where = f"{path}: line {number}: column 'case'"
                raise DataError(Code.DUPLICATE, where, f"{line['case']!r} is there twice")
            own[line["case"]] = _level(path, number, line["level"])
    if len(studies) != 1:
        named = ", ".join(f"{study!r} ({path.name})" for study, path in studies.items())
        raise DataError(Code.CONFLICT, tables[0], f"answers to one study were expected, not to {named or 'none'}")
    key = run.folder / KEYS / f"{next(iter(studies))}.json"
    if not key.is_file():
        raise DataError(Code.OTHER, tables[0], f"{run.folder} has no key of the study {next(iter(studies))!r}")
    kinds = {case["code"]: case["kind"] for case in json.loads(key.read_text(encoding="utf-8"))["cases"]}
    for reader, own in said.items():
        for code in own:
            if code not in kinds:
                raise DataError(Code.UNKNOWN, tables[0], f"{reader}: the study has no case {code!r}")
    levels = np.array([[own.get(code, np.nan) for code in kinds] for own in said.values()])
    return Ratings(tuple(said), tuple(kinds.values()), levels), dict(Counter(kinds.values()))


def _kinds(asked: NDArray[np.bool_], explains: bool, random: np.random.Generator) -> list[str]:
    """What every image is shown as: of those of whom something is ``asked``, and nobody else, as an answer; where the
    mechanism ``explains`` images, some as that."""
    kinds = np.full(len(asked), REAL, dtype=object)
    answers = random.permutation(np.flatnonzero(asked))[: round(SHARES[ANSWER] * len(asked))]
    kinds[answers] = ANSWER
    some = round(SHARES[RECONSTRUCTION] * len(asked)) if explains else 0
    others = random.permutation(np.flatnonzero(kinds == REAL))[:some]
    kinds[others] = RECONSTRUCTION
    return [str(kind) for kind in kinds]


def _named(run: Run, row: NDArray[np.float32]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(run.study.variables, row, strict=True) if np.isfinite(value)}


def _keep(run: Run, study: str, cases: Sequence[Case], settings: Mapping[str, Any]) -> None:
    said = {"study": study, "segcft": segcft.__version__, **settings, "levels": list(LEVELS)}
    content = said | {"cases": [case._asdict() for case in sorted(cases)]}
    write_text(run.folder / KEYS / f"{study}.json", json.dumps(content, indent=2) + "\n")


def _png(image: Tensor) -> bytes:
    """An image (C, H, W) in [-1, 1] as a PNG file without a word about where it is from, and not compressed: all are as
    long, as what is smooth would not be."""
    pixels = to_grey_levels(image).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]).save(file, "PNG", compress_level=0)
    return file.getvalue()


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            if not set(COLUMNS) <= set(table.fieldnames or ()):
                raise DataError(Code.MISSING, path, f"a reader's table has the columns {', '.join(COLUMNS)}")
            return [{name: (line[name] or "").strip() for name in COLUMNS} for line in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(Code.UNREADABLE, path, f"no table that can be read ({error})") from None


def _level(path: Path, number: int, text: str) -> float:
    if text == "":
        return float("nan")
    if not text.isdecimal() or int(text) >= len(LEVELS):
        why = f"a level is 0 to {len(LEVELS) - 1} ({', '.join(LEVELS)}), or nothing, and not {text!r}"
        raise DataError(Code.INVALID, f"{path}: line {number}: column 'level'", why)
    return float(text)
