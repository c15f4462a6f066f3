"""Realism: can answers be told from real images?

Of people whom it has not seen, a classifier tells which images are answers. Where it does so by anything but chance, it
has found what answers lack. What that is worth is seen beside two references: two halves of real images, which nobody
can tell, and real images that are slightly blurred, which whoever looks closely can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.errors import Code, DataError
from segcft.evaluate import names
from segcft.evaluate.identity import Verified, render_identity
from segcft.evaluate.looks import deepest, radiomic
from segcft.evaluate.table import grid
from segcft.evaluate.two_sample import Classifier, frechet, kernel_distance, on, told_apart
from segcft.readers.reader import MaskReader
from segcft.utils.atomic import write_text
from segcft.utils.progress import Progress

REAL = "two halves of real images"
BLURRED = "real images, blurred"
BLUR = 0.5
"""Standard deviation in pixels of the blur that a classifier should see, or it proves nothing."""

TOLD, FRECHET, KERNEL = "auc", "frechet", "kernel"
JUDGE, RADIOMIC = "judge", "radiomic"

FOLDS = 4
"""Each is told apart by a classifier that was trained on the others."""
FEWEST = 20
"""People in each half and fold below which nothing can be learnt."""


class Row(TypedDict):
    """What a table holds: of a method, or of a reference in its place, one figure and its 95 % interval."""

    method: str
    metric: str
    features: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Shown:
    """Images of N people as they are and, method by method, an answer about each, (N, C, *size) in grey levels (uint8).

    ``people`` (N,) are whom they are of. ``features`` name what was read of all: kind -> images -> (N, D);
    ``rows`` are where they are in their store.
    """

    real: Tensor
    answers: Mapping[str, Tensor]
    people: Sequence[str]
    features: Mapping[str, Mapping[str, Tensor]]
    rows: NDArray[np.int64]

    @classmethod
    def read(
        cls,
        real: Tensor,
        answers: Mapping[str, Tensor],
        people: Sequence[str],
        judge: MaskReader,
        rows: NDArray[np.int64],
    ) -> Shown:
        """Of such images, what the judge's network and its masks say of how they look."""
        device = next((one.device for one in judge.parameters()), real.device)
        sets = {REAL: real, BLURRED: blurred(real), **answers}
        found: dict[str, dict[str, Tensor]] = {JUDGE: {}, RADIOMIC: {}}
        for name, images in sets.items():
            with torch.inference_mode():
                each = [(deepest(judge, x), radiomic(judge, x)) for x in on(device, images)]
            for kind, parts in zip(found, zip(*each, strict=True), strict=True):
                found[kind][name] = torch.cat(parts).cpu()
        if not found[JUDGE][REAL].shape[1]:  # a study without structures has a judge without a network
            del found[JUDGE]
        return cls(real, answers, people, found, rows)

    @classmethod
    def joined(cls, parts: Sequence[Shown]) -> Shown:
        """The people of all ``parts``, each read by the judge of its own, which no features compare across."""
        first = parts[0]
        return cls(
            torch.cat([part.real for part in parts]),
            {name: torch.cat([part.answers[name] for part in parts]) for name in first.answers},
            [one for part in parts for one in part.people],
            {
                kind: {name: torch.cat([part.features[kind][name] for part in parts]) for name in sets}
                for kind, sets in first.features.items()
                if len(parts) == 1 or kind != JUDGE
            },
            np.concatenate([part.rows for part in parts]),
        )

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        """All that are held beside real images."""
        return {REAL: self.real, BLURRED: blurred(self.real), **self.answers}


def blurred(images: Tensor) -> Tensor:
    """Images (N, C, *size) in grey levels, smoothed by a Gaussian of :data:`BLUR` pixels."""
    from scipy.ndimage import gaussian_filter

    sigma = [0.0, 0.0, *[BLUR] * (images.dim() - 2)]
    return torch.from_numpy(np.rint(gaussian_filter(images.numpy().astype(np.float32), sigma)).astype(np.uint8))


def realism(
    shown: Shown,
    progress: Progress,
    *,
    classifier: Classifier | None = None,
    folds: int = FOLDS,
    halvings: int = 20,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Row]:
    """How well answers are told from real images, and how far from them they look.

    The classifier's interval is over people; that of distances is the range of 95 % of the ``halvings``, in each of
    which other people are shown as they are.

    Args:
        shown: the images.
        progress: is told of steps.
        classifier: how it is trained.
        folds: each is told apart by a classifier that was trained on the others.
        halvings: of the people, of whose distances the mean is taken.
        seed: of all draws.
        device: where classifiers are trained.

    Raises:
        DataError: there are too few people, see :func:`require_people`.
    """
    classifier = classifier or Classifier()
    _, owner = np.unique(np.asarray(shown.people), return_inverse=True)
    subjects = int(owner.max()) + 1
    require_people(subjects, folds)
    random = np.random.default_rng(seed)
    order = random.permutation(subjects)[owner]  # of each image, its person's place
    rows = []
    with progress.task("Telling answers from real images", len(shown.sets) * folds * classifier.steps) as task:
        second, fold, everybody = order % 2 == 1, order // 2 % folds, np.ones(len(order), dtype=bool)
        for name, images in shown.sets.items():
            sides = (~second, second) if name == REAL else (everybody, everybody)
            told = told_apart(
                shown.real[torch.from_numpy(sides[0])],
                images[torch.from_numpy(sides[1])],
                (fold[sides[0]], fold[sides[1]]),
                (owner[sides[0]], owner[sides[1]]),
                classifier,
                seed=seed,
                device=device,
                advance=task.advance,
            )
            rows.append(_row(name, TOLD, "", told.auc, told.low, told.high, len(images)))
    for kind, sets in shown.features.items():
        scaled = _standardised({name: found.double().numpy() for name, found in sets.items()})
        for metric, distance in ((FRECHET, frechet), (KERNEL, kernel_distance)):
            for name, found in scaled.items():
                values = []
                for _ in range(halvings):
                    side = random.permutation(subjects)[owner] % 2 == 1
                    values.append(distance(scaled[REAL][~side], found[side]))
                low, high = np.percentile(values, [2.5, 97.5])
                rows.append(_row(name, metric, kind, float(np.mean(values)), float(low), float(high), len(found)))
    return rows


def require_people(subjects: int, folds: int = FOLDS) -> None:
    """Check that there are people enough to learn from.

    Raises:
        DataError: there are fewer than :data:`FEWEST` in each half of each fold.
    """
    if subjects < (least := 2 * folds * FEWEST):
        why = f"there are {subjects} test people, too few to learn from what is real; expected {least} or more"
        raise DataError(Code.EMPTY, "people", f"{why} (a higher --people, or a run in folds, tests more)")


def _row(method: str, metric: str, features: str, value: float, low: float, high: float, n: int) -> Row:
    return Row(method=method, metric=metric, features=features, value=value, low=low, high=high, n=n)


def _standardised(sets: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Features by the mean and spread of those of real images; whatever some image lacks is left out of all
    (:func:`left_out`)."""
    known = ~np.isnan(np.concatenate(list(sets.values()))).any(axis=0)
    mean, spread = sets[REAL].mean(axis=0), sets[REAL].std(axis=0)
    kept = known & (spread > 0)
    return {name: (found[:, kept] - mean[kept]) / spread[kept] for name, found in sets.items()}


def left_out(shown: Shown) -> int:
    """How many features of texture are left out, as in some image a structure is not seen."""
    sets = shown.features[RADIOMIC].values()
    return int(torch.cat(list(sets)).isnan().any(dim=0).sum())


HEADS = {
    (TOLD, ""): "told apart (AUC)",
    (FRECHET, JUDGE): "Fréchet, judge",
    (KERNEL, JUDGE): "kernel, judge",
    (FRECHET, RADIOMIC): "Fréchet, radiomic",
    (KERNEL, RADIOMIC): "kernel, radiomic",
}


def render_realism(rows: Sequence[Row], name: str, people: int, within: float, lacking: int = 0) -> str:
    """The rows as Markdown; ``lacking`` as of :func:`left_out`."""
    index = {(row["method"], row["metric"], row["features"]): row for row in rows}
    columns = [key for key in HEADS if any((row["metric"], row["features"]) == key for row in rows)]
    body = [
        [names.method_name(method), *(_cell(index[method, *key]) for key in columns)]
        for method in dict.fromkeys(row["method"] for row in rows)
    ]
    return (
        f"""\
# {name}: can answers be told from real images?

Real images of {people} people, and answers about them, each asked for a change of one variable by up to
{within:g} standard deviations. In brackets are 95 % intervals, of the AUC over people, of distances over halvings.

{grid(["", *(HEADS[key] for key in columns)], body)}

- Told apart: how well a classifier that was trained on others tells the two, 0.5 where it cannot.
- Fréchet, kernel: distances between one half's real images and the other half's answers, by features of the judge's
  network or by the texture of the frame and of each structure, in standard deviations of real images squared. What
  matters is by how much they exceed those of two halves of real images.
- Real images, blurred: by half a pixel, which a classifier should see. If it does not, its AUC says little.
- Two halves are told apart by classifiers that have learnt from half as many images as the others.
{f"- {lacking} features of texture are left out: some image lacks their structure." if lacking else ""}
""".rstrip()
        + "\n"
    )


def _cell(row: Row) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def write_realism(
    rows: Sequence[Row],
    verified: Sequence[Verified],
    name: str,
    people: int,
    within: float,
    folder: Path,
    lacking: int = 0,
) -> None:
    """Write ``realism.json`` and ``realism.md``, with what is known of identity (:mod:`segcft.evaluate.identity`)."""
    content = {"realism": rows, "identity": [one._asdict() for one in verified]}
    write_text(folder / "realism.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    text = render_realism(rows, name, people, within, lacking)
    write_text(folder / "realism.md", f"{text}\n{render_identity(verified)}")
