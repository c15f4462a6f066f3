"""The rows of an evaluation as text: Markdown that also reads well on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.evaluate import names
from segcft.evaluate.metrics.displacement import Displacement
from segcft.evaluate.metrics.effectiveness import error_of
from segcft.evaluate.metrics.kinship import KIN, Kinship
from segcft.evaluate.metrics.metric import Metric, PairMetric, metrics_of
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.scores import Row
from segcft.measures.measurements import Measurements

FEW = 30
"""Subjects below which the table warns of its intervals."""

PAIRS = """\
Up to {images} images a direction have another one of the same subject and place, which is the truth about them. A
method is told the other image's {measures}, or the condition that it was taken under, and nothing else of it."""
NO_PAIRS = "No image has another one of the same subject and place under another condition (evaluation.pairs)."


OVER_PEOPLE = "the 95 % bootstrap interval over people"
"""What intervals are, unless something else is said."""


def render_table(
    rows: Sequence[Row],
    study: Study,
    notes: Sequence[str] = (),
    patients: int | None = None,
    interval: str = OVER_PEOPLE,
) -> str:
    """All rows as Markdown: the study's error, what the judge makes of the images as they are, then the other metrics,
    those of single structures in tables of their own.

    ``notes`` are lines at the top, for what the rows do not show; ``patients`` is how many subjects the samples have
    (default: one each). ``interval`` says what intervals are.
    """
    table = _Table(rows, study)
    samples = judged_samples(rows)
    error = error_of(study)
    parts = [
        _title(study, samples, samples if patients is None else patients, notes, interval),
        "\n\n".join(filter(None, [table.of_structures(error), table.methods_in_words()])),
        table.of_judge(),
        table.of_guides(),
        *(table.of_structures(m) for m in metrics_of(study) if m is not error and not _has_its_own(m)),
        table.of_places(),
        table.of_images(),
        table.of_pairs(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _has_its_own(metric: Metric) -> bool:
    """Whether a metric is in a table with others."""
    return isinstance(metric, PairMetric | Displacement)


def judged_samples(rows: Sequence[Row]) -> int:
    """How many samples the rows of an evaluation are of; what training people show is of others."""
    return max((row["n"] for row in rows if row["method"] != names.PEOPLE), default=0)


def few_subjects(subjects: int) -> list[str]:
    """What a reader must know of an evaluation on so few subjects, if they are few."""
    if subjects >= FEW:
        return []
    if subjects == 1:
        return ["Only 1 person: no figure has an interval, and no difference means anything."]
    return [f"Only {subjects} people: the intervals are wide, and small differences mean nothing."]


def _title(study: Study, samples: int, patients: int, notes: Sequence[str], interval: str) -> str:
    source = "simulated people" if isinstance(study.data, SimulatedData) else "samples"
    whom = names.counted(samples, patients, source)
    lines = [f"# {study.name}: counterfactuals of {whom}, {study.image.words}"]
    if study.description:
        lines += ["", study.description]
    lines += ["", f"± is half the width of {interval}."]
    for note in notes:
        lines += ["", f"**{note}**"]
    return "\n".join(lines)


class _Table:
    """The rows of an evaluation, by what they are about."""

    def __init__(self, rows: Sequence[Row], study: Study) -> None:
        self.study = study
        self.index = {(r["method"], r["metric"], r["intervention"], r["structure"]): r for r in rows}
        self.methods = [m for m in names.in_order(row["method"] for row in rows) if m != names.JUDGE]
        self.asked_of = list(dict.fromkeys(row["intervention"] for row in rows))

    def lines(self, metric: Metric, method: str, variable: str) -> list[Row | None]:
        """A metric's rows of all that it is about, such as the structures; empty if there is none."""
        found = [self.index.get((method, metric.name, variable, name)) for name in metric.about(self.study)]
        return found if any(found) else []

    def of_structures(self, metric: Metric) -> str:
        """The results of answers, structure by structure or attribute by attribute; "" without any."""
        # How structures are read on the images as they are has a table of its own.
        methods = self.methods if self._of_structures(metric) else [names.JUDGE, *self.methods]
        body = [
            [plain(variable), method_name(method), *(cell(row, metric) for row in found)]
            for variable in self.asked_of
            for method in methods
            if (found := self.lines(metric, method, variable))
        ]
        if not body:
            return ""
        table = grid(["do", "method", *map(plain, metric.about(self.study))], body, labels=2)
        parts = (f"## {metric.heading(self.study)}", table, metric.words(self.study).explanation)
        return "\n\n".join(part for part in parts if part)

    def _of_structures(self, metric: Metric) -> bool:
        return metric.about(self.study) == tuple(self.study.structures)

    def of_places(self) -> str:
        """Which borders move, of the structure intervened on: a column a place."""
        metrics = [metric for metric in metrics_of(self.study) if isinstance(metric, Displacement)]
        body = []
        for structure, variable in zip(self.study.structures, self.study.measured, strict=True):
            for method in self.methods:
                found = [self.index.get((method, metric.name, variable, structure)) for metric in metrics]
                if any(found):
                    rows = [row and row | {"intervened": False} for row in found]  # bold would be all of them
                    cells = (cell(row, metric) for row, metric in zip(rows, metrics, strict=True))
                    body.append([plain(variable), method_name(method), *cells])
        if not body:
            return ""
        unit = metrics[0].words(self.study).unit
        head = ["do", "method", *(metric.words(self.study).label for metric in metrics)]
        return f"""\
## Which borders move? {unit} for one standard deviation more

{grid(head, body, labels=2)}

Of the structure intervened on, as the judge reads it: how far its borders and its centre (x, y) move to the right and
down, where the variable is set one standard deviation higher. Right is what the truth has; of real people, what
training people show who differ by so much and have the same parents in the graph."""

    def of_judge(self) -> str:
        """The results of the judge on images as they are; "" where there are no structures to judge."""
        if not self.study.structures:
            return ""
        body = [
            [metric.words(self.study).label, *(cell(row, metric) for row in found)]
            for metric in metrics_of(self.study)
            if self._of_structures(metric) and (found := self.lines(metric, names.JUDGE, ""))
        ]
        return f"""\
## The judge's reading error on the images as they are

{grid(["judge", *map(plain, self.study.structures)], body)}

Effectiveness cannot be measured more finely than the judge reads."""

    def of_guides(self) -> str:
        """The same of the guides, and whether the judge errs with them; "" where no guide is at hand."""
        body = [
            [names.guided_by(method), metric.words(self.study).label, *(cell(row, metric) for row in found)]
            for method in dict.fromkeys(method for method, *_ in self.index if names.guided_by(method))
            for metric in sorted(metrics_of(self.study), key=lambda metric: metric.name == Kinship.name)  # errors first
            if (found := self.lines(metric, method, ""))
        ]
        if not body:
            return ""
        word = Measurements.of(self.study).word
        return f"""\
## The guides' reading errors on the images as they are, and whether the judge is kin to them

{grid(["guide", "", *map(plain, self.study.structures)], body, labels=2)}

The correlation is of a guide's errors of the {word} with the judge's. Above {KIN:g} the judge is kin to the guide: a
counterfactual that is wrong and pleases the guide may please the judge. Some correlation stays whoever judges, as both
differ from the same masks."""

    def of_images(self) -> str:
        """The results that are about whole images, axioms first."""
        metrics = [metric for metric in metrics_of(self.study) if not isinstance(metric, PairMetric)]
        table = self._images(sorted(metrics, key=lambda metric: not metric.axiom))
        return f"## Axioms and locality, in grey levels (0 to 255) where not in %\n\n{table}"

    def of_pairs(self) -> str:
        """The results of answers beside the subject's own other image; "" where a study has no pairs."""
        metrics = [metric for metric in metrics_of(self.study) if isinstance(metric, PairMetric)]
        if not metrics:
            return ""
        heading, own = "## Beside the subject's own other image", {metric.name for metric in metrics}
        images = max((row["n"] for row in self.index.values() if row["metric"] in own), default=0)
        if not images:
            return f"{heading}\n\n{NO_PAIRS}"
        said = PAIRS.format(measures=Measurements.of(self.study).word + "s", images=images)
        return "\n\n".join([heading, said, *filter(None, map(self.of_structures, metrics)), self._images(metrics)])

    def _images(self, metrics: Sequence[Metric]) -> str:
        """The results of some metrics that are about whole images, and what they are."""
        body, lines = [], []
        for metric in metrics:
            title = metric.words(self.study).title
            for variable in sorted(self.asked_of, key=bool):  # without an intervention first
                found = [self.index.get((method, metric.name, variable, "")) for method in self.methods]
                if any(found):
                    label = f"{title}: do({plain(variable)})" if variable else title
                    body.append([label, *(cell(row, metric) for row in found)])
                    lines.append(metric.line(self.study))
        used = [0, *(i for i in range(1, len(self.methods) + 1) if any(line[i] for line in body))]
        head = ["", *map(method_name, self.methods)]
        table = grid([head[i] for i in used], [[line[i] for i in used] for line in body])
        return "\n\n".join([table, "\n".join(filter(None, dict.fromkeys(lines)))])

    def methods_in_words(self) -> str:
        """What each method of the tables is."""
        measures = Measurements.of(self.study)
        explained = {
            names.NO_CHANGE: "the image as it is, as the answer to everything.",
            names.MEAN_CHANGE: "the image and what changes on average from one training image to the other.",
            "none": "the image model after likelihood training alone.",
            "regressor": f"fine-tuned to show the {measures.word}s that a regressor reads.",
            "predictor": "fine-tuned to show the attributes that a predictor reads.",
            "segmentor": f"fine-tuned to show the {measures.word}s that a segmentor's masks {measures.verb}.",
            names.SEG_LESS_REG: "their difference, person by person; of errors, below 0: Seg-CFT is the better one.",
            names.TRUTH: "the simulator's own counterfactual, which no method can be expected to beat.",
            names.KNOWN: "images in which one structure was deformed by a known amount: what the judge sees of it.",
            names.PEOPLE: "how training people differ from each other, by a regression.",
        }
        errors = error_of(self.study).name
        if not {v for _, metric, v, _ in self.index if v and metric == errors} <= set(self.study.measured):
            explained[names.TRUTH] = "the simulator's own counterfactual, by its causal model and not the learnt one."
        if self.study.evaluation.pairs is not None:
            explained[names.TRUTH] = "the subject's own other image, as the judge reads it."
        for method in self.methods:
            if method not in names.METHODS:
                what = f"what {method} answered, as its files show it."
                less = "their difference, person by person; of errors, below 0: the first one is better."
                explained[method] = less if names.is_difference(method) else what
        return "\n".join(f"- {method_name(m)}: {explained[m]}" for m in self.methods if m in explained)


def cell(row: Row | None, metric: Metric) -> str:
    """Value and half-width of its interval; bold where the structure was intervened on."""
    digits, factor = metric.digits, metric.factor
    if row is None:
        return ""
    if row["value"] is None:
        return "-"
    sign = "+" if names.is_difference(row["method"]) else ""
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
