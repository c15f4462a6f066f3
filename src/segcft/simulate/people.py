"""Who the simulated people are: their numbers, what they are called, and how a hospital sees them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from segcft.errors import Code, DataError
from segcft.simulate.simulator import Simulator

CANDIDATES = 2000
"""How many natural people the median is of by which a selection goes."""


def person_number(seed: int, index: int) -> int:
    """The number of person ``index`` in the population ``seed``: below 2 ** 63, the same everywhere."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def person_id(seed: int, index: int) -> str:
    """What person ``index`` in the population ``seed`` is called in a store."""
    return f"{seed}-{index:06d}"


class Confounding(NamedTuple):
    """People whose ``variable`` does not go with their sex, men below and women above the median of all people, are
    kept with probability ``share`` only; all others are kept. So a hospital may see its people."""

    variable: str
    share: float


class Person(NamedTuple):
    """One simulated person: an id, the simulator's number and the attributes."""

    id: str
    number: int
    attributes: dict[str, float | str]


@dataclass(frozen=True)
class Population:
    """People without end, always the same of one ``seed``.

    Attributes:
        seed: as in a study's ``data.seed``.
        confounding: how people are selected, by what they are like without ``randomise`` and ``do``.
        randomise: a variable that is set to that of another, unselected person, so that it has the natural distribution
            and depends on nothing else, neither sex nor age.
        do: variables that are set, for true counterfactuals of the same people.
    """

    seed: int = 0
    confounding: Confounding | None = None
    randomise: str | None = None
    do: Mapping[str, float | str] = field(default_factory=dict)

    def of(self, simulator: Simulator) -> Iterator[Person]:
        """Those that a ``simulator`` draws.

        Raises:
            DataError: a variable to be confounded or randomised is not one of its numbers, what is to be randomised is
                set as well, or nobody has the sex that something should go with.
            InterventionError: ``do`` has a variable that it has not, or a value that cannot be.
        """
        first = simulator.attributes(person_number(self.seed, 0), self.do)
        numbers = [name for name, value in first.items() if not isinstance(value, str)]
        for name in (self.confounding.variable if self.confounding else None, self.randomise):
            if name is not None and name not in numbers:
                raise DataError(Code.INVALID, name, f"not a number of this simulator ({', '.join(numbers)})")
        if self.confounding and "sex" not in first:
            raise DataError(Code.UNSUPPORTED, self.confounding.variable, "goes with sex, which this simulator has not")
        if self.randomise in self.do:
            raise DataError(Code.CONFLICT, str(self.randomise), "is set, and cannot be randomised as well")
        return self._draw(simulator)

    def _draw(self, simulator: Simulator) -> Iterator[Person]:
        random = np.random.default_rng(self.seed)
        median = 0.0
        if self.confounding:
            people = (simulator.attributes(person_number(self.seed, i)) for i in range(CANDIDATES))
            median = float(np.median([float(attributes[self.confounding.variable]) for attributes in people]))
        for index in itertools.count():
            number = person_number(self.seed, index)
            if self.confounding:
                natural = simulator.attributes(number)
                concordant = (natural["sex"] == "M") == (float(natural[self.confounding.variable]) > median)
                if random.random() >= self.confounding.share and not concordant:
                    continue
            do = dict(self.do)
            if self.randomise:
                other = person_number(self.seed, int(random.integers(2**40, 2**41)))  # nobody that is drawn by itself
                do[self.randomise] = simulator.attributes(other)[self.randomise]
            yield Person(person_id(self.seed, index), number, simulator.attributes(number, do))
