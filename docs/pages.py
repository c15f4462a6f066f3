"""What the executed pages share: a place to run in, and pictures.

Importing it moves the page to a folder of its own that has the repository's models and studies, so that its commands
are those of a reader in the repository and what they write is gone afterwards.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from IPython.core.magic import register_cell_magic
from IPython.display import HTML, Image, Markdown
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segcft.config.study import Study
from segcft.evaluate.names import plain
from segcft.evaluate.page import frame, outline
from segcft.evaluate.table import grid
from segcft.grey import largest_change
from segcft.io.rendering import structure_colours
from segcft.report.graph import graph_svg

matplotlib.use("agg")
# A package that draws its bars in notebooks asks for what pages do not need.
warnings.filterwarnings("ignore", message="IProgress not found")

ROOT = Path(__file__).parents[1]
CHANGE = 40
"""Grey levels at which the colours of a difference are full."""
DPI = 85
"""Pixels of a page to the inch of a figure."""
TITLE, FOOT = 0.3, 0.25
"""Inches above and below pictures."""
GAP = 0.03
"""Between pictures, as a share of their width."""

folder = Path(tempfile.mkdtemp(prefix="segcft-docs-"))
atexit.register(shutil.rmtree, folder, ignore_errors=True)
for name in ("models", "configs"):
    (folder / name).symlink_to(ROOT / name)
os.chdir(folder)
for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):  # or commands take the page for a terminal
    os.environ.pop(name, None)


@register_cell_magic
def bash(line: str, cell: str) -> None:
    """``%%bash``, printed whole: IPython's own prints pieces of 100 characters, between which the site breaks lines."""
    done = subprocess.run(["bash", "-ec", cell], capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    done.check_returncode()


def row(
    pictures: Mapping[str, NDArray[Any]],
    outlines: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
    height: float = 2.6,
) -> Image:
    """Pictures side by side, each under its title: of 8 bits, grey values (H, W) or (1, H, W) or colours (3, H, W); of
    a signed type, differences in grey levels, of the channel that changes most, blue where it got darker and red where
    brighter.

    ``outlines``: title -> structure -> mask (H, W) in 0..1, to be drawn over the picture of that title.
    """
    pictures = {title: _seen(np.squeeze(pixels)) for title, pixels in pictures.items()}
    widths = [pixels.shape[1] / pixels.shape[0] for pixels in pictures.values()]
    total = height + TITLE + FOOT
    figure = Figure(figsize=(height * sum(widths) * (1 + GAP), total))
    edges = {"left": 0, "right": 1, "bottom": FOOT / total, "top": 1 - TITLE / total, "wspace": GAP}
    panels = figure.subplots(1, len(pictures), squeeze=False, width_ratios=widths, gridspec_kw=edges)[0]
    for axes, (title, pixels) in zip(panels, pictures.items(), strict=True):
        frame(axes)
        axes.set_title(title, fontsize=9.5)
        if pixels.dtype == np.uint8:
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
        else:
            axes.imshow(pixels, cmap="RdBu_r", vmin=-CHANGE, vmax=CHANGE, interpolation="lanczos")
        drawn = (outlines or {}).get(title, {})
        for (structure, mask), colour in zip(drawn.items(), structure_colours(len(drawn)), strict=True):
            outline(axes, mask, colour)
            axes.plot([], [], color=colour, label=plain(structure))
    handles, labels = next((axes.get_legend_handles_labels() for axes in panels if axes.lines), ([], []))
    if handles:
        figure.legend(handles, labels, loc="lower right", ncols=len(handles), frameon=False, fontsize=8, borderpad=0)
    figure.text(0, 0.08 / total, "Synthetic. Not for clinical use.", fontsize=7, color="#777777")
    return picture(figure)


def _seen(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey values (H, W), or of channels (3, H, W) colours (H, W, 3), or what changes most (H, W)."""
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype == np.uint8:
        return np.moveaxis(pixels, 0, -1)
    return largest_change(torch.from_numpy(pixels), 0).numpy()


def picture(figure: Figure) -> Image:
    """A figure as the page shows it, sharp on dense screens as well."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=2 * DPI)
    return Image(file.getvalue(), width=round(figure.get_figwidth() * DPI))


def graph(study: Study) -> HTML:
    """The causal graph of a study, as a report has it; ``_static/segcft.css`` colours it."""
    return HTML(graph_svg(study))


def table(head: Sequence[str], body: Sequence[Sequence[object]], labels: int = 1) -> Markdown:
    """A table of the page; numbers as they are given."""
    return Markdown(grid(head, [[str(cell) for cell in line] for line in body], labels))
