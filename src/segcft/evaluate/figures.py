"""Pictures of counterfactuals: what a reader looks at before believing a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from segcft.artefact import replace
from segcft.counterfactual import CounterfactualModel, image_counterfactual
from segcft.evaluate import names
from segcft.evaluate.axioms import GREY_LEVELS
from segcft.evaluate.effectiveness import Judge, saved
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.truth import Truth
from segcft.images.likelihood import to_unit
from segcft.progress import Progress

if TYPE_CHECKING:
    from segcft.evaluate.evaluation import Cohort

METHOD_COLOURS = {"none": "#7f7f7f", "regressor": "#e6862a", "segmentor": "#1f6fb4"}
STRUCTURE_COLOURS = ("#35d0ff", "#ffd23f", "#ff5d73", "#7ee081", "#c792ea", "#ff9f5a")
GRID = (-0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4)
"""Relative changes that ``asked-obtained`` asks for."""
CURVE_PEOPLE = 32
FEWEST = 4  # people that a point of a curve needs


def write_figures(
    cohort: Cohort,
    models: Mapping[str, CounterfactualModel],
    judge: Judge,
    folder: Path,
    training_values: Tensor | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``counterfactuals-<structure>.png``, ``differences-<structure>.png`` and ``asked-obtained.png``.

    Only areas within the range of ``training_values`` (N, V), by default that of the cohort's, are asked for:
    beyond it a model has seen nobody.
    """
    values = cohort.values if training_values is None else training_values.to(cohort.device)
    artist = Artist(cohort, models, judge, values.nan_to_num().amin(0), values.nan_to_num().amax(0))
    structures = list(cohort.study.structures)
    folder.mkdir(parents=True, exist_ok=True)
    with (progress or Progress()).task("Drawing figures", 2 * len(structures)) as task:
        for structure in structures:
            answers = artist.answers(structure)
            _save(artist.draw_counterfactuals(answers), folder / f"counterfactuals-{structure}.png")
            _save(artist.draw_differences(answers), folder / f"differences-{structure}.png")
            task.advance()
        curves = []
        for structure in structures:
            curves.append(artist.curve(structure))
            task.advance()
        _save(artist.draw_curves(curves), folder / "asked-obtained.png")


@dataclass(frozen=True)
class Answers:
    """Counterfactuals of K people under M changes of one structure's area, by every method in turn.

    ``factual`` (K, C, H, W) and ``images[method]`` (K, M, C, H, W) are in [-1, 1]; ``areas`` (K, S) and
    ``asked`` (K, M), in the area unit, are true areas and those of the target asked for. A true counterfactual
    that cannot be drawn is NaN.
    """

    structure: str
    factual: Tensor
    areas: Tensor
    asked: Tensor
    images: dict[str, Tensor]


class Artist:
    """Asks the models for counterfactuals and draws them; ``low`` and ``high`` (V,) bound what is asked for."""

    def __init__(
        self,
        cohort: Cohort,
        models: Mapping[str, CounterfactualModel],
        judge: Judge,
        low: Tensor,
        high: Tensor,
    ) -> None:
        self.cohort, self.models, self.judge = cohort, models, judge
        self.low, self.high = low, high
        self.study = cohort.study
        self.truth = Truth.of(cohort.study, cohort.store)
        self.columns = [list(self.study.variables).index(variable) for variable in self.study.areas]
        # Random people: the store may be sorted.
        order = np.random.default_rng(self.study.evaluation.seed).permutation(len(cohort))
        self.order = torch.from_numpy(order).to(cohort.device)

    # ---- asking -------------------------------------------------------------------------------------------

    def answers(self, structure: str) -> Answers:
        """Every method's answers for the people of the figures: those whom most changes leave within range."""
        spec = self.study.evaluation
        values = self.cohort.values[self.order]
        supported = torch.stack([self._supported(values, structure, c) for c in spec.figure_changes])
        best = torch.argsort(supported.sum(dim=0), descending=True, stable=True)[: spec.figure_people]
        places = self.order[best]
        image, before = self._people(places)
        k, target = len(places), self._column(structure)
        changes = torch.tensor(spec.figure_changes, device=self.cohort.device)
        asked = before[:, target, None] * (1 + changes)
        images = {m: self._ask(m, image, before, structure, spec.figure_changes) for m in self.models}
        if self.truth:
            rows = torch.from_numpy(self.cohort.rows).to(places)[places]
            variable = self.study.structures[structure].variable
            drawn = self.truth.counterfactuals(
                rows.repeat_interleave(len(changes)), variable, asked.flatten()
            )
            images[names.TRUTH] = drawn.image.unflatten(0, (k, len(changes)))
        return Answers(structure, image, before[:, self.columns], asked, images)

    def curve(self, structure: str) -> dict[str, Tensor]:
        """Method -> obtained relative change of every structure, (people, changes, S), NaN beyond the range.

        Relative to what the judge reads from the image as it is, so that its bias does not count.
        """
        places = self.order[:CURVE_PEOPLE]
        image, before = self._people(places)
        supported = torch.stack([self._supported(before, structure, change) for change in GRID], dim=1)
        unchanged = self._read(image)
        obtained = {}
        for method in self.models:
            images = self._ask(method, image, before, structure, GRID)
            read = self._read(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            change = read / unchanged[:, None] - 1
            obtained[method] = torch.where(supported[..., None], change, torch.nan).cpu()
        return obtained

    def _supported(self, values: Tensor, structure: str, change: float) -> Tensor:
        """Of which people (B,) the changed area is one that training has seen."""
        k = self._column(structure)
        asked = values[:, k] * (1 + change)
        return (self.low[k] <= asked) & (asked <= self.high[k])

    def _people(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Images and values of the people at these places of the cohort."""
        rows = self.cohort.rows[places.cpu().numpy()]
        grey = torch.from_numpy(np.asarray(self.cohort.store.images[rows])).to(places.device)
        return to_unit(grey), self.cohort.values[places]

    @torch.no_grad()
    def _ask(
        self, method: str, image: Tensor, before: Tensor, structure: str, changes: Sequence[float]
    ) -> Tensor:
        """The images (B, M, C, H, W) of the people under every change of the structure's area."""
        model, target = self.models[method], self._column(structure)
        answers = []
        for change in changes:
            do = torch.full_like(before, torch.nan)
            do[:, target] = before[:, target] * (1 + change)
            after = model.scm.counterfactual(before, do, self._generator())
            answers.append(saved(image_counterfactual(model.hvae, image, before, after, sample=False)))
        return torch.stack(answers, dim=1)

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.cohort.device).manual_seed(self.study.evaluation.seed)

    def _column(self, structure: str) -> int:
        return list(self.study.variables).index(self.study.structures[structure].variable)

    @torch.no_grad()
    def _read(self, images: Tensor) -> Tensor:
        size = self.study.evaluation.batch_size
        return torch.cat([self.judge.areas(part) for part in images.split(size)])

    @torch.no_grad()
    def _masks(self, image: Tensor) -> np.ndarray:
        """The judge's masks (S, H, W) of one image (C, H, W)."""
        masks: np.ndarray = self.judge.masks(image[None])[0].cpu().numpy()
        return masks

    # ---- drawing ------------------------------------------------------------------------------------------

    def draw_counterfactuals(self, answers: Answers) -> Any:
        """The images themselves, with the judge's outlines, and the target's area asked for and obtained."""
        page = Page(self, answers, f"Counterfactual {plain(answers.structure)}: judge's outlines")
        for person in range(len(answers.factual)):
            self._show(page.factual(person), answers.factual[person], answers)
            page.factual(person).set_xlabel(f"{self._area(answers.areas[person, page.target])} in the image")
            for method, images in answers.images.items():
                for change in range(images.shape[1]):
                    axes, image = page.panel(person, method, change), images[person, change]
                    if image.isnan().any():
                        _blank(axes)
                        continue
                    masks = self._show(axes, image, answers)
                    obtained = float(masks[page.target].sum()) * self.study.image.pixel_area
                    asked = float(answers.asked[person, change])
                    axes.set_xlabel(f"{_number(asked)} / {_number(obtained)}")
        page.legend(
            [(plain(s), colour, "-") for s, colour in zip(self.study.structures, _colours(), strict=False)]
        )
        return page.figure

    def draw_differences(self, answers: Answers) -> Any:
        """Counterfactual minus image on one scale, with the target's outline before and after."""
        import matplotlib

        page = Page(self, answers, f"What changed: counterfactual {plain(answers.structure)} minus image")
        differences = {
            method: (images - answers.factual[:, None]).mean(dim=2) * GREY_LEVELS
            for method, images in answers.images.items()
        }
        sizes = torch.cat([d.abs().flatten() for d in differences.values()])
        # The extreme pixels would make everything else look pale.
        limit = max(1.0, float(np.quantile(sizes[~sizes.isnan()].cpu().numpy(), 0.995)))
        style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "lanczos"}
        for person in range(len(answers.factual)):
            outline = self._masks(answers.factual[person])[page.target]
            self._show(page.factual(person), answers.factual[person], answers, outlines=False)
            _outline(page.factual(person), outline, "#35d0ff", "-")
            for method, images in answers.images.items():
                for change in range(images.shape[1]):
                    axes = page.panel(person, method, change)
                    if images[person, change].isnan().any():
                        _blank(axes)
                        continue
                    _frame(axes)
                    axes.imshow(differences[method][person, change].cpu().numpy(), **style)
                    _outline(axes, outline, "#222222", ":")
                    _outline(axes, self._masks(images[person, change])[page.target], "#0a7d32", "-")
        name = plain(answers.structure)
        page.legend([(f"{name} in the image", "#222222", ":"), (f"{name} in the answer", "#0a7d32", "-")])
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-limit, limit), style["cmap"])
        page.colour_bar(scale, "grey levels")
        return page.figure

    def draw_curves(self, curves: Sequence[Mapping[str, Tensor]]) -> Any:
        """For every structure, the change asked for against the one obtained, a line a method."""
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        structures = list(self.study.structures)
        figure = Figure(figsize=(3.9 * len(structures) + 0.4, 4.9), layout="constrained")
        panels = figure.subplots(1, len(structures), squeeze=False, sharey=True)[0]
        percent = 100 * np.array(GRID)
        for s, (structure, axes, curve) in enumerate(zip(structures, panels, curves, strict=True)):
            axes.plot([-45, 45], [-45, 45], color="#333333", lw=0.9, ls="--")
            axes.axhline(0, color="#bbbbbb", lw=0.6)
            for method, obtained in curve.items():
                mean, spread = _mean_and_spread(100 * obtained)
                colour = _method_colour(method)
                axes.fill_between(
                    percent,
                    mean[:, s] - spread[:, s],
                    mean[:, s] + spread[:, s],
                    color=colour,
                    alpha=0.14,
                    lw=0,
                )
                axes.plot(percent, mean[:, s], color=colour, lw=1.9, marker="o", ms=3.5)
                others = [other for other in range(len(structures)) if other != s]
                axes.plot(percent, mean[:, others], color=colour, lw=0.9, ls=":")
            axes.set(title=plain(structure).capitalize(), xlim=(-45, 45), ylim=(-60, 60))
            axes.set_xlabel("area asked for, change in %")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("area obtained, change in %")
        handles = [Line2D([], [], color="#333333", lw=0.9, ls="--", label="as asked")]
        handles += [
            Line2D([], [], color=_method_colour(m), lw=1.9, marker="o", ms=3.5, label=method_name(m))
            for m in self.models
        ]
        handles.append(Line2D([], [], color="#777777", lw=0.9, ls=":", label="other structures"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        people = min(CURVE_PEOPLE, len(self.cohort))
        figure.suptitle(
            f"Area asked for and obtained, as the judge reads it: mean and standard deviation of {people} people"
        )
        return figure

    def _show(self, axes: Any, image: Tensor, answers: Answers, outlines: bool = True) -> np.ndarray:
        """Show one image (C, H, W); returns the judge's masks of it."""
        _frame(axes)
        pixels = (image.permute(1, 2, 0).cpu().numpy() + 1) / 2
        pixels = pixels if pixels.shape[2] == 3 else pixels[..., 0]
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
        masks = self._masks(image)
        if outlines:
            for mask, colour in zip(masks, _colours(), strict=False):
                _outline(axes, mask, colour, "-")
        return masks

    def _area(self, area: Tensor | float) -> str:
        return f"{_number(float(area))} {self.study.image.area_unit}"


class Page:
    """A grid of panels: a block of rows a person, a row a method, a column a change; the image on the left."""

    def __init__(self, artist: Artist, answers: Answers, title: str) -> None:
        from matplotlib.figure import Figure

        self.methods = list(answers.images)
        self.target = list(artist.study.structures).index(answers.structure)
        changes = artist.study.evaluation.figure_changes
        people, rows = len(answers.factual), len(self.methods)
        height, width = artist.study.image.size
        panel_width = 1.5 * min(2.5, max(0.6, math.sqrt(width / height)))
        panel_height = panel_width * height / width
        line = panel_height + 0.27
        figure_width = panel_width * (len(changes) + 1) * 1.05 + 1.2
        self.figure = Figure(figsize=(figure_width, people * (rows * line + 0.15) + 1.25))
        top = 1 - 0.85 / self.figure.get_figheight()
        bottom, left = 0.4 / self.figure.get_figheight(), 0.15 / figure_width
        self.right = 1 - 0.75 / figure_width
        blocks = self.figure.add_gridspec(
            people, 2, left=left, right=self.right, top=top, bottom=bottom,
            width_ratios=(1, len(changes) + 0.35), hspace=0.05, wspace=0.0,
        )  # fmt: skip
        self._factual, self._panels = [], []
        for person in range(people):
            self._factual.append(self.figure.add_subplot(blocks[person, 0]))
            inner = blocks[person, 1].subgridspec(
                rows, len(changes) + 1, width_ratios=(0.35, *(1 for _ in changes)), hspace=0.2, wspace=0.05
            )
            panels = [
                [self.figure.add_subplot(inner[row, column + 1]) for column in range(len(changes))]
                for row in range(rows)
            ]
            for row, method in enumerate(self.methods):
                panels[row][0].set_ylabel(method_name(method), fontsize=9)
            self._panels.append(panels)
        self._factual[0].set_title("image", fontsize=9)
        for axes, change in zip(self._panels[0][0], changes, strict=True):
            axes.set_title(f"{100 * change:+.0f} %".replace("-", "\N{MINUS SIGN}"), fontsize=9)
        self.figure.suptitle(title, fontsize=11, y=1 - 0.12 / self.figure.get_figheight(), va="top")

    def factual(self, person: int) -> Any:
        return self._factual[person]

    def panel(self, person: int, method: str, change: int) -> Any:
        return self._panels[person][self.methods.index(method)][change]

    def legend(self, lines: Sequence[tuple[str, str, str]]) -> None:
        """Label, colour and style of the outlines, at the bottom."""
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=colour, ls=style, label=label) for label, colour, style in lines]
        self.figure.legend(
            handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, borderpad=0.1
        )

    def colour_bar(self, scale: Any, label: str) -> None:
        height = min(2.5, self.figure.get_figheight() / 2) / self.figure.get_figheight()
        axes = self.figure.add_axes((self.right + 0.012, 0.5 - height / 2, 0.014, height))
        bar = self.figure.colorbar(scale, cax=axes)
        bar.set_label(label, fontsize=8, labelpad=1)
        bar.ax.tick_params(labelsize=7)


def _mean_and_spread(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over people of (people, changes, S); NaN where too few count."""
    few = (~values.isnan()).sum(dim=0) < FEWEST
    mean = values.nanmean(dim=0)
    spread = (values - mean).square().nanmean(dim=0).sqrt()
    mean, spread = (torch.where(few, torch.nan, field) for field in (mean, spread))
    return mean.numpy(), spread.numpy()


def _colours() -> list[str]:
    return list(STRUCTURE_COLOURS)


def _method_colour(method: str) -> str:
    return METHOD_COLOURS.get(method, "#2a9d5c")


def _number(area: float) -> str:
    return f"{area:.0f}" if abs(area) >= 100 else f"{area:.3g}"


def _frame(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.xaxis.label.set(fontsize=7.5)
    axes.xaxis.labelpad = 2


def _blank(axes: Any) -> None:
    _frame(axes)
    axes.text(0.5, 0.5, "cannot be\ndrawn", ha="center", va="center", fontsize=7, color="#777777")


def _outline(axes: Any, mask: np.ndarray, colour: str, style: str) -> None:
    """The contour of a soft mask (H, W) at one half."""
    if mask.min() < 0.5 < mask.max():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9, linestyles=[style])


def _save(figure: Any, path: Path) -> None:
    """Write a picture whole, or not at all."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png", dpi=150)
    replace(partial, path)
