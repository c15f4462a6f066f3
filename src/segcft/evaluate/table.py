"""The rows of an evaluation as text: Markdown that also reads well on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.evaluate import names
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.scores import Row

FEW = 30
"""People below whom the table warns of its intervals."""

Find = Callable[..., Row | None]


def render_table(rows: Sequence[Row], study: Study, notes: Sequence[str] = (), patients: int | None = None) -> str:
    """All rows as Markdown: effectiveness, the judge's reading error, axioms, locality and true error.

    ``notes`` are lines at the top, for what the rows do not show; ``patients`` is of how many people the samples are
    (default: of as many).
    """
    find = _finder(rows)
    methods = [m for m in names.METHODS if any(row["method"] == m for row in rows)]
    asked_of = list(dict.fromkeys(row["intervention"] for row in rows if row["intervention"]))
    interventions = [
        v for v in asked_of if any(find(m, study.evaluation.metric, v, s) for m in methods for s in study.structures)
    ]
    people = max((row["n"] for row in rows), default=0)
    parts = [
        _title(study, people, people if patients is None else patients, notes),
        _effectiveness(find, study, methods, interventions),
        _judge(find, study),
        _slopes(find, study, methods, asked_of),
        _soundness(find, study, methods, interventions),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def few_people(people: int) -> list[str]:
    """What a reader must know of an evaluation on so few people, if they are few."""
    if people >= FEW:
        return []
    if people == 1:
        return ["Only 1 person: no figure has an interval, and no difference means anything."]
    return [f"Only {people} people: the intervals are wide, and small differences mean nothing."]


def _title(study: Study, samples: int, patients: int, notes: Sequence[str]) -> str:
    source = "simulated people" if isinstance(study.data, SimulatedData) else "samples"
    height, width = study.image.size
    whom = names.counted(samples, patients, source)
    lines = [f"# {study.name}: counterfactuals of {whom}, {height} x {width} pixels"]
    if study.description:
        lines += ["", study.description]
    lines += ["", "± is half the width of the 95 % bootstrap interval over people."]
    for note in notes:
        lines += ["", f"**{note}**"]
    return "\n".join(lines)


def _effectiveness(find: Find, study: Study, methods: list[str], interventions: list[str]) -> str:
    metric = study.evaluation.metric
    unit = "%" if metric == "mape" else study.image.cell_unit
    body = []
    for variable in interventions:
        for method in methods:
            found = [find(method, metric, variable, structure) for structure in study.structures]
            if any(found):
                body.append([plain(variable), method_name(method), *map(cell, found)])
    text = f"""\
## Effectiveness: {_metric_name(study)} of the area in {unit}, lower is better

{grid(["do", "method", *map(plain, study.structures)], body, labels=2)}

Each person's variable is set to another person's value; an independent judge reads the areas of the
counterfactual image and they are compared with those asked for. **Bold**: the structure intervened on.
The other structures should keep their areas, or follow their causes.

- {method_name(names.NO_CHANGE)}: the image as it is, as the answer to everything."""
    explained = {
        "none": "the image model after likelihood training alone.",
        "regressor": "fine-tuned to show the areas that a regressor reads.",
        "segmentor": "fine-tuned to show the areas that a segmentor's masks sum to.",
        names.SEG_LESS_REG: "their errors' difference, person by person; below 0: Seg-CFT is the better one.",
        names.TRUTH: "the simulator's own counterfactual, which no method can be expected to beat.",
    }
    if not set(interventions) <= set(study.measured):
        explained[names.TRUTH] = "the simulator's own counterfactual, by its causal model and not the learnt one."
    lines = [f"- {method_name(m)}: {explained[m]}" for m in methods if m in explained]
    return "\n".join([text, *lines])


def _judge(find: Find, study: Study) -> str:
    metric = study.evaluation.metric
    unit = " in %" if metric == "mape" else f" in {study.image.cell_unit}"
    body = [
        [label, *(cell(find(names.JUDGE, key, "", structure), digits) for structure in study.structures)]
        for label, key, digits in (
            (f"{_metric_name(study)} of the area{unit}", metric, 1),
            ("Dice of the mask", names.DICE, 3),
        )
    ]
    return f"""\
## The judge's reading error on the images as they are

{grid(["judge", *map(plain, study.structures)], body)}

Effectiveness cannot be measured more finely than the judge reads."""


def _slopes(find: Find, study: Study, methods: list[str], asked_of: list[str]) -> str:
    body = []
    for variable in asked_of:
        for method in methods:
            found = [find(method, names.SLOPE, variable, structure) for structure in study.structures]
            if any(found):
                body.append([plain(variable), method_name(method), *(cell(row, 2) for row in found)])
    if not body:
        return ""
    return f"""\
## Do areas move as far as they should? Slope of obtained on asked change; 1 is right

{grid(["do", "method", *map(plain, study.structures)], body, labels=2)}

The change that the judge reads, from the image to its counterfactual, on the change asked for: of the structure
intervened on, or of all that follow a cause as the attributes' mechanisms say. Least squares through the origin."""


def _soundness(find: Find, study: Study, methods: list[str], interventions: list[str]) -> str:
    models = [m for m in methods if m != names.JUDGE]
    lines = [
        ("composition", names.COMPOSITION, "", 4, 1.0),
        ("composition, worst pixel", names.COMPOSITION_MAX, "", 4, 1.0),
        ("reconstruction", names.RECONSTRUCTION, "", 2, 1.0),
    ]
    for label, metric, digits, factor in (
        ("reversibility", names.REVERSIBILITY, 2, 1.0),
        ("locality, %", names.LOCALITY, 1, 100.0),
        ("true error", names.TRUE_ERROR, 2, 1.0),
        ("true error, whole image", names.TRUE_ERROR_WHOLE, 2, 1.0),
    ):
        lines += [(f"{label}: do({plain(v)})", metric, v, digits, factor) for v in interventions]
    body = []
    for label, metric, variable, digits, factor in lines:
        found = [find(method, metric, variable, "") for method in models]
        if any(found):
            body.append([label, *(cell(row, digits, factor) for row in found)])
    used = [0, *(i for i in range(1, len(models) + 1) if any(line[i] for line in body))]
    table = grid([["", *map(method_name, models)][i] for i in used], [[line[i] for i in used] for line in body])
    text = f"""\
## Axioms and locality, in grey levels (0 to 255) where not in %

{table}

- composition: change of the image where nothing was asked, mean over pixels; and at worst. It should be 0.
- reconstruction: distance of the image from what the latents alone give of it; small: the model explains it.
- reversibility: distance from the image after an intervention and its undoing.
- locality: share of all change that is near the structure intervened on, where it was or is now
  (within {100 * study.evaluation.dilation:g} % of the image's longer side). Higher is better."""
    if not any(find(method, names.TRUE_ERROR, v, "") for method in models for v in interventions):
        return text
    return f"""{text}
- true error: distance from the simulator's true counterfactual, near the structures that truly changed; then
  over the whole image."""


def _metric_name(study: Study) -> str:
    return f"mean absolute error ({study.evaluation.metric.upper()})"


def _finder(rows: Iterable[Row]) -> Find:
    index = {(r["method"], r["metric"], r["intervention"], r["structure"]): r for r in rows}

    def find(method: str, metric: str, intervention: str, structure: str) -> Row | None:
        return index.get((method, metric, intervention, structure))

    return find


def cell(row: Row | None, digits: int = 1, factor: float = 1.0) -> str:
    """Value and half-width of its interval; bold where the structure was intervened on."""
    if row is None:
        return ""
    if row["value"] is None:
        return "-"
    sign = "+" if row["method"] == names.SEG_LESS_REG else ""
    rounded = round(factor * row["value"], digits) + 0.0  # no minus before a zero
    value = f"{rounded:{sign}.{digits}f}"
    value = f"**{value}**" if row["intervened"] else value
    if row["ci_low"] is None:
        return value
    return f"{value} ±{factor * (row['ci_high'] - row['ci_low']) / 2:.{digits}f}"


def grid(head: Sequence[str], body: Sequence[Sequence[str]], labels: int = 1) -> str:
    """A Markdown table whose columns are padded to line up, the ``labels`` first ones to the left."""
    lines = [list(head), *map(list, body)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "| " + " | ".join(c.ljust(w) if i < labels else c.rjust(w) for i, (c, w) in pairs) + " |"

    rule = [("-" * w) if i < labels else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([row(lines[0]), row(rule), *map(row, lines[1:])])
