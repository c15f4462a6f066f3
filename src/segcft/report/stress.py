"""The page of a stress test: one file of HTML, without scripts, that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from torch import Tensor

import segcft
from segcft.errors import Code, RunError
from segcft.evaluate.names import method_name, plain
from segcft.evaluate.planes import Planes
from segcft.grey import BLACK
from segcft.grid import Grid
from segcft.report import charts
from segcft.report.charts import Chart
from segcft.report.graph import graph_svg
from segcft.report.page import template
from segcft.report.pictures import difference, difference_picture, picture
from segcft.stress.audit import Audit
from segcft.stress.effects import LEAST, LEVEL, SPECIFIC, Effect
from segcft.stress.gaps import MOST_SHUFFLES
from segcft.stress.responses import Example
from segcft.stress.sham import LEAST_ENERGY
from segcft.stress.table import gap_cells, headline, limits_of, number, p_value, share, subject
from segcft.utils.atomic import write_text

MOST_EXAMPLES = 12
"""Of subjects whose pictures are shown, the largest responses of each variable and output first."""
NOTHING = 1e-6
"""Grey levels, of an answer that changes nothing."""
MOST_THREADS = 30
"""Subjects whose own dose-response is drawn behind the mean of all."""


@dataclass(frozen=True)
class Shown:
    """A subject with pictures, as data URIs."""

    example: Example
    image: str
    answer: str
    difference: str
    sham: str


def write_page(audit: Audit, out: Path) -> None:
    """Write the page to ``out``, in place of an earlier one.

    Raises:
        RunError: ``out`` is a folder.
    """
    if out.is_dir():
        raise RunError(Code.INVALID, out, f"expected a file, not a folder, e.g. {out / 'stress.html'}")
    write_text(out, render_page(audit))


def render_page(audit: Audit) -> str:
    """The page about a stress test."""
    found, shown = audit.responses, _shown(audit)
    return template("stress.html").render(
        audit=audit,
        study=audit.study,
        found=found,
        people=len(set(found.patients.tolist())),
        method=method_name(str(audit.origin.get("method", ""))),
        version=segcft.__version__,
        written=datetime.now().strftime("%Y-%m-%d, %H:%M"),
        headline=[part for part in headline(audit).split("**") if part],
        graph=graph_svg(audit.study),
        confounded=audit.study.confounded,
        effects=audit.effects,
        gaps=[gap_cells(one) for one in audit.gaps if one.found],
        charts=list(_charts(audit)),
        shown=[one for one, _ in shown],
        limit=max((limit for _, limit in shown), default=0.0),
        limits=list(limits_of(audit)),
        several=any(one.models > 1 for one in audit.effects),
        least=LEAST,
        specific=SPECIFIC,
        level=LEVEL,
        energy=LEAST_ENERGY,
        shuffles=MOST_SHUFFLES,
        size=tuple(audit.study.image.size),
        simulated=bool(audit.origin.get("simulated")),
        subject=subject,
        figure=number,
        share=share,
        p_value=p_value,
    )


def _charts(audit: Audit) -> Iterator[Chart]:
    """The dose-response of every variable and output."""
    for one in audit.curves:
        doses = one.doses
        unit = f", {doses.unit}" if doses.unit else ""
        title = f"{plain(doses.variable)}{unit}: {one.output}"
        said = [
            f"{doses.shown(dose)}: {charts.signed(float(value))} ({n})"
            for dose, value, n in zip(doses.values, one.value, one.n, strict=True)
        ]
        places, each = np.array(doses.values), one.each[:MOST_THREADS]
        chart = charts.response(title, "; ".join(said), places, doses.categories, one.low, one.value, one.high, each)
        if chart is not None:
            yield chart


def _shown(audit: Audit) -> list[tuple[Shown, float]]:
    """Pictures of the subjects with the largest responses, first those to what was found; and the end of the scale of
    each difference, in grey levels, which is that of all."""
    strength = {(one.variable, one.output): _rank(one) for one in audit.effects}
    examples = [one for one in audit.responses.examples if (one.variable, one.output) in strength]
    examples.sort(key=lambda one: (strength[one.variable, one.output], -abs(one.after - one.before)))
    examples = examples[:MOST_EXAMPLES]
    gains = [difference(one.answer, one.image) for one in examples]
    views = [_view(audit, gain) for gain in gains]
    limit = max(1.0, max((float(np.quantile(np.abs(gain.numpy()), 0.995)) for gain in gains), default=1.0))
    simulated = bool(audit.origin.get("simulated"))
    return [
        (
            Shown(
                one,
                picture(view(one.image, BLACK), synthetic=simulated),
                picture(view(one.answer, BLACK), synthetic=True),
                difference_picture(view(gain), limit),
                picture(_view(audit, difference(one.sham, one.image))(one.sham, BLACK), synthetic=True),
            ),
            limit,
        )
        for one, gain, view in zip(examples, gains, views, strict=True)
    ]


def _view(audit: Audit, gain: Tensor) -> Planes:
    """Of a volume the planes through the middle of what changes by more than half as much as any voxel does."""
    size = gain.abs()[None]
    return Planes(Grid.of(audit.study.image), size / size.max().clamp(min=NOTHING))


def _rank(effect: Effect) -> tuple[bool, float]:
    """What is found comes first, and of that the largest effects."""
    return not effect.found, -(effect.size / effect.sd if effect.sd else 0.0)
