"""Digits beside counterfactual-benchmark's numbers: ``python -m benchmarks.morphomnist --data DIR --predictors DIR``.

DIR of ``--data`` has Morpho-MNIST in counterfactual-benchmark's layout (``datasets/morphomnist/data`` of its
repository; see :mod:`segcft.importers.morphomnist`), and that of ``--predictors`` its trained predictors
(``digit_classifier*.ckpt`` and so on). They judge, and have no other part. Where the 60,000 training images are not
there, ``configs/morphomnist.yaml`` trains on four fifths of the 10,000 test images, and the rest is judged: fewer
images than the published numbers are of. Its mechanism stands beside causal-gen's network, which is trained in equal
time: as many steps as take as long, by the time that a step of each takes on this machine.

Effectiveness is as theirs: each image gets one do() of each variable, of a digit another one, of a number that of
another image that differs enough. Then it is how far the predictors' readings of the counterfactual are from what its
values should be; thickness is read given the intensity that should be. Theirs is the mean of means of batches, and
their latents are drawn at a temperature of 0.1; here it is the mean over images, and latents are means. Composition is
the mean distance of an image from itself after 1 and 10 answers to nothing, in grey levels. Pixels keep their noise
here, so that it is 0 but for rounding.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.second_opinion import images
from benchmarks.trainings import train_all
from benchmarks.work import COPIED
from segcft.config.loader import load_study, parse_study
from segcft.config.mechanisms import VAESpec
from segcft.config.study import Study
from segcft.errors import Code, DataError
from segcft.evaluate.bootstrap import bootstrap_means
from segcft.evaluate.names import NO_CHANGE, method_name
from segcft.evaluate.table import grid
from segcft.grey import GREY_LEVELS, rounded
from segcft.importers.formats.morphomnist import MorphoMNIST
from segcft.importers.morphomnist import Files
from segcft.pipeline.run import Run
from segcft.planning.timing import machine_of, measure
from segcft.training.artefact import load_plain
from segcft.utils.atomic import write_text
from segcft.utils.digest import digest_of, key_of
from segcft.utils.progress import ConsoleProgress, Progress

BASE = Path(__file__).parents[1] / "configs" / "morphomnist.yaml"
OURS, THEIRS = "two-stream", "causal-gen's network"
CONFIGURATION = "morphomnist32"
"""Of ``published.yaml``."""
NUMBERS = ("thickness", "intensity")
DIGIT = "digit"
VARIABLES = (*NUMBERS, DIGIT)
DECIMALS = (3, 2, 3)
"""Of what is found of each, in the table."""
CYCLES, CYCLED = (1, 10), 256
"""After how many answers to nothing composition is measured, and of how many images."""
BATCH = 128
WIDTH = 8
"""Channels of their predictors' first layer."""

Floats = NDArray[np.float64]


class Found(NamedTuple):
    """Of answers to one do() by one method: means over images of :data:`VARIABLES`, (3,), and their 95 % intervals.
    Where nothing is asked (""), the same of composition, after each of :data:`CYCLES`."""

    contender: str
    method: str
    asked: str
    value: list[float]
    low: list[float]
    high: list[float]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.morphomnist", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of Morpho-MNIST's files")
    parser.add_argument("--predictors", type=Path, required=True, help="folder of their predictors")
    parser.add_argument("--base", type=Path, default=BASE, help="another study of the same variables")
    parser.add_argument("--contenders", nargs="+", choices=(OURS, THEIRS), default=[OURS, THEIRS])
    parser.add_argument("--out", type=Path, default=Path("runs/morphomnist"))
    parser.add_argument("--page", type=Path, help="Markdown page to write")
    options = parser.parse_args(arguments)
    said, progress = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")), ConsoleProgress()
    judge = Judge.read(options.predictors, said["ranges"])
    whole = Files.of(options.data, MorphoMNIST.TRAIN).images.is_file()
    sets = (MorphoMNIST.TRAIN, MorphoMNIST.TEST) if whole else (MorphoMNIST.TEST,)
    MorphoMNIST(folder=options.data, sets=sets).convert(options.out / "data", progress)
    base = load_study(options.base)
    studies = {name: contender(base, name, options.out / "seconds.json", progress) for name in options.contenders}
    folders = {name: name.replace("'s ", "-") for name in studies}
    runs = train_all({folders[name]: study for name, study in studies.items()}, options.out, options.out / "data")
    found: list[Found] = []
    for name, folder in folders.items():
        found += findings(runs[folder], name, judge, said["parts"], progress)
    text = render(found, runs[folders[options.contenders[0]]], judge, said)
    print(text)
    if options.page is not None:
        write_text(options.page, text)


# --- who is trained -----------------------------------------------------------------------------------------


def contender(base: Study, name: str, seconds: Path, progress: Progress) -> Study:
    """The study with the network of a contender, for as long as the study's own is trained.

    What a step takes is kept in the file ``seconds``, so that an interrupted comparison goes on with the same steps.
    """
    if name == OURS:
        return base
    other = with_published_network(base)
    key, kept = key_of(base.model_dump(mode="json")), {}
    if seconds.is_file():
        kept = json.loads(seconds.read_text(encoding="utf-8"))
    if kept.get("key") != key:
        machine = machine_of("cpu", jobs=1)
        kept = {"key": key, OURS: measure(base, machine, progress), THEIRS: measure(other, machine, progress)}
        write_text(seconds, json.dumps(kept))
    return in_equal_time(other, kept[OURS], kept[THEIRS])


def with_published_network(base: Study) -> Study:
    """The study with causal-gen's network of the published size in place of its own, trained alike."""
    configurations = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    network = {key: configurations[CONFIGURATION][key] for key in COPIED}
    given = base.hvae.model_dump(mode="json", exclude_defaults=True)
    training = {key: value for key, value in given.items() if key in VAESpec.model_fields}
    raw = base.model_dump(mode="json") | {"name": f"{base.name}-causal-gen"}
    return parse_study(raw | {"hvae": training | network | {"architecture": "causal-gen"}}, raw["name"])


def in_equal_time(study: Study, ours: Mapping[str, float], theirs: Mapping[str, float]) -> Study:
    """The study with as many steps of the image mechanism and of its fine-tuning as take ``theirs`` seconds each in the
    time in which they would take ``ours``."""
    raw = study.model_dump(mode="json")
    for section in ("hvae", "finetune"):
        raw[section]["steps"] = max(1, round(raw[section]["steps"] * ours[section] / theirs[section]))
    return parse_study(raw, study.name)


# --- who judges ---------------------------------------------------------------------------------------------


class Network(nn.Module):
    """The network of their predictors, by the names of its weights: images (B, 1, 32, 32) and further numbers (B, C) to
    ``outputs`` numbers."""

    def __init__(self, outputs: int, context: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, kernel, stride in ((1, 7, 1), (2, 3, 2), (2, 3, 1), (4, 3, 2), (4, 3, 1), (8, 3, 2)):
            convolution = nn.Conv2d(channels, width * WIDTH, kernel, stride, kernel // 2, bias=False)
            channels = width * WIDTH
            layers += [convolution, nn.BatchNorm2d(channels), nn.LeakyReLU()]
            layers += [nn.Identity()] if width == 1 else []
        self.cnn = nn.Sequential(*layers)
        hidden = nn.Linear(channels + context, channels, bias=False)
        self.fc = nn.Sequential(hidden, nn.BatchNorm1d(channels), nn.LeakyReLU(), nn.Linear(channels, outputs))

    def forward(self, image: Tensor, context: Sequence[Tensor] = ()) -> Tensor:
        features = self.cnn(image).mean(dim=(-2, -1))
        said: Tensor = self.fc(torch.cat([features, *context], dim=1))
        return said


class Judge(NamedTuple):
    """Their predictors, and what of numbers is -1 and 1 to them."""

    networks: Mapping[str, Network]
    ranges: Mapping[str, tuple[float, float]]
    key: str
    """Changes when a predictor does."""

    @classmethod
    def read(cls, folder: Path, ranges: Mapping[str, tuple[float, float]]) -> Judge:
        """The predictors in a folder, each the one file that begins with its variable and ends in ``.ckpt``.

        Raises:
            DataError: there is none or several of a variable, or one is no such predictor.
        """
        networks, digests = {}, []
        for name in VARIABLES:
            paths = sorted(folder.glob(f"{name}*.ckpt"))
            if len(paths) != 1:
                why = f"expected one file {name}*.ckpt, and there are {len(paths)}"
                raise DataError(Code.MISSING, folder, why)
            network = Network(outputs=10 if name == DIGIT else 1, context=int(name == "thickness"))
            try:
                network.load_state_dict(load_plain(paths[0])["state_dict"])
            except Exception as error:  # torch raises many kinds for a damaged file
                why = f"not a predictor of {name} that can be read safely ({type(error).__name__}: {error})"
                raise DataError(Code.UNREADABLE, paths[0], why) from None
            networks[name] = network.eval().requires_grad_(False)
            digests.append(digest_of(paths[0]))
        return cls(networks, ranges, key_of(digests))

    @torch.inference_mode()
    def misses(self, image: Tensor, values: Mapping[str, Tensor]) -> Floats:
        """How far readings of images (N, 1, 32, 32) in [-1, 1] are from ``values``, (N,) each, of :data:`VARIABLES`, in
        their units; of digits 1 where it is right and 0 where not, (N, 3)."""
        found = []
        for part, *own in zip(image.split(BATCH), *(values[name].split(BATCH) for name in VARIABLES), strict=True):
            wanted = dict(zip(VARIABLES, own, strict=True))
            thickness = self.networks["thickness"](part, [self._scaled("intensity", wanted["intensity"])[:, None]])
            said = {"thickness": thickness, "intensity": self.networks["intensity"](part)}
            errors = [(self._in_unit(name, said[name][:, 0]) - wanted[name]).abs() for name in NUMBERS]
            right = self.networks[DIGIT](part).argmax(dim=1) == wanted[DIGIT]
            found.append(torch.stack([*errors, right.float()], dim=1))
        return torch.cat(found).double().numpy()

    def _scaled(self, name: str, value: Tensor) -> Tensor:
        low, high = self.ranges[name]
        return 2 * (value - low) / (high - low) - 1

    def _in_unit(self, name: str, scaled: Tensor) -> Tensor:
        low, high = self.ranges[name]
        return low + (scaled + 1) / 2 * (high - low)


# --- what is asked and found --------------------------------------------------------------------------------


def wanted(name: str, values: Tensor, ends: tuple[float, float] | None, parts: int, seed: int) -> Tensor:
    """What each image is asked to be, (N,), of what images are, (N,): a value of another one that differs enough.

    Of a digit any other digit. Of a number the range between ``ends`` is cut into equal ``parts``, and a value differs
    enough that has another number of the means of the parts below it.
    """
    random, own = np.random.default_rng(seed), values.double().numpy()
    possible = np.unique(own)
    if ends is None:
        kinds, own_kinds = possible, own
    else:
        place = np.digitize(possible, np.linspace(*ends, parts + 1)[1:-1])
        means = np.array([possible[place == k].mean() for k in range(parts) if (place == k).any()])
        kinds, own_kinds = np.digitize(possible, means), np.digitize(own, means)
    return torch.tensor([random.choice(possible[kinds != kind]) for kind in own_kinds], dtype=values.dtype)


@torch.no_grad()
def findings(run: Run, name: str, judge: Judge, parts: int, progress: Progress) -> list[Found]:
    """What the judge reads of all methods' answers about a run's test images; kept beside the table."""
    path, store = run.evaluation / "morphomnist.json", run.store()
    key = key_of((run.evaluation / "table.json").read_text(encoding="utf-8"), judge.key, parts)
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return [Found(*one) for one in kept["found"]]
    rows = store.indices("test", complete=True)
    x, values, variables = images(store, rows), torch.from_numpy(store.values()[rows]), list(run.study.variables)
    models = {method: run.model(method) for method in run.methods()}
    found = []
    for asked in progress(VARIABLES, len(VARIABLES), f"Asking {name}"):
        column = variables.index(asked)
        ends = judge.ranges.get(asked)
        do = torch.full_like(values, torch.nan)
        do[:, column] = wanted(asked, values[:, column], ends, parts, run.study.evaluation.seed)
        for method, model in models.items():
            after = model.scm.counterfactual(values, do, torch.Generator().manual_seed(run.study.evaluation.seed))
            answers = [
                rounded(model.abduct(image, own).predict(then))
                for image, own, then in zip(x.split(BATCH), values.split(BATCH), after.split(BATCH), strict=True)
            ]
            sought = {one: after[:, variables.index(one)] for one in VARIABLES}
            if method == next(iter(models)):  # all are asked for the same
                found.append(_found(name, NO_CHANGE, asked, judge.misses(x, sought)))
            found.append(_found(name, method, asked, judge.misses(torch.cat(answers), sought)))
    for method, model in models.items():
        found.append(_found(name, method, "", np.column_stack(list(_composition(model, x[:CYCLED], values[:CYCLED])))))
    write_text(path, json.dumps({"key": key, "found": found}))
    return found


def _composition(model: Any, x: Tensor, values: Tensor) -> Iterator[Floats]:
    """How far images are from themselves after each of :data:`CYCLES`, (N,), in grey levels."""
    found: dict[int, list[Tensor]] = {cycle: [] for cycle in CYCLES}
    for image, own in zip(x.split(BATCH), values.split(BATCH), strict=True):
        again = image
        for cycle in range(1, max(CYCLES) + 1):
            again = rounded(model.abduct(again, own).predict(own))
            if cycle in found:
                found[cycle].append(((again - image) * GREY_LEVELS).abs().flatten(1).mean(dim=1))
    for parts in found.values():
        yield torch.cat(parts).double().numpy()


def _found(contender: str, method: str, asked: str, values: Floats) -> Found:
    means = bootstrap_means(values, np.arange(len(values)))
    return Found(contender, method, asked, *(one.tolist() for one in means[:3]))


# --- the table ----------------------------------------------------------------------------------------------


def render(found: Sequence[Found], run: Run, judge: Judge, said: Mapping[str, Any]) -> str:
    """The page, in Markdown; images are those of ``run``."""
    store, variables = run.store(), list(run.study.variables)
    rows = store.indices("test", complete=True)
    values = torch.from_numpy(store.values()[rows])
    real = judge.misses(images(store, rows), {one: values[:, variables.index(one)] for one in VARIABLES})
    body = [["", "real images, read by the predictors", *_cells(_found("", "", "", real))]]
    for asked in VARIABLES:
        for name, numbers in said["published"].items():
            cells = [f"{numbers[asked][one]:.{k}f}" for one, k in zip(VARIABLES, DECIMALS, strict=True)]
            body.append([f"do({asked})", f"{name}, published", *cells])
        own = [one for one in found if one.asked == asked]
        same = next(one for one in own if one.method == NO_CHANGE)  # for all contenders
        body.append([f"do({asked})", method_name(same.method), *_cells(same)])
        for one in own:
            if one.method != NO_CHANGE:
                body.append([f"do({asked})", f"{one.contender}, {method_name(one.method)}", *_cells(one)])
    lines = []
    for one in found:
        if not one.asked:
            after = " and ".join(f"{value:.3f}" for value in one.value)
            lines.append(f"- Composition of {one.contender}, {method_name(one.method)}: {after} grey levels.")
    head = ["", "method", "thickness", "intensity", "digits right"]
    trained = len(store.indices("train", complete=True))
    composition = "\n".join(lines)
    return f"""\
# Digits beside counterfactual-benchmark

Error of what its predictors read of counterfactuals (mean, 95 % over images), and the share of digits that they read
right. Trained on {trained} images, judged on {len(rows)}; published numbers are of 60,000, a fifth of which validate,
and 10,000.

{grid(head, body, labels=2)}

{composition}

Published: {said["source"].strip()}.
"""


def _cells(one: Found) -> list[str]:
    return [
        f"{value:.{k}f} ({low:.{k}f} to {high:.{k}f})"
        for value, low, high, k in zip(one.value, one.low, one.high, DECIMALS, strict=True)
    ]


if __name__ == "__main__":
    main()
