"""The causal graph as a report draws it."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from segcft.causal.layout import IMAGE, Box, Layout, Style, lay_out, with_image
from segcft.config.study import Study
from segcft.evaluate.names import plain

CHARACTER, LINE = 8.2, 46.0  # width of a letter and height of a box, in px
STYLE = Style(layers=90.0, boxes=22.0, passing=14.0, margin=8.0, head=3.0)


@dataclass(frozen=True)
class Node:
    """A variable or the image: its name, its unit or categories, and whether it is an attribute, measure or image."""

    box: Box
    label: str
    note: str
    kind: str


@dataclass(frozen=True)
class Drawing:
    """The graph of a study as it is drawn, and in words."""

    layout: Layout
    nodes: tuple[Node, ...]
    text: str


def draw_graph(study: Study) -> Drawing:
    """Lay the graph of ``study`` out from left to right: causes, effects, the image, which all variables cause."""
    parents = with_image({name: variable.parents for name, variable in study.variables.items()}, study.derived)
    notes = {name: _note(study, name) for name in parents}
    sizes = {name: (CHARACTER * max(len(shown(name)), len(notes[name]), 8) + 22, LINE) for name in parents}
    layout = lay_out(parents, sizes, STYLE, study.confounded)
    nodes = tuple(Node(box, shown(box.name), notes[box.name], _kind(study, box.name)) for box in layout.boxes)
    return Drawing(layout, nodes, _in_words(study))


def graph_svg(study: Study) -> Markup:
    """The graph of ``study`` as an SVG, whose colours are those of the page around it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: only pages need them

    loader = PackageLoader("segcft.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return Markup(environment.get_template("graph.svg").render(graph=draw_graph(study), shown=shown))


def shown(name: str) -> str:
    """A variable or the image as a reader knows it."""
    return "image" if name == IMAGE else plain(name)


def _kind(study: Study, name: str) -> str:
    return "image" if name == IMAGE else "measure" if name in study.measured else "attribute"


def _note(study: Study, name: str) -> str:
    if name == IMAGE:
        return f"{' x '.join(map(str, study.image.size))} px"
    variable = study.variables[name]
    return ", ".join(variable.categories) or variable.unit or "continuous"


def _in_words(study: Study) -> str:
    parents = {name: variable.parents for name, variable in study.variables.items()}
    roots = [plain(name) for name, causes in parents.items() if not causes]
    caused = [f"{plain(n)} is caused by {' and '.join(map(plain, causes))}" for n, causes in parents.items() if causes]
    tied = [f"{plain(a)} and {plain(b)} have causes in common that are not shown" for a, b in study.confounded]
    return "; ".join([f"without causes: {', '.join(roots)}", *caused, *tied, "the image is caused by all of them"])
