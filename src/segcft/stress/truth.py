"""A simulator's true counterfactuals in the place of a model's answers: are the statistics of a stress test right?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcft.api.answering import BATCH
from segcft.config.study import Study
from segcft.counterfactual.support import all_limits
from segcft.grey import to_unit
from segcft.simulate.simulator import Simulator
from segcft.stress.source import Answered, Opened, Seen, Source


class TrueSource(Source):
    """The same people drawn again, with the same noise.

    Args:
        study: whose variables the simulator has, each by its name.
        simulator: draws them.
        persons: who is asked about.
        training: whose values are the training range.
    """

    def __init__(self, study: Study, simulator: Simulator, persons: Sequence[int], training: Sequence[int]) -> None:
        self.study, self.simulator, self.persons, self.left_out = study, simulator, persons, []
        self.taught = 0  # the truth has not learnt
        self.people = torch.stack([self.values_of(simulator.attributes(person)) for person in training])
        self.low, self.high = all_limits(study.variables, self.people.numpy())

    def __len__(self) -> int:
        return len(self.persons)

    def batches(self) -> Iterator[Opened]:
        for start in range(0, len(self.persons), BATCH):
            yield _Drawn(self, self.persons[start : start + BATCH])

    def see(self, image: Tensor) -> Seen:
        return Seen(image[:, :0], image.new_zeros((len(image), 0)))

    def values_of(self, attributes: Mapping[str, float | str]) -> Tensor:
        """Attributes in the study's order, (V,), categories by their places."""
        found = []
        for name, variable in self.study.variables.items():
            value = attributes[name]
            found.append(float(variable.categories.index(str(value)) if variable.categories else value))
        return torch.tensor(found)


class _Drawn(Opened):
    def __init__(self, source: TrueSource, persons: Sequence[int]) -> None:
        self.source, self.persons = source, persons
        self.ids = self.patients = [str(person) for person in persons]
        known = [source.simulator.attributes(person) for person in persons]
        drawn = [source.simulator.render(person, own)[0] for person, own in zip(persons, known, strict=True)]
        self.image = self.null = _images(drawn)
        self.values = torch.stack([source.values_of(attributes) for attributes in known])
        names = [name for name in source.study.variables if name not in source.study.measured]
        self.labels = {name: [_shown(attributes[name]) for attributes in known] for name in names}

    def under(self, variable: str, value: float) -> Answered:
        source, categories = self.source, self.source.study.variables[variable].categories
        images, values, supported = [], [], []
        for k, person in enumerate(self.persons):
            do = {variable: categories[int(value)] if categories else value}
            try:
                attributes = source.simulator.attributes(person, do)
                image, _ = source.simulator.render(person, attributes)
            except ValueError:  # e.g. a heart that would leave the thorax
                images.append(self.null[k : k + 1])
                values.append(self.values[k])
                supported.append(False)
                continue
            after = source.values_of(attributes)
            images.append(_images([image]))
            values.append(after)
            supported.append(bool(((after.numpy() >= source.low) & (after.numpy() <= source.high)).all()))
        return Answered(torch.cat(images), torch.stack(values), np.array(supported))


def _images(drawn: Sequence[NDArray[np.uint8]]) -> Tensor:
    return to_unit(torch.from_numpy(np.stack(drawn))[:, None])


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else repr(value)
