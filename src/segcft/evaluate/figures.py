"""Pictures of counterfactuals: what a reader looks at before believing a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import segcft
from segcft.config.study import Study
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.grey import GREY_LEVELS
from segcft.data.store import Store
from segcft.evaluate.answers import Answers, FigureQueries
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.page import Page, blank, frame, outline, percent, show
from segcft.evaluate.pair_figures import draw_pairs
from segcft.evaluate.pairs import PairQueries
from segcft.io.provenance import KEY, SYNTHETIC
from segcft.io.rendering import structure_colours
from segcft.readers.reader import MaskReader
from segcft.utils.atomic import written
from segcft.utils.progress import Progress

METHOD_COLOURS = {"none": "#7f7f7f", "regressor": "#e6862a", "segmentor": "#1f6fb4"}
BEFORE, AFTER = "#222222", "#0a7d32"
GRID = (-0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4)
"""Relative changes that ``asked-obtained`` asks for."""
CURVE_SAMPLES = 32
FEWEST = 4  # samples that a point of a curve needs


def write_figures(
    cohort: Cohort,
    models: Mapping[str, CounterfactualModel],
    judge: MaskReader,
    folder: Path,
    training_values: Tensor | None = None,
    progress: Progress | None = None,
    training: Store | None = None,
) -> None:
    """Write ``counterfactuals-<structure>.png``, ``differences-<structure>.png`` and ``asked-obtained.png``, and
    ``progression.png`` and ``pairs-<question>.png`` where the study has them.

    Measures beyond the range of ``training_values`` (N, V), by default that of the cohort's, are avoided: a
    model has seen no sample there. ``training`` are samples that were trained on, for the mean change of pairs.
    """
    study, spec = cohort.study, cohort.study.evaluation
    queries = FigureQueries(cohort, models, judge, cohort.values if training_values is None else training_values)
    folder.mkdir(parents=True, exist_ok=True)
    with (progress or Progress()).task("Drawing figures", len(study.structures)) as task:
        curves = {}
        for structure in study.structures:
            answers = queries.answers(structure, spec.figure_people, spec.figure_changes)
            shown = draw_counterfactuals(answers, structure, study, judge)
            _save(shown, folder / f"counterfactuals-{structure}.png", study)
            _save(draw_differences(answers, structure, study, judge), folder / f"differences-{structure}.png", study)
            curves[structure] = queries.obtained(structure, CURVE_SAMPLES, GRID)
            task.advance()
        _save(draw_curves(curves, judge.measurements.word), folder / "asked-obtained.png", study)
        if spec.progression:
            answers = queries.progression(spec.progression, spec.figure_people, spec.progression_quantiles)
            _save(draw_progression(answers, study, judge), folder / "progression.png", study)
        if spec.pairs is not None:
            for name, figure in draw_pairs(PairQueries(cohort, models, judge, training), spec.figure_people):
                _save(figure, folder / f"pairs-{name}.png", study)


def draw_counterfactuals(answers: Answers, structure: str, study: Study, judge: MaskReader) -> Any:
    """The images themselves, with the judge's outlines, and the target's measure asked for and obtained."""
    target = list(study.structures).index(structure)
    word, unit = judge.measurements.all[target].measure.word, judge.measurements.units[target]
    title = f"{plain(structure).capitalize()} changed: {word} asked for / read by the judge, in {unit}"
    changes = [percent(change) for change in study.evaluation.figure_changes]
    return _draw_outlined(answers, changes, title, [target], study, judge)


def draw_progression(answers: Answers, study: Study, judge: MaskReader) -> Any:
    """Variables that rise together, a stage after the other, with the judge's outlines and all measures."""
    spec = study.evaluation
    rising = " and ".join(plain(variable) for variable in spec.progression)
    title = (
        f"{rising.capitalize()} through quantiles of the training samples, all else held:\n"
        f"{judge.measurements.word}s asked for / read by the judge of {', '.join(map(plain, study.structures))}, in "
        f"{judge.measurements.unit}"
    )
    stages = [f"{100 * quantile:.0f} %" for quantile in spec.progression_quantiles]
    return _draw_outlined(answers, stages, title, range(len(study.structures)), study, judge)


def _draw_outlined(
    answers: Answers, labels: Sequence[str], title: str, labelled: Sequence[int], study: Study, judge: MaskReader
) -> Any:
    """A page of ``answers`` with the judge's outlines; of the structures ``labelled`` what was asked and obtained."""
    page = Page(len(answers.measured), list(answers.images), labels, study.image.size, title)

    def panel(axes: Any, image: Tensor, asked: Tensor) -> None:
        masks = read_masks(judge, image)
        show(axes, image)
        for mask, colour in zip(masks.numpy(), structure_colours(len(masks)), strict=True):
            outline(axes, mask, colour)
        read = judge.measurements.read(masks[None])[0]
        axes.set_xlabel("    ".join(f"{_number(float(asked[s]))} / {_number(float(read[s]))}" for s in labelled))

    for sample, image in enumerate(answers.samples.image):
        panel(page.factual(sample), image, answers.samples.values[sample, study.measured_columns])
    for sample, method, change, image in page.places(answers.images):
        axes = page.panel(sample, method, change)
        if image.isnan().any():
            blank(axes)
        else:
            panel(axes, image, answers.measured[sample, change])
    page.legend(
        [(plain(s), c, "-") for s, c in zip(study.structures, structure_colours(len(study.structures)), strict=True)]
    )
    return page.figure


def draw_differences(answers: Answers, structure: str, study: Study, judge: MaskReader) -> Any:
    """Counterfactual minus image on one scale, with the target's outline before and after."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    name, target = plain(structure), list(study.structures).index(structure)
    changes = [percent(change) for change in study.evaluation.figure_changes]
    title = f"{name.capitalize()} changed: counterfactual minus image"
    page = Page(len(answers.measured), list(answers.images), changes, study.image.size, title, margin=0.75)
    differences = {
        method: (images - answers.samples.image[:, None]).mean(dim=2) * GREY_LEVELS
        for method, images in answers.images.items()
    }
    sizes = np.concatenate([d.abs().cpu().numpy().ravel() for d in differences.values()])
    # The few extreme pixels would make everything else look pale.
    limit = max(1.0, float(np.nanquantile(sizes, 0.995)))
    before = []
    for sample, image in enumerate(answers.samples.image):
        before.append(read_masks(judge, image)[target].numpy())
        show(page.factual(sample), image)
        outline(page.factual(sample), before[sample], structure_colours(target + 1)[target])
    for sample, method, change, image in page.places(answers.images):
        axes = page.panel(sample, method, change)
        if image.isnan().any():
            blank(axes)
            continue
        frame(axes)
        difference = differences[method][sample, change].cpu().numpy()
        axes.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="lanczos")
        outline(axes, before[sample], BEFORE, ":")
        outline(axes, read_masks(judge, image)[target].numpy(), AFTER)
    page.legend([(f"{name} in the image", BEFORE, ":"), (f"{name} in the counterfactual", AFTER, "-")])
    page.colour_bar(ScalarMappable(Normalize(-limit, limit), "RdBu_r"), "grey levels")
    return page.figure


def draw_curves(curves: Mapping[str, Mapping[str, Tensor]], word: str) -> Any:
    """For every structure, the change asked for against the one obtained, a line a method.

    ``curves[structure][method]`` (samples, changes, S): relative changes of all structures' measures, which are called
    ``word``.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    structures, percent = list(curves), 100 * np.array(GRID)
    figure = Figure(figsize=(3.9 * len(structures) + 0.4, 4.9), layout="constrained")
    panels = figure.subplots(1, len(structures), squeeze=False, sharey=True)[0]
    lines = {}
    for s, (structure, axes) in enumerate(zip(structures, panels, strict=True)):
        lines["as asked"] = axes.plot([-45, 45], [-45, 45], color="#333333", lw=0.9, ls="--")[0]
        for method, obtained in curves[structure].items():
            mean, spread = _mean_and_spread(100 * obtained)
            colour = METHOD_COLOURS.get(method, "#2a9d5c")
            low, high = mean[:, s] - spread[:, s], mean[:, s] + spread[:, s]
            axes.fill_between(percent, low, high, color=colour, alpha=0.14, lw=0)
            line = axes.plot(percent, mean[:, s], color=colour, lw=1.9, marker="o", ms=3.5)[0]
            lines[method_name(method)] = line
            axes.plot(percent, np.delete(mean, s, axis=1), color=colour, lw=0.9, ls=":")
        axes.set(title=plain(structure).capitalize(), xlim=(-45, 45), ylim=(-60, 60))
        axes.set_xlabel(f"{word} asked for, change in %")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{word} obtained, change in %")
    if len(structures) > 1:
        lines["the other structures"] = Line2D([], [], color="#777777", lw=0.9, ls=":")
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=len(lines), frameon=False)
    samples = max(len(obtained) for obtained in curves[structures[0]].values())
    figure.suptitle(
        f"{word.capitalize()}s asked for and obtained: mean and standard deviation over up to {samples} samples"
    )
    return figure


@torch.no_grad()
def read_masks(judge: MaskReader, image: Tensor) -> Tensor:
    """The judge's masks (S, H, W) of one image (C, H, W)."""
    return judge.masks(image[None])[0].cpu()


def _mean_and_spread(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over samples of (samples, changes, S); NaN where too few count."""
    few = (~values.isnan()).sum(dim=0) < min(FEWEST, len(values))
    mean = values.nanmean(dim=0)
    spread = (values - mean).square().nanmean(dim=0).sqrt()
    return torch.where(few, torch.nan, mean).numpy(), torch.where(few, torch.nan, spread).numpy()


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _save(figure: Any, path: Path, study: Study) -> None:
    """Write a figure, which says that its images are synthetic, whole, or not at all."""
    said = {"segcft": segcft.__version__, "study": study.name, "figure": path.stem}
    with written(path) as partial:
        figure.savefig(partial, format="png", dpi=130, metadata={"Description": SYNTHETIC, KEY: json.dumps(said)})
