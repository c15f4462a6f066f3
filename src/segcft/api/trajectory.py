"""One image under a range of values of a variable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segcft.api import arguments
from segcft.api.answer import Answer
from segcft.causal.intervention import unknown_variable
from segcft.config.study import Study
from segcft.errors import Code, DataError, InterventionError
from segcft.evaluate.names import plain
from segcft.io.provenance import gif_bytes, picture, png_bytes
from segcft.io.rendering import strip, to_html
from segcft.utils.atomic import write_bytes

MILLISECONDS = 200
"""For which a picture of the GIF is shown."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Answers of one image, one for each value of ``variable``."""

    variable: str
    values: Sequence[float | str]
    answers: Sequence[Answer]

    @property
    def images(self) -> NDArray[np.uint8]:
        """The counterfactuals, (N, C, *size)."""
        return np.stack([answer.image for answer in self.answers])

    @property
    def warnings(self) -> list[str]:
        """Why answers may be wrong, each with the value that it is about."""
        return [
            f"{self.variable}={_show(value)}: {text}"
            for value, answer in zip(self.values, self.answers, strict=True)
            for text in answer.warnings
        ]

    @property
    def record(self) -> dict[str, Any]:
        """What the strip and the GIF say of themselves."""
        records = [answer.provenance for answer in self.answers]
        same = {key: records[0][key] for key in ("segcft", "study", "method", "model")}
        return same | {"do": [", ".join(record["do"]) for record in records], "warnings": self.warnings}

    def strip(self) -> NDArray[np.uint8]:
        """The counterfactuals beside each other (wide ones below each other), uint8 (C, H, W)."""
        return strip(self._shown())

    def _shown(self) -> list[NDArray[np.uint8]]:
        """The counterfactuals as pictures, all of the same planes where they are volumes."""
        return [self.answers[0].picture(answer.image) for answer in self.answers]

    def save(self, path: str | Path) -> None:
        """Write the strip (``x.png``), or there and back as a moving picture (``x.gif``). A file that is there is
        replaced.

        Raises:
            DataError: the file would be of another kind.
        """
        path = arguments.place("path", path)
        match path.suffix.lower():
            case ".png":
                write_bytes(path, png_bytes(self.strip(), self.record))
            case ".gif":
                frames = [picture(shown) for shown in self._shown()]
                write_bytes(path, gif_bytes([*frames, *frames[-2:0:-1]], self.record, MILLISECONDS))
            case _:
                raise DataError(Code.UNSUPPORTED, path, "a trajectory is written to .png (a strip) or .gif")

    def __repr__(self) -> str:
        return f"Trajectory({self.variable}: {', '.join(map(_show, self.values))})"

    def _repr_html_(self) -> str:
        """The strip in a notebook."""
        areas = list(self.answers[0].areas)
        rows = [(plain(self.variable), *(f"{plain(name)} obtained" for name in areas))]
        for value, answer in zip(self.values, self.answers, strict=True):
            rows.append((_show(value), *(f"{answer.areas[name]:.1f}" for name in areas)))
        label = f"{plain(self.variable)}: {', '.join(map(_show, self.values))}"
        return to_html([(label, png_bytes(self.strip(), self.record))], True, rows, self.warnings)


def steps_of(
    study: Study, variable: str, values: Sequence[float | str] | int, known: Tensor
) -> tuple[str, Sequence[float | str]]:
    """The variable of a trajectory and its values, checked; see :meth:`segcft.api.model.Model.trajectory`.

    ``known`` are the training samples' values, (N, V).
    """
    variables = list(study.variables)
    variable = arguments.text("variable", variable, variables[0], InterventionError)
    if variable not in variables:
        raise unknown_variable(variable, variables)
    if isinstance(values, Number):
        count = arguments.whole("values", values, 1)
        column = known[:, variables.index(variable)].cpu().numpy()
        categories = study.variables[variable].categories
        values = list(categories) or np.quantile(column, np.linspace(0.05, 0.95, count)).tolist()
    values = arguments.several("values", values, "how many, or a list of them")
    if not values:
        raise InterventionError(Code.EMPTY, "values", "expected at least one")
    for number, value in enumerate(values):
        arguments.amount(f"values[{number}]", value)
    return variable, values


def _show(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
