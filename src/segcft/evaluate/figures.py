"""Pictures of counterfactuals: what a reader looks at before believing a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import segcft
from segcft.config.study import Study
from segcft.evaluate import names
from segcft.evaluate.answers import Answers, FigureQueries
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.page import Page, blank, frame, levels, outline, percent, show
from segcft.evaluate.pair_figures import draw_pairs
from segcft.evaluate.pairs import PairQueries
from segcft.evaluate.planes import Planes
from segcft.grey import BLACK, GREY_LEVELS, largest_change
from segcft.grid import Grid
from segcft.io.provenance import KEY, SYNTHETIC
from segcft.io.rendering import structure_colours
from segcft.measures.measurements import Measurements
from segcft.utils.atomic import written
from segcft.utils.progress import Progress

METHOD_COLOURS = {"none": "#7f7f7f", "regressor": "#e6862a", "segmentor": "#1f6fb4", "predictor": "#2a9d6e"}
BEFORE, AFTER, TRUE = "#222222", "#0a7d32", "#b8860b"
GRID = (-0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4)
"""Relative changes that ``asked-obtained`` asks for."""
CURVE_SAMPLES = 32
FEWEST = 4  # samples that a point of a curve needs


def write_figures(
    study: Study, parts: Sequence[Callable[[], FigureQueries]], folder: Path, progress: Progress | None = None
) -> None:
    """Write ``counterfactuals-<structure>.png``, ``differences-<structure>.png`` and ``asked-obtained.png``, and
    ``progression.png`` and ``pairs-<question>.png`` where the study has them. Where attributes are judged, each has the
    first two figures as well, as ``attribute-NAME.png`` and ``attribute-NAME-differences.png``.

    Each of ``parts`` gives the queries about a part of the samples, with models and judge of their own: a fold. They
    are asked one after the other, so that the models of one at a time are needed.
    """
    spec = study.evaluation
    answers: dict[str, list[Answers]] = {structure: [] for structure in study.structures}
    curves: dict[str, list[dict[str, Tensor]]] = {structure: [] for structure in study.structures}
    rising: list[Answers] = []
    traits: dict[str, list[Answers]] = {name: [] for name in study.attributes if study.predictor_judge is not None}
    folder.mkdir(parents=True, exist_ok=True)
    figures = (len(parts) + 1) * (len(answers) + len(traits))
    with (progress or Progress()).task("Drawing figures", figures) as task:
        for k, part in enumerate(parts):
            queries = part()
            people, samples = _share(spec.figure_people, k, len(parts)), max(1, _share(CURVE_SAMPLES, k, len(parts)))
            for structure in study.structures:
                if people:
                    answers[structure].append(queries.answers(structure, people, spec.figure_changes))
                curves[structure].append(queries.obtained(structure, samples, GRID))
                task.advance()
            for name, asked in traits.items():
                if people:
                    asked.append(queries.levels(name, people, spec.progression_quantiles))
                task.advance()
            if spec.progression and people:
                rising.append(queries.progression(spec.progression, people, spec.progression_quantiles))
        for structure, found in answers.items():
            shown = Answers.joined(found)
            _save(draw_counterfactuals(shown, structure, study), folder / f"counterfactuals-{structure}.png", study)
            title, changes = f"{plain(structure).capitalize()} changed", [percent(one) for one in spec.figure_changes]
            differences = draw_differences(shown, changes, title, study, structure)
            _save(differences, folder / f"differences-{structure}.png", study)
            task.advance()
        for name, found in traits.items():
            shown, labels = Answers.joined(found), _levels(name, study)
            title = f"do({plain(name)})"
            file = "attribute-" + re.sub(r"[^\w.-]+", "_", name)  # a variable may have any name
            _save(_draw_outlined(shown, labels, title, [], study), folder / f"{file}.png", study)
            _save(draw_differences(shown, labels, title, study), folder / f"{file}-differences.png", study)
            task.advance()
        whole = {s: {m: torch.cat([one[m] for one in found]) for m in found[0]} for s, found in curves.items()}
        if whole:
            _save(draw_curves(whole, Measurements.of(study).word), folder / "asked-obtained.png", study)
        if rising:
            _save(draw_progression(Answers.joined(rising), study), folder / "progression.png", study)
        if spec.pairs is not None:
            _save_pairs(parts[0](), folder)  # of the first part: the models of one are needed at a time


def _save_pairs(queries: FigureQueries, folder: Path) -> None:
    """The figures of answers beside the subjects' own other images."""
    study = queries.cohort.study
    pairs = PairQueries(queries.cohort, queries.models, queries.judge, queries.training)
    for name, figure in draw_pairs(pairs, study.evaluation.figure_people):
        _save(figure, folder / f"pairs-{name}.png", study)


def _share(total: int, part: int, parts: int) -> int:
    """That of a part, from 0, of ``total`` in whole numbers."""
    return total // parts + (part < total % parts)


def draw_counterfactuals(answers: Answers, structure: str, study: Study) -> Any:
    """The images themselves, with the judge's outlines, and the target's measure asked for and obtained."""
    target, measurements = list(study.structures).index(structure), Measurements.of(study)
    word, unit = measurements.words[target], measurements.units[target]
    changed = "changed: " if measurements.all[target].measure.ratio else "changed by shares of its range:\n"
    title = f"{plain(structure).capitalize()} {changed}{word} asked for / read by the judge, in {unit}"
    changes = [percent(change) for change in study.evaluation.figure_changes]
    return _draw_outlined(answers, changes, title, [target], study)


def draw_progression(answers: Answers, study: Study) -> Any:
    """Variables that rise together, a stage after the other, with the judge's outlines and all measures."""
    spec, measurements = study.evaluation, Measurements.of(study)
    rising = " and ".join(plain(variable) for variable in spec.progression)
    title = f"{rising.capitalize()} through quantiles of the training samples, all else held"
    if study.structures:
        shown = ", ".join(map(plain, study.structures))
        title += f":\n{measurements.word}s asked for / read by the judge of {shown}, in {measurements.unit}"
    stages = [f"{100 * quantile:.0f} %" for quantile in spec.progression_quantiles]
    return _draw_outlined(answers, stages, title, range(len(study.structures)), study)


def _draw_outlined(answers: Answers, labels: Sequence[str], title: str, labelled: Sequence[int], study: Study) -> Any:
    """A page of ``answers`` with the judge's outlines; of the structures ``labelled`` what was asked and obtained."""
    views = _views(answers, study)
    page = Page(len(answers.measured), list(answers.images), labels, views[0].size, title)
    measurements = Measurements.of(study)

    def panel(axes: Any, view: Planes, image: Tensor, masks: Tensor, asked: Tensor) -> None:
        masks = masks.cpu()
        show(axes, view(image, BLACK))
        for mask, colour in zip(view(masks).numpy(), structure_colours(len(masks)), strict=True):
            outline(axes, mask, colour)
        read = measurements.read(masks[None], image.cpu()[None])[0]
        axes.set_xlabel("    ".join(f"{_number(float(asked[s]))} / {_number(float(read[s]))}" for s in labelled))

    for sample, image in enumerate(answers.samples.image):
        known = answers.samples.values[sample, study.measured_columns]
        panel(page.factual(sample), views[sample], image, answers.before[sample], known)
    for sample, method, change, image in page.places(answers.images):
        axes = page.panel(sample, method, change)
        if image.isnan().any():
            blank(axes)
        else:
            panel(axes, views[sample], image, answers.after[method][sample, change], answers.measured[sample, change])
    if study.masked:
        colours = structure_colours(len(study.masked))
        page.legend([(plain(name), colour, "-") for name, colour in zip(study.masked, colours, strict=True)])
    return page.figure


def _views(answers: Answers, study: Study) -> list[Planes]:
    """What is seen of each sample: the same planes of all answers about it."""
    return [Planes(Grid.of(study.image), masks) for masks in answers.before]


def _levels(name: str, study: Study) -> list[str]:
    """What a variable is in the columns of its figure: its categories, or quantiles."""
    quantiles = [f"{100 * quantile:.0f} %" for quantile in study.evaluation.progression_quantiles]
    return list(study.variables[name].categories) or quantiles


def draw_differences(answers: Answers, labels: Sequence[str], title: str, study: Study, structure: str = "") -> Any:
    """Counterfactual minus image on one scale, of the channel that changes most, with the outline of the structure
    intervened on before, after and, where a simulator knows it, in the true counterfactual."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    name, target = plain(structure), list(study.structures).index(structure) if structure else None
    title = f"{title}: counterfactual minus image"
    views = _views(answers, study)
    page = Page(len(answers.measured), list(answers.images), labels, views[0].size, title, margin=0.75)
    differences = {
        method: largest_change(images - answers.samples.image[:, None], 2) * GREY_LEVELS
        for method, images in answers.images.items()
    }
    sizes = np.concatenate([d.abs().cpu().numpy().ravel() for d in differences.values()])
    # The few extreme pixels would make everything else look pale.
    limit = max(1.0, float(np.nanquantile(sizes, 0.995)))
    shown = Measurements.of(study).shown
    before = shown(answers.before)[:, target].cpu() if target is not None else None
    for sample, (image, view) in enumerate(zip(answers.samples.image, views, strict=True)):
        show(page.factual(sample), view(image, BLACK))
        if before is not None and target is not None:
            outline(page.factual(sample), view(before[sample]).numpy(), structure_colours(target + 1)[target])
    for sample, method, change, image in page.places(answers.images):
        axes = page.panel(sample, method, change)
        if image.isnan().any():
            blank(axes)
            continue
        frame(axes)
        view = views[sample]
        difference = view(differences[method][sample, change].cpu())
        axes.imshow(difference.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="lanczos")
        if before is not None:
            outline(axes, view(before[sample]).numpy(), BEFORE, ":")
            if names.TRUTH in answers.after and method != names.TRUTH:
                true = shown(answers.after[names.TRUTH][sample, change][None])[0, target]
                outline(axes, view(true.nan_to_num(0.0).cpu()).numpy(), TRUE, "--")
            after = shown(answers.after[method][sample, change][None])[0, target]
            outline(axes, view(after.cpu()).numpy(), AFTER)
    if structure:
        lines = [(f"{name} in the image", BEFORE, ":"), (f"{name} in the counterfactual", AFTER, "-")]
        page.legend(lines + ([(f"{name} in the true one", TRUE, "--")] if names.TRUTH in answers.after else []))
    page.colour_bar(ScalarMappable(Normalize(-limit, limit), "RdBu_r"), levels(study.image.channels))
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
