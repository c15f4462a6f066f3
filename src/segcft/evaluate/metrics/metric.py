"""What every metric of counterfactuals can do, whatever it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segcft.config.study import Study
from segcft.errors import Code, SegcftError
from segcft.evaluate.answered import AnsweredBatch, FactualBatch, GuideBatch, ModelBatch, PairedAnswer
from segcft.utils.registry import Registry, instance_of

GREY = "grey levels"
"""The unit of differences between images, 0 to 255."""

Better = Literal["lower", "higher", "near 1", "as true"]
DIRECTIONS: dict[Better, str] = {
    "lower": "lower is better",
    "higher": "higher is better",
    "near 1": "1 is right",
    "as true": "what the truth has is right",
}


class Result(NamedTuple):
    """What a metric finds in a batch: ``values`` (B,), NaN where a sample does not count.

    Of a metric that is no mean they are (B, M), and it makes its number of the M means (:meth:`Metric.of_means`).
    ``structure`` is the one that they are about, "" if they are about the whole image; a metric may be about something
    else (:meth:`Metric.about`). ``weights`` (B,), not negative,
    are what each value counts in the mean (default: all count alike).
    """

    values: Tensor
    structure: str = ""
    weights: Tensor | None = None


class Words(NamedTuple):
    """The words of a metric, for readers of tables.

    ``label`` is its name in a table. ``explanation`` says what it is, after "label: " in a list or, of a metric of
    single structures, as the text below its table. ``heading`` is that of this table (default: title and direction).
    ``unit`` is that of the numbers as they are shown, "" of a pure number. ``of_image`` is its name where failures are
    compared with the rest by its results on images as they are; without one they are not.
    """

    label: str
    unit: str = ""
    explanation: str = ""
    heading: str = ""
    of_image: str = ""

    @property
    def title(self) -> str:
        """The label with its unit; grey levels go without saying."""
        return self.label if self.unit in ("", GREY) else f"{self.label}, {self.unit}"


class Metric(ABC):
    """A number that says how good counterfactuals are.

    A metric overrides one of :meth:`of_judge`, :meth:`of_guide`, :meth:`of_model`, :meth:`of_answer` and
    :meth:`of_pair`, or several of them. It is made known by ``METRICS.add(metric.name, metric)``: an instance, not the
    class.
    """

    name: str
    """In the rows of ``table.json``, and among :data:`METRICS`."""
    better: Better = "lower"
    digits: int = 2
    """Decimals in tables."""
    factor: float = 1.0
    """What a value is multiplied with in tables, e.g. 100 for a share in %."""
    axiom: bool = False
    """Whether it is an axiom, which holds for counterfactuals of all kinds: the evaluation's table has these first,
    where all others are listed before them."""
    brief: bool = True
    """Whether comparisons of several runs show it too, which have less room."""
    of_causes: bool = False
    """Whether it is asked about causes of measures too, beside the interventions of the study."""
    of_direct: bool = False
    """Whether it is asked about direct effects: of an attribute that is set while all measures are held."""
    of_known: bool = False
    """Whether it is asked about known changes of images, too, where nobody knows the truth."""
    worst: bool = False
    """Whether its row is the worst value of all samples, without an interval, and not their mean."""

    @abstractmethod
    def words(self, study: Study) -> Words:
        """Its words in the study's tables."""

    def line(self, study: Study) -> str:
        """Its words as a line of a list; "" where those of another metric cover it."""
        words = self.words(study)
        direction = "" if self.better == "lower" else f" {_sentence(DIRECTIONS[self.better])}."
        return f"- {words.label}: {words.explanation}{direction}" if words.explanation else ""

    def heading(self, study: Study) -> str:
        """That of a table of its own."""
        words = self.words(study)
        return words.heading or _sentence(f"{words.title}; {DIRECTIONS[self.better]}")

    def applies(self, study: Study) -> bool:
        """Whether an evaluation of ``study`` has it."""
        return True

    def about(self, study: Study) -> tuple[str, ...]:
        """What its results may be about, beside whole images: the structures, of which its table has a column each."""
        return tuple(study.structures)

    def of_judge(self, batch: FactualBatch) -> Iterator[Result]:
        """What it finds in the judge's reading of images as they are."""
        yield from ()

    def of_guide(self, batch: GuideBatch) -> Iterator[Result]:
        """What it finds in a guide's reading of images as they are: for each structure, as their table is of these."""
        yield from ()

    def of_model(self, batch: ModelBatch) -> Iterator[Result]:
        """What it finds in a model of images as they are, without an intervention."""
        yield from ()

    def of_answer(self, answer: AnsweredBatch) -> Iterator[Result]:
        """What it finds in a method's answer to an intervention, or in that of a reference."""
        yield from ()

    def of_pair(self, answer: PairedAnswer) -> Iterator[Result]:
        """What it finds in an answer beside the subject's own other image, where a study has pairs."""
        yield from ()

    def of_means(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """The number that it makes of the means of several columns (:class:`Result`), (..., M) to (...)."""
        raise NotImplementedError(f"{self.name} has results of several columns and no of_means")

    def difference(self, mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Of two methods' values (B,) on the same samples, by which methods are compared sample by sample; None where
        they are not, as the worst of all samples is no sample's."""
        return None if self.worst else mine - theirs


class PairMetric(Metric):
    """A metric of answers beside a subject's own other image; tables have a section of them."""

    brief = False

    def applies(self, study: Study) -> bool:
        return study.evaluation.pairs is not None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrong(metric: Metric) -> str:
    """What is wrong with a metric that is added; "" where nothing is."""
    if wrong := instance_of(Metric)(metric):
        return wrong
    if metric.better not in DIRECTIONS:
        return f"better is {metric.better!r}; expected one of {', '.join(DIRECTIONS)}"
    finds = ("of_judge", "of_guide", "of_model", "of_answer", "of_pair")
    if all(getattr(type(metric), name) is getattr(Metric, name) for name in finds):
        return f"finds nothing; expected one of {', '.join(finds)}"
    return ""


METRICS: Registry[Metric] = Registry("metric", "segcft.evaluate.metrics", "evaluation.metric", _wrong)
"""Name -> metric, in the order of the table."""


def metrics_of(study: Study) -> list[Metric]:
    """The metrics that an evaluation of ``study`` has, axioms last."""
    return sorted((metric for metric in METRICS.values() if metric.applies(study)), key=lambda metric: metric.axiom)


def results_of(metric: Metric, found: Iterable[Result], study: Study, samples: int) -> list[Result]:
    """What ``metric`` found in a batch of so many ``samples``.

    Raises:
        SegcftError: it is not what a metric may find. The field is the metric.
    """
    field, shape = f"metric {metric.name!r}", (samples,)
    several = type(metric).of_means is not Metric.of_means
    results = list(found) if isinstance(found, Iterable) else [found]
    for result in results:
        if not isinstance(result, Result):
            raise SegcftError(Code.INVALID, field, f"expected to be given Results by yield, not {result!r}")
        if result.structure not in ("", *metric.about(study)):
            why = f"there is no structure {result.structure!r}, only {', '.join(metric.about(study))}"
            raise SegcftError(Code.UNKNOWN, field, why)
        for name, numbers in (("values", result.values), ("weights", result.weights)):
            columns = several and name == "values"
            fits = isinstance(numbers, Tensor) and numbers.shape[:1] == shape and numbers.dim() == 1 + columns
            if numbers is not None and not fits:
                given = f"one {tuple(numbers.shape)}" if isinstance(numbers, Tensor) else repr(numbers)
                wanted = f"({samples}, M)" if columns else shape
                raise SegcftError(Code.INVALID, field, f"expected {name} as a tensor {wanted}, not {given}")
    for structure, times in Counter(result.structure for result in results).items():
        if times > 1:
            what = structure or "the whole image"
            raise SegcftError(Code.DUPLICATE, field, f"has {times} results of {what}; expected one a batch")
    return results
