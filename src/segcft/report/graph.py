"""The causal graph as it is drawn: where boxes are, and how arrows run between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segcft.config.graph import Graph
from segcft.config.study import Study
from segcft.evaluate.names import plain

IMAGE = "\0image"
"""The image's name in the graph: no variable can have it."""

CHARACTER, LINE = 8.2, 46.0  # width of a letter and height of a box, in px
COLUMN_GAP, ROW_GAP, THIN = 90.0, 22.0, 14.0  # THIN: height that an arrow on its way takes
MARGIN = 8.0


@dataclass(frozen=True)
class Box:
    """A variable or the image, centred at (x, y)."""

    name: str
    note: str
    """Its unit or categories."""
    kind: str
    """attribute, area or image."""
    x: float
    y: float
    width: float
    height: float = LINE


@dataclass(frozen=True)
class Arrow:
    """From a cause to its effect, as the ``d`` of an SVG path."""

    cause: str
    effect: str
    path: str


@dataclass(frozen=True)
class Drawing:
    """A drawn graph, in px."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    text: str
    """The graph in words."""


Place = tuple[str, str]
"""Of a box (name, ""), or of an arrow on its way through a layer (cause, effect)."""


def draw_graph(study: Study) -> Drawing:
    """Lay the graph of ``study`` out from left to right: causes, effects, the image, which all variables cause.

    Layers are by the longest path from a root. An arrow that passes a layer has a place of its own there, above or
    below, so that it runs through no box (Sugiyama et al. 1981).
    """
    parents = {name: list(variable.parents) for name, variable in study.variables.items()}
    parents[IMAGE] = list(study.variables)
    layer: dict[str, int] = {}
    for name in Graph(parents).order:
        layer[name] = 1 + max((layer[cause] for cause in parents[name]), default=-1)
    layers = _places(parents, layer)
    notes = {name: _note(study, name) for name in parents}
    widths = [max((_width(name, notes[name]) for name, via in places if not via), default=0.0) for places in layers]
    heights = [sum(THIN if via else LINE for _, via in p) + ROW_GAP * (len(p) - 1) for p in layers]
    height = max(heights) + 2 * MARGIN
    where: dict[Place, tuple[float, float, float]] = {}
    left = MARGIN
    for places, width, tall in zip(layers, widths, heights, strict=True):
        top = (height - tall) / 2
        for place in places:
            thick = THIN if place[1] else LINE
            where[place] = (left + width / 2, top + thick / 2, width)
            top += thick + ROW_GAP
        left += width + COLUMN_GAP
    boxes = tuple(Box(_shown(name), notes[name], _kind(study, name), *where[name, ""]) for name in parents)
    arrows = tuple(
        Arrow(_shown(cause), _shown(name), _path(where, layer, cause, name))
        for name, causes in parents.items()
        for cause in causes
    )
    return Drawing(left - COLUMN_GAP + MARGIN, height, boxes, arrows, _in_words(parents))


def _places(parents: Mapping[str, Sequence[str]], layer: Mapping[str, int]) -> list[list[Place]]:
    """What is in each layer, from top to bottom: boxes by the mean place of their causes, arrows outside."""
    layers: list[list[Place]] = [[] for _ in range(layer[IMAGE] + 1)]
    for name, causes in parents.items():
        layers[layer[name]].append((name, ""))
        for cause in causes:
            for between in range(layer[cause] + 1, layer[name]):
                layers[between].append((cause, name))
    for depth in range(1, len(layers)):
        before = {place: k for k, place in enumerate(layers[depth - 1])}
        ranks: dict[Place, float] = {}
        for place in layers[depth]:
            name, effect = place
            if effect:
                k = before[place if place in before else (name, "")]
                ranks[place] = k + (len(before) if 2 * k >= len(before) else -len(before))
            else:
                near = [before[cause, ""] for cause in parents[name] if layer[cause] == depth - 1]
                ranks[place] = sum(near) / len(near)
        layers[depth].sort(key=ranks.__getitem__)
    return layers


def _path(where: Mapping[Place, tuple[float, float, float]], layer: Mapping[str, int], cause: str, name: str) -> str:
    """Horizontal at both ends, level beside the boxes of layers that it passes."""
    centre, y, width = where[cause, ""]
    x = centre + width / 2
    path = f"M{x:.1f},{y:.1f}"
    for _ in range(layer[cause] + 1, layer[name]):
        middle, level, across = where[cause, name]
        start, end = middle - across / 2, middle + across / 2
        path += f" C{(x + start) / 2:.1f},{y:.1f} {(x + start) / 2:.1f},{level:.1f} {start:.1f},{level:.1f} H{end:.1f}"
        x, y = end, level
    middle, level, across = where[name, ""]
    start = middle - across / 2 - 3  # room for the arrow's head
    return f"{path} C{(x + start) / 2:.1f},{y:.1f} {(x + start) / 2:.1f},{level:.1f} {start:.1f},{level:.1f}"


def _shown(name: str) -> str:
    return "image" if name == IMAGE else plain(name)


def _kind(study: Study, name: str) -> str:
    return "image" if name == IMAGE else "area" if name in study.measured else "attribute"


def _note(study: Study, name: str) -> str:
    if name == IMAGE:
        height, width = study.image.size
        return f"{height} x {width} px"
    variable = study.variables[name]
    return ", ".join(variable.categories) or variable.unit or "continuous"


def _width(name: str, note: str) -> float:
    return CHARACTER * max(len(_shown(name)), len(note), 8) + 22


def _in_words(parents: Mapping[str, Sequence[str]]) -> str:
    scalars = {name: causes for name, causes in parents.items() if name != IMAGE}
    roots = [plain(name) for name, causes in scalars.items() if not causes]
    said = [f"{plain(n)} is caused by {' and '.join(map(plain, causes))}" for n, causes in scalars.items() if causes]
    return "; ".join([f"without causes: {', '.join(roots)}", *said, "the image is caused by all of them"])
