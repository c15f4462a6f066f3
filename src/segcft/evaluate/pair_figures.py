"""Pictures of pairs: an image, what every method makes of it, and what it truly became."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.data.pairs import Direction
from segcft.evaluate.answered import PairedAnswer
from segcft.evaluate.names import NO_CHANGE, TRUTH, method_name, plain
from segcft.evaluate.page import frame, levels, outline, show
from segcft.evaluate.pairs import PairQueries, questions
from segcft.grey import GREY_LEVELS, largest_change
from segcft.io.rendering import structure_colours

PANEL = 1.5
"""Width of a panel in inches; of a wide one its height."""


def draw_pairs(queries: PairQueries, subjects: int) -> Iterator[tuple[str, Any]]:
    """A name and a figure for every direction and question, of as many subjects, an image each."""
    for direction in queries.pairs.directions:
        places = one_each(queries, direction, subjects)
        if len(places) == 0:
            continue
        asked: dict[str, list[PairedAnswer]] = defaultdict(list)
        for answer in queries.answers(places, direction):
            if not answer.image.isnan().any():
                asked[answer.asked.variable].append(answer)
        for question, answers in asked.items():
            yield re.sub(r"[^A-Za-z0-9]+", "-", question), draw_pair(answers, direction)


def one_each(queries: PairQueries, direction: Direction, subjects: int) -> NDArray[np.int64]:
    """Places in the cohort of images that have another one, of as many subjects, at random: the store may be sorted."""
    cohort = queries.cohort
    places = np.random.default_rng(cohort.study.evaluation.seed).permutation(queries.places(direction))
    patients = np.array(cohort.named("patient"))[places]
    _, first = np.unique(patients, return_index=True)
    return places[np.sort(first)][:subjects]


@torch.no_grad()
def draw_pair(answers: Sequence[PairedAnswer], direction: Direction) -> Any:
    """One question: a row a sample with its image, all answers and the truth, and below each how much brighter or
    darker than the truth it is. Outlines are true ones on real images, and the judge's on answers.

    ``answers`` are all of the same samples; the first is the image as it is, and the last the truth.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    asked = answers[0].asked
    study, samples = asked.factual.study, asked.factual.samples
    misses = {a.method: (largest_change(a.image - asked.truth.image, 1) * GREY_LEVELS).cpu().numpy() for a in answers}
    limit = max(1.0, float(np.quantile(np.abs(np.concatenate(list(misses.values()))), 0.995)))
    height, width = study.image.size
    across = PANEL * max(1.0, math.sqrt(width / height))
    panel = (across, across * height / width)
    size = (len(answers) * panel[0] * 1.04 + 0.1, len(samples.image) * (2 * panel[1] + 0.2) + 1.0)
    figure = Figure(figsize=size)
    grid = figure.add_gridspec(
        3 * len(samples.image),
        len(answers),
        left=0.05 / size[0],
        right=1 - 0.05 / size[0],
        top=1 - 0.62 / size[1],
        bottom=0.32 / size[1],
        height_ratios=[panel[1], panel[1], 0.16] * len(samples.image),
        hspace=0.04,
        wspace=0.04,
    )
    colours = structure_colours(len(study.masked))
    for k in range(len(samples.image)):
        for column, answer in enumerate(answers):
            above = figure.add_subplot(grid[3 * k, column])
            show(above, answer.image[k])
            for mask, colour in zip(_outlined(answer)[k].cpu().numpy(), colours, strict=True):
                outline(above, mask, colour)
            if k == 0:
                above.set_title(_title(answer, direction), fontsize=9)
            below = figure.add_subplot(grid[3 * k + 1, column])
            if answer.method == TRUTH:
                below.axis("off")
                if k == 0:
                    _scale(figure, below, limit, levels(study.image.channels))
                continue
            frame(below)
            below.imshow(misses[answer.method][k], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="lanczos")
    figure.suptitle(_question(answers[0], direction), fontsize=11, y=1 - 0.1 / size[1], va="top")
    lines = [Line2D([], [], color=c, label=plain(s)) for s, c in zip(study.masked, colours, strict=True)]
    figure.legend(handles=lines, loc="lower center", ncols=len(lines), frameon=False, fontsize=9, borderpad=0.1)
    return figure


def _scale(figure: Any, axes: Any, limit: float, levels: str) -> None:
    """The scale of the maps, in a panel that is free."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    place = axes.inset_axes((0.12, 0.55, 0.76, 0.07))
    scale = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    bar = figure.colorbar(scale, cax=place, orientation="horizontal", extend="both")
    bar.set_label(f"less the truth, {levels}", fontsize=7, labelpad=2)
    bar.ax.tick_params(labelsize=6)


def _outlined(answer: PairedAnswer) -> Tensor:
    """The masks (B, S, *size) to outline: those that are known, and else what the judge sees."""
    if answer.method == NO_CHANGE:
        return answer.asked.factual.samples.mask
    return answer.asked.truth.mask if answer.method == TRUTH else answer.masks


def _title(answer: PairedAnswer, direction: Direction) -> str:
    if answer.method == NO_CHANGE:
        return f"image, {direction.before}"
    return f"truth, {direction.after}" if answer.method == TRUTH else method_name(answer.method)


def _question(answer: PairedAnswer, direction: Direction) -> str:
    asked, (measures, _) = answer.asked.variable.partition(":")[0], questions(answer.asked.factual.study)
    been = "been those of" if asked == measures else "been"
    return f"Had the {plain(asked)} {been} {direction.after}: answers, and below them answers less the truth"
