"""Where the boxes of a causal graph are, and how arrows run between them: one layout for page, report and docs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segcft.causal.brackets import Bracket, brackets
from segcft.config.graph import Graph

IMAGE = "\0image"
"""The image's name in the graph, which all variables cause: no variable can have it."""

BACK = 180.0
"""Degrees by which a head is turned that points to the causes."""

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
        track: from one bracket between variables of a layer to the next one.
    """

    layers: float
    boxes: float
    passing: float
    margin: float
    head: float
    spread: float = 0.0
    most: float = 22.0
    track: float = 9.0
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
    """Between two variables that have causes in common which are no variables: the ``d`` of an SVG path, and at both
    ends x, y of a head and by how many degrees it is turned from that of an arrow.

    In one layer it is a bracket on the side of the effects; between two it runs as an arrow does.
    """

    first: str
    second: str
    path: str
    ends: tuple[tuple[float, float, float], tuple[float, float, float]]


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
    ties = [(first, second) if layer[first] <= layer[second] else (second, first) for first, second in confounded]
    layers = _places(parents, layer, [pair for pair in ties if layer[pair[0]] < layer[pair[1]]])
    thick = [[style.passing if via else sizes[name][across] for name, via in places] for places in layers]
    extents = [sum(some) + style.boxes * (len(some) - 1) for some in thick]
    extent = max(extents) + 2 * style.margin
    stops: list[dict[Place, _Stop]] = []
    spans: dict[Place, Bracket] = {}
    begin = style.margin
    for places, some, taken in zip(layers, thick, extents, strict=True):
        length = max(sizes[name][along] for name, via in places if not via)
        side, here = (extent - taken) / 2, {}
        for place, size in zip(places, some, strict=True):
            here[place] = _Stop(begin + length / 2, side + size / 2, length)
            side += size + style.boxes
        stops.append(here)
        middles = {name: (here[name, via].across, sizes[name][across]) for name, via in places if not via}
        found = brackets([pair for pair in ties if {*pair} <= middles.keys()], middles)
        spans |= found
        reached = begin + length
        begin = reached + style.layers + style.track * max([0, *(span.track - 1 for span in found.values())])
    boxes, arrows, tied = [], [], []
    for name, causes in parents.items():
        end = stops[layer[name]][name, ""]
        sides = _turned(end.length, sizes[name][across], style)
        boxes.append(Box(name, *_turned(end.along, end.across, style), *sides))
        arrows += [_arrow(cause, name, _way(cause, name, layer, stops), style) for cause in causes]
    for pair in ties:
        if pair in spans:
            stop = stops[layer[pair[0]]][pair[0], ""]
            tied.append(_bracket(pair, spans[pair], stop.along + stop.length / 2, style))
        else:
            tied.append(_arrow_both_ways(*pair, _way(*pair, layer, stops), style))
    width, height = _turned(reached + style.margin, extent, style)
    return Layout(width, height, tuple(boxes), tuple(arrows), tuple(tied))


def _way(first: str, last: str, layer: Mapping[str, int], stops: Sequence[Mapping[Place, _Stop]]) -> list[_Stop]:
    """The stops from a box to one of a later layer, through the layers between."""
    passed = [stops[depth][first, last] for depth in range(layer[first] + 1, layer[last])]
    return [stops[layer[first]][first, ""], *passed, stops[layer[last]][last, ""]]


def _places(parents: Parents, layer: Mapping[str, int], ties: Sequence[Place]) -> list[list[Place]]:
    """What is in each layer, from one side to the other: boxes by the mean place of their causes, arrows outside, and
    ``ties`` between two layers as these."""
    layers: list[list[Place]] = [[] for _ in range(max(layer.values()) + 1)]
    for name, causes in parents.items():
        layers[layer[name]].append((name, ""))
        for cause in causes:
            for between in range(layer[cause] + 1, layer[name]):
                layers[between].append((cause, name))
    for first, second in ties:
        for between in range(layer[first] + 1, layer[second]):
            layers[between].append((first, second))
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

    point = functools.partial(_point, style)

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


def _arrow_both_ways(first: str, last: str, stops: Sequence[_Stop], style: Style) -> Tie:
    """As an arrow runs, with a head at its beginning as well."""
    begin, *others = stops
    longer = _Stop(begin.along, begin.across, begin.length + 2 * style.head)  # room for the head
    arrow = _arrow(first, last, [longer, *others], style)
    x, y = map(float, arrow.path[1:].split(" ", 1)[0].split(","))
    return Tie(first, last, arrow.path, ((x, y, BACK), (*arrow.head, 0.0)))


def _bracket(pair: Place, span: Bracket, begin: float, style: Style) -> Tie:
    """From a box out to its track, along it and back to the other box; ``begin`` is where the boxes end."""
    begin += style.head
    deep = begin + style.track * (span.track + 0.5)  # each end has a leg, along which its head points
    turn = min(style.track, span.width / 2) * math.copysign(1, span.end - span.start)
    corner = min(style.track, deep - begin)

    point = functools.partial(_point, style)
    path = (
        f"M{point(begin, span.start)} L{point(deep - corner, span.start)}"
        f" Q{point(deep, span.start)} {point(deep, span.start + turn)} L{point(deep, span.end - turn)}"
        f" Q{point(deep, span.end)} {point(deep - corner, span.end)} L{point(begin, span.end)}"
    )
    ends = [(*_turned(begin, across, style), BACK) for across in (span.start, span.end)]
    return Tie(*pair, path, (ends[0], ends[1]))


def _point(style: Style, along: float, across: float) -> str:
    """A place along and across the layers, as paths have it."""
    x, y = _turned(along, across, style)
    return f"{x:.1f},{y:.1f}"


def _turned(along: float, across: float, style: Style) -> tuple[float, float]:
    """x and y, or a width and height, of a place or length along and across the layers."""
    return (across, along) if style.down else (along, across)
