"""Does a stress test find what is there, and nothing else? ``python -m benchmarks.stress --page docs/stress-test.md``.

Twenty small classifiers each learn from simulated radiographs in which one thing tells the label: how large the heart
is, how the film was exposed, or the breasts of a woman, all else being as in anybody. Each is then tried
(`segcft stress`) on the same people, with the simulator's true counterfactuals, and with the answers of a published
model.

What is there is known by the true counterfactuals of many other people. An effect is *there* from a stated size on
(:data:`STATED`, in standard deviations of the output, for one of the variable) if it is twice that to shams. It is
*not there* if it is a trifle or no more than to shams, by the limits of the test. In between nothing is counted, and
neither is that for which most of these people have no control. What is there is told by shams, too: a fault that all
shams have would not be seen here. Power
is the share of what is there that is found, a false alarm what is found and is not there. With a model's answers a
false alarm may be the model's: it may change what it was not asked to. About a quarter of an hour on 2 CPU cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F

from segcft.api.model import Model
from segcft.config.foreign import Outputs
from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.evaluate.names import plain
from segcft.evaluate.table import grid
from segcft.evaluate.two_sample import Classifier as Recipe
from segcft.grey import to_grey_levels, to_unit
from segcft.importers.simulated import make_simulator
from segcft.readers.classifier import Classifier
from segcft.simulate.people import person_number
from segcft.stress.doses import EXPOSURE, doses_of, exposed
from segcft.stress.effects import LEAST, SPECIFIC, Effect, effects
from segcft.stress.people import Person
from segcft.stress.responses import Responses, respond
from segcft.stress.source import ModelSource, Source
from segcft.stress.truth import TrueSource
from segcft.utils.atomic import write_text
from segcft.utils.progress import ConsoleProgress, Progress

ROOT = Path(__file__).parents[1]
TRUTH, MODEL = ROOT / "models/chest-sim/study.yaml", ROOT / "models/chest-sim-borders"
PLANTED = {"heart size": "heart_area", "exposure": EXPOSURE, "neither": "sex"}
"""What tells the label -> the variable that it is. Breasts, which neither heart nor exposure tell of, are the sex's."""
STATED = 0.3
"""The effect from which on power is counted."""
SIDE = 64
"""Pixels a side that classifiers see."""
APART, BRIGHTNESS, NOISE = 1.0, 0.4, 0.3
"""Labels are so many standard deviations of the heart, or of the logarithm of the exponent, from the middle; and what
blurs that, as a share of it."""
TRAINING, TRIED, OTHERS, TAUGHT = 11, 12, 13, 14
"""Seeds of people: of the training range, those who are tried, many others who tell what is there, those who teach."""
RANGE_PEOPLE = 500


class Told(NamedTuple):
    """What was found of one classifier's answer to one variable, and what is there."""

    kind: str
    variable: str
    tried: Effect
    truth: Effect


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stress", description=__doc__)
    parser.add_argument("--classifiers", type=int, default=20)
    parser.add_argument("--people", type=int, default=80, help="who are tried on (default: 80)")
    parser.add_argument("--others", type=int, default=200, help="who tell what is there (default: 200)")
    parser.add_argument("--taught", type=int, default=400, help="images of each label that teach (default: 400)")
    parser.add_argument("--steps", type=int, default=250, help="of each training (default: 250)")
    parser.add_argument("--doses", type=int, default=3)
    parser.add_argument("--model", type=Path, default=MODEL, help="whose answers are tried, too")
    parser.add_argument("--page", type=Path, help="Markdown page to write")
    options = parser.parse_args(arguments)
    progress, study = ConsoleProgress(), load_study(TRUTH)
    kinds = [list(PLANTED)[k % len(PLANTED)] for k in range(options.classifiers)]
    asked = Asked(classifiers(study, kinds, options.taught, options.steps, progress))
    names, simulator = [*study.variables, EXPOSURE], make_simulator(study)
    training = people(TRAINING, RANGE_PEOPLE)
    who = ((TRIED, options.people), (OTHERS, options.others))
    tried, others = (TrueSource(study, simulator, people(*one), training) for one in who)
    answered = ModelSource(Model(options.model), [drawn(study, person) for person in people(TRIED, options.people)])
    truth = found_by(others, asked, names, options.doses, progress)
    arms = {
        "true counterfactuals": found_by(tried, asked, names, options.doses, progress),
        f"answers of {options.model.name}": found_by(answered, asked, names, options.doses, progress),
    }
    told = {arm: list(compared(kinds, rows, truth)) for arm, rows in arms.items()}
    text = render(told, options)
    print(text)
    if options.page is not None:
        write_text(options.page, text)


class Asked:
    """Many classifiers asked at once, an output each, as all are asked about the same images."""

    decides = True

    def __init__(self, networks: Sequence[Any]) -> None:
        spec = Outputs(outputs={"label": 0}, range=(-1, 1), size=(SIDE, SIDE))
        self.all = [Classifier(network, spec) for network in networks]
        self.names = [f"{k}" for k in range(len(networks))]

    def __call__(self, x: Tensor, masks: Tensor) -> Tensor:
        return torch.cat([one(x, masks) for one in self.all], dim=1)


def people(seed: int, count: int) -> list[int]:
    return [person_number(seed, k) for k in range(count)]


def drawn(study: Study, person: int) -> Person:
    """A person for a model, of whom it knows what a header says."""
    simulator = make_simulator(study)
    attributes = simulator.attributes(person)
    image, _ = simulator.render(person, attributes)
    known = {name: attributes[name] for name in study.variables if name not in study.measured}
    return Person(str(person), str(person), image, known)


def classifiers(study: Study, kinds: Sequence[str], count: int, steps: int, progress: Progress) -> list[Any]:
    """A network for each of ``kinds``, those of one kind being of other images, and of other seeds."""
    taught = {kind: _images(study, kind, count, progress) for kind in dict.fromkeys(kinds)}
    recipe, networks = Recipe(widths=(8, 16, 32, 32), steps=steps, batch_size=32), []
    with progress.task("Training classifiers", steps * len(kinds)) as task:
        for seed, kind in enumerate(kinds):
            rows = torch.randint(count, (count,), generator=torch.Generator().manual_seed(seed))
            first, second = (one[rows] for one in taught[kind])
            networks.append(recipe.train(first, second, seed, task.advance))
    return networks


def _images(study: Study, kind: str, count: int, progress: Progress) -> tuple[Tensor, Tensor]:
    """So many images of either label, grey levels (N, 1, SIDE, SIDE), in which nothing but ``kind`` tells it."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    simulator, random = make_simulator(study), np.random.default_rng(TAUGHT)
    hearts = np.array([float(simulator.attributes(p)["heart_area"]) for p in people(TRAINING, RANGE_PEOPLE)])
    with progress.task(f"Drawing: {kind}", 2 * count) as task:
        for person in people(TAUGHT, 8 * count):
            label = int(len(found[0]) > len(found[1]))
            sign = (2 * label - 1) + NOISE * random.standard_normal()
            other = simulator.attributes(int(random.integers(1 << 40)), {"sex": "FM"[random.integers(2)]})
            do = {name: other[name] for name in study.variables}
            if kind == "heart size":
                do["heart_area"] = hearts.mean() + APART * hearts.std() * sign
            if kind == "neither":
                do["sex"] = "FM"[label]
            try:
                image, _ = simulator.render(person, do)
            except ValueError:  # a heart that would leave the thorax
                continue
            x = to_unit(torch.from_numpy(image)[None, None])
            if kind == "exposure":
                x = exposed(x, BRIGHTNESS * float(sign))
            found[label].append(to_grey_levels(F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)))
            task.advance()
            if len(found[1]) == count:
                break
    return torch.cat(found[0]), torch.cat(found[1])


def found_by(source: Source, asked: Asked, names: Sequence[str], doses: int, progress: Progress) -> list[list[Effect]]:
    """The effects on each classifier, each tested by itself."""
    grid_of = doses_of(source.study.variables, source.people.cpu().numpy(), names, doses)
    found = respond(source, asked, grid_of, progress)
    return [effects(only(found, k)) for k in range(len(asked.names))]


def only(found: Responses, k: int) -> Responses:
    """The responses of one output."""
    of = {
        name: replace(one, output=one.output[..., k : k + 1], sham=one.sham[..., k : k + 1])
        for name, one in found.of.items()
    }
    plain_, null = found.plain[:, k : k + 1], found.null[:, k : k + 1]
    return replace(found, outputs=[found.outputs[k]], plain=plain_, null=null, of=of, examples=[])


def compared(
    kinds: Sequence[str], tried: Sequence[Sequence[Effect]], truth: Sequence[Sequence[Effect]]
) -> Iterator[Told]:
    for kind, own, known in zip(kinds, tried, truth, strict=True):
        by_name = {one.variable: one for one in known}
        for one in own:
            yield Told(kind, one.variable, one, by_name[one.variable])


def is_there(effect: Effect) -> bool | None:
    """Whether an effect of true counterfactuals is there; None of one that is neither."""
    size = effect.size / effect.sd if effect.sd else 0.0
    if size > LEAST and 2 * effect.controlled < effect.patients:
        return None
    if size >= STATED and effect.size >= 2 * effect.sham:
        return True
    return False if size <= LEAST or effect.size <= SPECIFIC * effect.sham else None


def render(told: dict[str, list[Told]], options: argparse.Namespace) -> str:
    """The page, in Markdown."""
    head = ["answers", "there and found", "power, %", "not there and found", "false alarms, %"]
    head += ["classifiers with one", "of these, %"]
    detail = ["answers", "what tells the label", "variable", "found", "effect / sham, tried", "the same, in truth"]
    body = [[arm, *_summary(rows, options.classifiers)] for arm, rows in told.items()]
    lines = [[arm, *cells] for arm, rows in told.items() for cells in _by_kind(rows)]
    return f"""\
# Does a stress test find what is there, and nothing else?

`python -m benchmarks.stress` trains {options.classifiers} classifiers ({options.taught} images a label, \
{options.steps} steps) and tries each on {options.people} people, at {options.doses} doses a variable. What is there \
is told by the true counterfactuals of {options.others} others: an effect of {STATED:g} standard deviations of the \
output or more, twice that to shams, is there; one of {LEAST:g} or less, or up to {SPECIFIC:g} times that to shams, is \
not. In brackets: 95 % intervals (Clopper and Pearson).

{grid(head, body)}

## By what tells the label

Effects and shams are in standard deviations of the output, the mean over classifiers.

{grid(detail, lines, labels=3)}
"""


def _summary(rows: Sequence[Told], classifiers: int) -> list[str]:
    there = [one.tried.found for one in rows if is_there(one.truth)]
    alarms = [bool(one.tried.found and is_there(one.truth) is False) for one in rows]
    of_nothing = [alarm for alarm, one in zip(alarms, rows, strict=True) if is_there(one.truth) is False]
    wrong = [bool(some.any()) for some in np.array(alarms).reshape(classifiers, -1)]
    return [_count(there), _share(there), _count(of_nothing), _share(of_nothing), _count(wrong), _share(wrong)]


def _by_kind(rows: Sequence[Told]) -> Iterator[list[str]]:
    for kind, variable in dict.fromkeys((one.kind, one.variable) for one in rows):
        own = [one for one in rows if (one.kind, one.variable) == (kind, variable)]
        mark = " (planted)" if PLANTED[kind] == variable else ""
        sizes = [_sizes([one.tried for one in own]), _sizes([one.truth for one in own])]
        yield [kind, f"{plain(variable)}{mark}", _count([one.tried.found for one in own]), *sizes]


def _count(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def _share(found: Sequence[bool]) -> str:
    if not found:
        return "–"
    ends = binomtest(sum(found), len(found)).proportion_ci()
    return f"{100 * np.mean(found):.0f} ({100 * ends.low:.0f} to {100 * ends.high:.0f})"


def _sizes(found: Sequence[Effect]) -> str:
    size, sham = (np.nanmean([getattr(one, of) / one.sd for one in found if one.sd]) for of in ("size", "sham"))
    return f"{size:.2f} / {sham:.2f}"


if __name__ == "__main__":
    main()
