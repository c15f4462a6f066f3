"""What the data say about a study's causal graph: a table and a picture. It suggests, and decides nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segcft.causal.discover import Edge, discover
from segcft.causal.falsify import LEVEL, Falsification, Implied, falsify
from segcft.causal.independence import IndependenceTest
from segcft.causal.layout import Style, lay_out
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.errors import Code, DataError, StudyError
from segcft.evaluate.names import counted, plain
from segcft.evaluate.table import grid
from segcft.utils.atomic import write_text, written
from segcft.utils.progress import Progress

FEWEST = 40
"""Training samples below which nothing is said about a graph."""

OFTEN = 0.5
"""The share of the parts in which an edge is found that makes it worth a thought."""

CHANCE = 0.05
"""The share of the other graphs that may violate no more than the given one, for it to say something of the data."""

STYLE = Style(layers=2.2, boxes=0.4, passing=0.3, margin=0.2, head=0.05)
LETTER, HEIGHT, SIDE = 0.085, 0.4, 0.8
"""Inches: the width of a letter, the height of a box, and the room at the right for what joins boxes of a layer."""
BULGE, ALONG = 0.6, 0.8
"""How far such an edge leaves the straight line, and where along an edge its share is written."""


@dataclass(frozen=True)
class GraphCheck:
    """``samples`` of ``subjects`` were looked at; ``edges`` were found in ``parts`` of the subjects, "" and none where
    none were asked for."""

    study: Study
    samples: int
    subjects: int
    falsification: Falsification
    parts: int
    edges: tuple[Edge, ...]

    def in_graph(self, edge: Edge) -> str:
        """What the study's graph has between the two variables of an edge."""
        variables = self.study.variables
        if edge.first in variables[edge.second].parents:
            return "->"
        if edge.second in variables[edge.first].parents:
            return "<-"
        pairs = {frozenset(pair) for pair in self.study.confounded}
        return "<->" if frozenset((edge.first, edge.second)) in pairs else ""


def check_graph(
    study: Study, store: Store, parts: int, tiers: Sequence[Sequence[str]] | None, seed: int, progress: Progress
) -> GraphCheck:
    """Test a study's graph on the training samples that miss no value: test subjects choose no graph.

    Derived variables are left out: that they depend on others is known.

    Args:
        study: its variables are those of the store.
        store: the samples.
        parts: how many parts of the subjects graphs are looked for in; 0: none.
        tiers: of variables, nothing of which is caused by a later one (default: attributes, then measures).
        seed: of what is drawn.
        progress: is told how far the work is.

    Raises:
        DataError: there are fewer than :data:`FEWEST` such samples.
        StudyError: the tiers are not of the study's variables, each once.
        SegcftError: graphs are looked for, and causal-learn is not installed.
    """
    kept = {name: variable for name, variable in study.variables.items() if not variable.derived}
    names, columns = list(kept), [k for k, name in enumerate(study.variables) if name in kept]
    chosen = _tiers(study, tiers, names)
    rows = store.indices("train", complete=True)
    if len(rows) < FEWEST:
        why = f"{len(rows)} training samples have all values; expected at least {FEWEST}"
        raise DataError(Code.EMPTY, store.folder, why)
    values, owners = store.values()[rows][:, columns].astype(float), list(store.table["patient"].iloc[rows])
    variables, subjects = list(kept.values()), len(set(owners))
    test = IndependenceTest(values, variables, subjects / len(rows))
    parents = {name: variable.parents for name, variable in kept.items()}
    with progress.task("Comparing with other graphs", 1) as task:
        falsification = falsify(parents, study.confounded, test, seed)
        task.advance(1)
    edges: list[Edge] = []
    if parts:
        with progress.task("Looking for graphs", parts) as task:
            edges = discover(values, owners, names, variables, chosen, parts, seed, task.advance)
    return GraphCheck(study, len(rows), subjects, falsification, parts, tuple(edges))


def write_check(check: GraphCheck, folder: Path) -> None:
    """Write ``graph.md``, ``graph.json`` and ``graph.png``."""
    write_text(folder / "graph.md", render_check(check))
    record = {
        "study": check.study.name,
        "samples": check.samples,
        "subjects": check.subjects,
        "implied": [one._asdict() for one in check.falsification.implied],
        "compared": check.falsification.compared,
        "equivalent": check.falsification.equivalent,
        "as_good": check.falsification.as_good,
        "parts": check.parts,
        "edges": [asdict(edge) for edge in check.edges],
    }
    write_text(folder / "graph.json", json.dumps(record, indent=1) + "\n")
    _draw(check, folder / "graph.png")


def render_check(check: GraphCheck) -> str:
    """All that was found, as Markdown."""
    whom = counted(check.samples, check.subjects, "training samples")
    parts = [
        f"# {check.study.name}: what the data say about its causal graph",
        f"From {whom} that miss no value; test people are not looked at. Data can speak against a graph, and never for "
        "one alone: decide by what is known of the subject.",
        "## What the graph implies",
        _implied(check.falsification),
    ]
    if check.parts:
        parts += [
            "## What is found",
            f"In {check.parts} random parts of the people, each of 63 % of them (fast causal inference). *Causes*: the "
            "first causes the second; *is caused*: the other way around; *common cause*: something that is no variable "
            "causes both; *open*: they are joined, and the data do not say how.",
            _found(check),
            _suggestions(check),
        ]
    return "\n\n".join(parts) + "\n"


def _implied(found: Falsification) -> str:
    if not found.implied:
        return "It implies no independence, so no data can speak against it."
    body = [[_in_words(one), f"{one.p:.2g}", "violated" if one.violated else ""] for one in found.implied]
    table = grid(["independence", "p", ""], body)
    violated = f"{len(found.violated)} of {len(found.implied)} are violated (p below {LEVEL:g})."
    if not found.compared:
        return f"{table}\n\n{violated} No other graph with the same arrows can be told apart from it."
    others = f"{found.compared} graphs with the same arrows between other variables"
    if found.as_good > CHANCE:
        verdict = "the graph says no more about the data than chance: doubt it."
    elif found.violated:
        verdict = "the graph says something about the data, but not all that it implies is true."
    else:
        verdict = "nothing speaks against the graph."
    return f"{table}\n\n{violated} {found.as_good:.0%} of {others} violate no more: {verdict}"


def _in_words(one: Implied) -> str:
    given = f", given {' and '.join(map(plain, one.given))}" if one.given else ""
    return f"{plain(one.first)} and {plain(one.second)}{given}"


def _found(check: GraphCheck) -> str:
    head = ["pair", "graph", "found", "causes", "is caused", "common cause", "open"]
    shares = ("found", "forward", "backward", "common", "open")
    body = [
        [f"{plain(edge.first)}, {plain(edge.second)}", check.in_graph(edge)]
        + [f"{getattr(edge, name):.0%}" for name in shares]
        for edge in check.edges
    ]
    return grid(head, body, labels=2)


def _suggestions(check: GraphCheck) -> str:
    def named(edges: Sequence[Edge]) -> str:
        return "; ".join(f"{plain(edge.first)} and {plain(edge.second)} ({edge.found:.0%})" for edge in edges)

    lines = []
    if missing := [edge for edge in check.edges if edge.found >= OFTEN and not check.in_graph(edge)]:
        think = "think of an arrow, of a common cause as a variable, or of `confounded`"
        lines.append(f"- Often joined, and not in the graph: {named(missing)}; {think}.")
    if unseen := [edge for edge in check.edges if edge.found < OFTEN and check.in_graph(edge)]:
        why = "the people may be too few to see it"
        lines.append(f"- In the graph, and seldom joined: {named(unseen)}; {why}.")
    return "\n".join(lines) if lines else "The graph has the edges that are found often, and no others."


def _draw(check: GraphCheck, path: Path) -> None:
    """The study's arrows in black; dashed in red, pairs that are often joined and are not in it; shares beside both."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, Rectangle

    parents = {name: one.parents for name, one in check.study.variables.items() if not one.derived}
    sizes = {name: (LETTER * max(len(plain(name)), 6) + 0.2, HEIGHT) for name in parents}
    layout = lay_out(parents, sizes, STYLE)
    figure = Figure(figsize=(layout.width + SIDE, layout.height), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, layout.width + SIDE), ylim=(layout.height, 0))
    axes.axis("off")
    boxes = {box.name: box for box in layout.boxes}
    for box in layout.boxes:
        frame = Rectangle((box.x - box.width / 2, box.y - box.height / 2), box.width, box.height, fc="white", ec="0.4")
        axes.add_patch(frame)
        axes.text(box.x, box.y, plain(box.name), ha="center", va="center", fontsize=9)
    edges = check.edges or [Edge(cause, name) for name, causes in parents.items() for cause in causes]
    for edge in edges:
        known = check.in_graph(edge)
        if not known and edge.found < OFTEN:
            continue
        left, right = sorted((boxes[edge.first], boxes[edge.second]), key=lambda box: box.x)
        beside = left.x == right.x  # of one layer: around its right side
        start = (left.x + left.width / 2, left.y)
        end = (right.x + right.width / 2 if beside else right.x - right.width / 2, right.y)
        turned = known.translate(str.maketrans("<>", "><"))[::-1] if left.name != edge.first else known
        arrow = FancyArrowPatch(
            start,
            end,
            arrowstyle=turned or "-",
            connectionstyle=f"arc3,rad={-BULGE if beside else 0}",
            linestyle="-" if known else "--",
            color="black" if known else "firebrick",
            mutation_scale=12,
            shrinkA=2,
            shrinkB=2,
        )
        axes.add_patch(arrow)
        if check.edges:
            reach = BULGE * abs(end[1] - start[1]) / 2 if beside else 0.0
            along = 0.5 if beside else ALONG
            x, y = ((1 - along) * a + along * b for a, b in zip(start, end, strict=True))
            shown = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            axes.text(x + reach, y, f"{edge.found:.0%}", fontsize=8, ha="center", va="center", bbox=shown)
    with written(path) as partial:
        figure.savefig(partial, format="png")


def _tiers(study: Study, tiers: Sequence[Sequence[str]] | None, names: Sequence[str]) -> list[list[str]]:
    """The given tiers of ``names``, checked; or attributes and then measures."""
    if tiers is None:
        attributes = [name for name in names if name not in study.measured]
        return [tier for tier in (attributes, list(study.measured)) if tier]
    named = [name for tier in tiers for name in tier]
    if sorted(named) != sorted(names):
        known = ", ".join(names)
        raise StudyError(Code.INVALID, "--tiers", f"expected every variable once ({known}), not {', '.join(named)}")
    return [list(tier) for tier in tiers]
