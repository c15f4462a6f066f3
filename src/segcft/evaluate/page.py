"""A page of panels, and what is drawn into one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from segcft.evaluate.names import method_name
from segcft.io.outline import outlines
from segcft.io.rendering import is_wide


class Page:
    """A grid of panels: a block of rows a sample, a row a method, a column a change; the image on the left.

    Of wide images, the other way round: a column a method, a row a change. ``changes`` are their labels, ``size``
    (height, width) is that of the images in pixels, ``margin`` the space on the right in inches.
    """

    def __init__(
        self,
        samples: int,
        methods: Sequence[str],
        changes: Sequence[str],
        size: tuple[int, ...],
        title: str,
        margin: float = 0.15,
    ) -> None:
        from matplotlib.figure import Figure

        self.methods = list(methods)
        self.wide = is_wide(*size)
        names = [method_name(method) for method in methods]
        down, right = (list(changes), names) if self.wide else (names, list(changes))
        rows, columns = len(down), len(right)
        panel_width = 1.5 * min(2.0 if self.wide else 2.5, max(0.6, math.sqrt(size[1] / size[0])))
        panel_height = panel_width * size[0] / size[1]
        width = 0.15 + panel_width * (1.25 + 1.06 * columns) + margin
        height = 0.7 + samples * (rows * (panel_height + 0.3) + 0.3) + 0.4
        self.figure = Figure(figsize=(width, height))
        left, self.right = 0.15 / width, 1 - margin / width
        top, bottom = 1 - 0.7 / height, 0.4 / height
        # A narrow column between the image and its counterfactuals, a low row after every sample.
        grid = self.figure.add_gridspec(
            samples * (rows + 1),
            columns + 2,
            left=left,
            right=self.right,
            top=top,
            bottom=bottom,
            height_ratios=([1.0] * rows + [0.1]) * samples,
            width_ratios=[1.0, 0.2] + [1.0] * columns,
            hspace=0.3 / panel_height,
            wspace=0.05,
        )
        self._factual, self._panels = [], []
        for sample in range(samples):
            first = sample * (rows + 1)
            self._factual.append(self.figure.add_subplot(grid[first, 0]))
            panels = [
                [self.figure.add_subplot(grid[first + row, 2 + column]) for column in range(columns)]
                for row in range(rows)
            ]
            for row, label in zip(panels, down, strict=True):
                row[0].set_ylabel(label, fontsize=9)
            self._panels.append(panels)
        self._factual[0].set_title("image", fontsize=9)
        for axes, label in zip(self._panels[0][0], right, strict=True):
            axes.set_title(label, fontsize=9)
        self.figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top")

    def factual(self, sample: int) -> Any:
        """The panel of the sample's image."""
        return self._factual[sample]

    def places(self, images: Mapping[str, Tensor]) -> Iterator[tuple[int, str, int, Tensor]]:
        """Person, method, change and image (C, H, W) of every panel, from (K, M, C, H, W) of every method."""
        for method, answers in images.items():
            for sample, row in enumerate(answers):
                for change, image in enumerate(row):
                    yield sample, method, change, image

    def panel(self, sample: int, method: str, change: int) -> Any:
        """The panel of a method's answer."""
        row, column = self.methods.index(method), change
        if self.wide:
            row, column = column, row
        return self._panels[sample][row][column]

    def legend(self, lines: Sequence[tuple[str, str, str]]) -> None:
        """Label, colour and style of the outlines, at the bottom."""
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=colour, ls=style, label=label) for label, colour, style in lines]
        self.figure.legend(
            handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, borderpad=0.1
        )

    def colour_bar(self, scale: Any, label: str) -> None:
        """A bar for the scale of the maps, beside the first panels."""
        width, height = self.figure.get_size_inches()
        long = min(2.5, height / 2) / height
        axes = self.figure.add_axes((self.right + 0.1 / width, 1 - 0.7 / height - long, 0.12 / width, long))
        bar = self.figure.colorbar(scale, cax=axes, extend="both")
        bar.set_label(label, fontsize=8, labelpad=1)
        bar.ax.tick_params(labelsize=7)


def percent(change: float) -> str:
    """A relative change as a label."""
    return f"{100 * change:+.0f} %".replace("-", "\N{MINUS SIGN}")


def levels(channels: int) -> str:
    """What a difference of images of so many ``channels`` is in."""
    return "grey levels" if channels == 1 else "levels of the channel that changes most"


def show(axes: Any, image: Tensor) -> None:
    """An image (C, H, W) in [-1, 1]: in colour if it has three channels, else the first one in grey."""
    frame(axes)
    pixels = (image.permute(1, 2, 0).cpu().numpy() + 1) / 2
    pixels = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="lanczos")


def outline(axes: Any, mask: np.ndarray, colour: str, style: str = "-") -> None:
    """The outline of a soft mask (H, W)."""
    from matplotlib.collections import LineCollection

    lines = [line - 0.5 for line in outlines(mask)]  # a picture has the centre of its first pixel at (0, 0)
    axes.add_collection(LineCollection(lines, colors=[colour], linewidths=0.9, linestyles=[style]), autolim=False)


def frame(axes: Any) -> None:
    """A bare panel."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.xaxis.label.set(fontsize=7.5)
    axes.xaxis.labelpad = 2


def blank(axes: Any) -> None:
    """A panel for what does not exist."""
    frame(axes)
    axes.text(0.5, 0.5, "cannot be\ndrawn", ha="center", va="center", fontsize=7, color="#777777")
