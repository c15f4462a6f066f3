"""Where the boxes of a causal graph are, and how arrows run between them: one layout for page, report and docs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segcft.config.graph import Graph

IMAGE = "\0image"
"""The image's name in the graph, which all variables cause: no variable can have it."""

BEND = 0.6
"""How far the ends of a tie's arc point towards the next layer, as a share of the room before it."""

Parents = Mapping[str, Sequence[str]]
Place = tuple[str, str]
"""Of a box (name, ""), or of an arrow on its way through a layer (cause, effect)."""


@dataclass(frozen=True)
class Style:
    """Distances in px. Causes are on the left of their effects, or above them (``down``).

    Attributes:
        layers: room between layers.
        boxes: room between the boxes of a layer.
        passing: what an arrow takes that passes a layer.
        margin: room around all.
        head: room for an arrow's head before a box.
        spread: how far arrows leave and arrive apart, as a share of the way that they go across; at most ``most``.
    """

    layers: float
    boxes: float
    passing: float
    margin: float
    head: float
    spread: float = 0.0
    most: float = 22.0
    down: bool = False


@dataclass(frozen=True)
class Box:
    """A variable or the image, centred at (x, y)."""

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Arrow:
    """From a cause to its effect: the ``d`` of an SVG path and the place of its head.

    It may be ``cut`` at x, y, where it runs at an angle in degrees.
    """

    cause: str
    effect: str
    path: str
    head: tuple[float, float]
    cut: tuple[float, float, float]


@dataclass(frozen=True)
class Tie:
    """Between two variables that have causes in common which are no variables: an arc on the side of their effects,
    with a head at both ``ends``. It may be ``cut``, as an arrow."""

    first: str
    second: str
    path: str
    ends: tuple[tuple[float, float], tuple[float, float]]
    cut: tuple[float, float, float]


@dataclass(frozen=True)
class Layout:
    """A drawn graph, in px."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    ties: tuple[Tie, ...]


class _Stop(NamedTuple):
    """A place along and across the layers, and how long its layer is."""

    along: float
    across: float
    length: float


def with_image(parents: Parents, derived: Sequence[str] = ()) -> dict[str, list[str]]:
    """The graph of the variables and the image, which all of them cause but those that are ``derived``."""
    causes = [name for name in parents if name not in derived]
    return {name: list(some) for name, some in parents.items()} | {IMAGE: causes}


def lay_out(
    parents: Parents, sizes: Mapping[str, tuple[float, float]], style: Style, confounded: Sequence[Place] = ()
) -> Layout:
    """Lay a graph out layer by layer, by the longest path from a root; ``sizes`` are the boxes' widths and heights,
    ``confounded`` the pairs with causes in common that are not in it.

    An arrow that passes a layer has a place of its own there, on one of its two sides, so that it runs through no box
    (Sugiyama et al. 1981). The boxes of a layer are as long as the longest of them.
    """
    layer: dict[str, int] = {}
    for name in Graph(parents).order:
        layer[name] = 1 + max((layer[cause] for cause in parents[name]), default=-1)
    along, across = (1, 0) if style.down else (0, 1)
    layers = _places(parents, layer)
    thick = [[style.passing if via else sizes[name][across] for name, via in places] for places in layers]
    extents = [sum(some) + style.boxes * (len(some) - 1) for some in thick]
    extent = max(extents) + 2 * style.margin
    stops: list[dict[Place, _Stop]] = []
    begin = style.margin
    for places, some, taken in zip(layers, thick, extents, strict=True):
        length = max(sizes[name][along] for name, via in places if not via)
        side, here = (extent - taken) / 2, {}
        for place, size in zip(places, some, strict=True):
            here[place] = _Stop(begin + length / 2, side + size / 2, length)
            side += size + style.boxes
        stops.append(here)
        begin += length + style.layers
    boxes, arrows = [], []
    for name, causes in parents.items():
        end = stops[layer[name]][name, ""]
        sides = _turned(end.length, sizes[name][across], style)
        boxes.append(Box(name, *_turned(end.along, end.across, style), *sides))
        for cause in causes:
            passed = [stops[depth][cause, name] for depth in range(layer[cause] + 1, layer[name])]
            arrows.append(_arrow(cause, name, [stops[layer[cause]][cause, ""], *passed, end], style))
    ties = [_tie(pair, [stops[layer[name]][name, ""] for name in pair], style) for pair in confounded]
    width, height = _turned(begin - style.layers + style.margin, extent, style)
    return Layout(width, height, tuple(boxes), tuple(arrows), tuple(ties))


def _places(parents: Parents, layer: Mapping[str, int]) -> list[list[Place]]:
    """What is in each layer, from one side to the other: boxes by the mean place of their causes, arrows outside."""
    layers: list[list[Place]] = [[] for _ in range(max(layer.values()) + 1)]
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


def _arrow(cause: str, effect: str, stops: Sequence[_Stop], style: Style) -> Arrow:
    """Along the layers at both ends, and straight beside the boxes of layers that it passes."""
    first, *passed, last = stops

    def point(along: float, across: float) -> str:
        x, y = _turned(along, across, style)
        return f"{x:.1f},{y:.1f}"

    def apart(one: _Stop, other: _Stop) -> float:
        return max(-style.most, min(style.most, style.spread * (other.across - one.across)))

    along, across = first.along + first.length / 2, first.across + apart(first, stops[1])
    path = f"M{point(along, across)}"
    for stop in (*passed, last):
        begin, level = stop.along - stop.length / 2, stop.across
        if stop is last:
            begin, level = begin - style.head, level - apart(stops[-2], last)
        middle = (along + begin) / 2
        cut = middle, (across + level) / 2
        turn = math.degrees(math.atan2(*reversed(_turned(begin - along, 2 * (level - across), style))))
        path += f" C{point(middle, across)} {point(middle, level)} {point(begin, level)}"
        if stop is not last:
            path += f" {'V' if style.down else 'H'}{begin + stop.length:.1f}"
        along, across = begin + stop.length, level
    return Arrow(cause, effect, path, _turned(begin, level, style), (*_turned(*cut, style), turn))


def _tie(pair: Place, stops: Sequence[_Stop], style: Style) -> Tie:
    """An arc between two boxes, as deep as there is room for before the next layer."""
    ends = [(stop.along + stop.length / 2 + style.head, stop.across) for stop in stops]
    depth = (style.layers - style.head) * BEND
    bends = [(along + depth, across) for along, across in ends]
    places = [_turned(along, across, style) for along, across in (ends[0], *bends, ends[1])]
    start, first, second, end = (f"{x:.1f},{y:.1f}" for x, y in places)
    # Half way a cubic curve is at 1/8, 3/8, 3/8 and 1/8 of its points, and runs along the last two less the first two.
    middle = [(a + 3 * b + 3 * c + d) / 8 for a, b, c, d in zip(*places, strict=True)]
    slope = [c + d - a - b for a, b, c, d in zip(*places, strict=True)]
    cut = (middle[0], middle[1], math.degrees(math.atan2(slope[1], slope[0])))
    return Tie(*pair, f"M{start} C{first} {second} {end}", (places[0], places[3]), cut)


def _turned(along: float, across: float, style: Style) -> tuple[float, float]:
    """x and y, or a width and height, of a place or length along and across the layers."""
    return (across, along) if style.down else (along, across)
