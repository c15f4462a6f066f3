"""Kills a small study at random moments, over and over, and checks that nothing is lost: ``python -m benchmarks.soak``.

A study of simulated radiographs of 32 x 32 pixels is run whole once, and a folder of images is asked a question, for
reference. Then the same commands are begun again and again and ended by SIGKILL, SIGTERM or SIGINT, sent to the
process or to it and its workers, until they are through; then anew, until the number of kills is reached. A part of
the kills waits for a moment at which a file is being written. After every kill:

- every file with a final name is whole: weights, checkpoints and the store hold their checksums, the others parse;
- a training lost no more than the steps of a checkpoint interval, and none to SIGTERM and SIGINT;
- no process is left.

Whenever the commands are through, weights, logs, store, table and figures are compared with the reference, bit for bit,
and the answers up to the rounding of another batch. The processes are forked from one that has imported PyTorch
already, so that a kill costs little; with ``--jobs 2`` (every fourth time) they have workers, which have not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

PRELOADED = ["segcft.cli", "segcft.parallel", "segcft.batch", "segcft.evaluate.figures", "segcft.simulate.chest"]
PRELOADED += ["lightning.fabric", "monai.networks.nets", "torch._dynamo"]
SIGNALS = {signal.SIGKILL: 2, signal.SIGTERM: 1, signal.SIGINT: 1}
"""What is sent, and how often."""
AIMED = 0.4
"""The share of kills that wait for a file to be written."""
GREY_LEVELS, ROUNDING = 1, 1e-3
"""How far answers may be apart, in grey levels and relatively: who is in a batch with whom changes the rounding."""
PATIENCE = 60.0
"""Seconds within which a process that was told to end must have ended."""


class SoakError(Exception):
    """Something was lost."""


class Kill(NamedTuple):
    """What is sent, to whom and when: after ``delay`` seconds, or (``aimed``) once a file is written after that."""

    number: signal.Signals
    group: bool
    delay: float
    aimed: bool


def small_study() -> dict[str, Any]:
    """A study that trains in seconds, with checkpoints every few steps."""
    area = {"kind": "continuous", "parents": ["sex", "age"], "unit": "px"}
    step = {"batch_size": 8, "warmup_steps": 2, "checkpoint_steps": 5}
    segmentor = step | {"steps": 40, "learning_rate": 1e-2, "widths": [8, 16, 24], "ema": 0.9}
    levels = [{"width": 8, "encoder": 0, "z": 0}, {"width": 12, "z": 4}, {"width": 12, "z": 4}]
    hvae = {"steps": 40, "learning_rate": 3e-3, "ema": 0.9, "context": 8, "patch": 2, "warp": 8, "levels": levels}
    return {
        "name": "soak",
        "image": {"size": [32, 32]},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous", "unit": "years"},
            "left_lung_area": area,
            "right_lung_area": area,
            "heart_area": area,
        },
        "structures": {name: {"variable": f"{name}_area"} for name in ("left_lung", "right_lung", "heart")},
        "data": {"source": "chest-simulator", "people": 60, "seed": 3},
        "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "segmentor": segmentor,
        "judge": segmentor | {"seed": 1},
        "regressor": step | {"steps": 40, "learning_rate": 3e-3, "widths": [8, 8, 16, 16]},
        "scm": step | {"steps": 40, "hidden": [8], "bins": 4, "learning_rate": 1e-2},
        "hvae": step | hvae,
        "finetune": step | {"steps": 12, "ema": 0.5, "bound_batches": 2},
        "evaluation": {"bootstrap": 40, "figure_people": 1, "figure_changes": [-0.2, 0.2]},
    }


class Soak:
    """The study, its reference and its kills, in the folder ``out``."""

    def __init__(self, out: Path, seed: int) -> None:
        from segcft.study import parse_study

        self.out, self.random = out, random.Random(seed)
        self.file, self.images, self.log = out / "soak.yaml", out / "images", out / "output.txt"
        out.mkdir(parents=True, exist_ok=True)
        self.file.write_text(yaml.safe_dump(small_study(), sort_keys=False), encoding="utf-8")
        self.study = parse_study(small_study())
        guides = [f"cft-{guide}" for guide in self.study.finetune.guides]
        self.trained = ["segmentor", "judge", "regressor", "scm", "hvae", *guides]
        self.stages = ["import", *self.trained, "evaluate", "counterfactual"]
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.kills: Counter[tuple[str, str]] = Counter()
        self.aimed = self.grouped = self.through = self.lost = 0
        self.seconds: dict[str, float] = {}
        """What each stage takes without a kill."""

    # --- running ---

    def commands(self, folder: Path, jobs: int) -> list[list[str]]:
        run, answers = str(folder / "run"), str(folder / "answers")
        return [
            ["run", str(self.file), "--out", run, "--jobs", str(jobs)],
            ["counterfactual", run, str(self.images), "--do", "heart_area=+20%", "--out", answers, "--jobs", str(jobs)],
        ]

    def make_reference(self) -> Path:
        """Run everything once, without a kill."""
        folder = self.out / "reference"
        shutil.rmtree(folder, ignore_errors=True)
        first, second = self.commands(folder, 1)
        self.finish(self.begin(["--version"]))  # what is imported is imported now, and counts for no stage
        began = time.time()
        self.finish(self.begin(first))
        times = [("import", folder / "run/import.json"), ("evaluate", folder / "run/evaluation/evaluation.json")]
        times += [(stage, folder / f"run/{stage}.safetensors") for stage in self.trained]
        for stage, path in sorted(times, key=lambda one: one[1].stat().st_mtime):
            self.seconds[stage] = path.stat().st_mtime - began
            began = path.stat().st_mtime
        self.write_images(folder / "run")
        began = time.time()
        self.finish(self.begin(second))
        self.seconds["counterfactual"] = time.time() - began
        return folder

    def write_images(self, run: Path) -> None:
        from PIL import Image

        from segcft.run import Run

        shutil.rmtree(self.images, ignore_errors=True)
        self.images.mkdir()
        for number, pixels in enumerate(Run(run).store().images[:40]):
            Image.fromarray(pixels[0]).save(self.images / f"{number}.png")

    def begin(self, command: list[str]) -> BaseProcess:
        process = self.context.Process(target=work, args=(command, self.log))
        process.start()
        return process

    def finish(self, process: BaseProcess) -> None:
        process.join()
        if process.exitcode != 0:
            raise SoakError(f"status {process.exitcode}:\n{self.log.read_text()[-2000:]}")

    def stage(self, folder: Path) -> str:
        """The first stage whose outcome is not there."""
        made = {"import": folder / "run/import.json", "evaluate": folder / "run/evaluation/evaluation.json"}
        made |= {stage: folder / f"run/{stage}.safetensors" for stage in self.trained}
        return next((stage for stage in self.stages if stage in made and not made[stage].exists()), "counterfactual")

    def one_pass(self, reference: Path, kills: int) -> Iterator[None]:
        """Both commands, killed until they are through or the ``kills`` are used up; yields after each kill."""
        folder, left = self.out / "killed", kills
        shutil.rmtree(folder, ignore_errors=True)
        jobs = 2 if self.through % 4 == 3 else 1
        for command in self.commands(folder, jobs):
            while True:
                stage, began = self.stage(folder), time.time()
                process = self.begin(command)
                kill = self.draw(stage, jobs) if left else None
                if kill is None or not self.wait(process, kill, folder):
                    self.finish(process)
                    break
                self.end(process, kill)
                self.check(folder, began, orderly=kill.number != signal.SIGKILL)
                self.kills[self.stage(folder), kill.number.name] += 1
                self.aimed, self.grouped, left = self.aimed + kill.aimed, self.grouped + kill.group, left - 1
                yield
        compare(folder, reference)
        self.through += 1

    def draw(self, stage: str, jobs: int) -> Kill:
        number = self.random.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        start = 0.05 if jobs == 1 else 8.0 * self.random.random()  # workers import PyTorch first
        aimed = self.random.random() < AIMED
        delay = start + self.random.uniform(0, self.seconds[stage] * (0.8 if aimed else 1.3))
        return Kill(number, self.random.random() < 0.5, delay, aimed)

    def wait(self, process: BaseProcess, kill: Kill, folder: Path) -> bool:
        """Whether the process still ran when the kill's moment came."""
        left = set(partial_files(folder))  # by an earlier kill
        process.join(kill.delay)
        while kill.aimed and process.is_alive() and not set(partial_files(folder)) - left:
            time.sleep(0.0005)
        return process.is_alive()

    def end(self, process: BaseProcess, kill: Kill) -> None:
        assert process.pid is not None
        group = members(process.pid)
        for pid in group if kill.group else [process.pid]:
            with suppress(ProcessLookupError):  # it was faster
                os.kill(pid, kill.number)
        process.join(PATIENCE)
        if process.is_alive():
            raise SoakError(f"{kill.number.name}: the process still runs after {PATIENCE:.0f} s")
        deadline = time.monotonic() + PATIENCE
        while left := members(process.pid):
            if time.monotonic() > deadline:
                raise SoakError(f"{kill.number.name}: left behind: {left}")
            time.sleep(0.02)

    # --- checking ---

    def check(self, folder: Path, began: float, orderly: bool) -> None:
        """What must hold after every kill; ``began`` is when the process did."""
        for path in folder.rglob("*"):
            if path.is_file() and not is_partial(path, folder):
                try:
                    self.open(path)
                except Exception as error:
                    raise SoakError(f"{path}: half-written ({type(error).__name__}: {error})") from error
        if (folder / "run/store/store.json").is_file():
            from segcft.data.store import Store

            Store(folder / "run/store", verify=True)
        for stage in self.trained:
            log = folder / f"run/training/{stage}.jsonl"
            if log.exists() and not (folder / f"run/{stage}.safetensors").exists():
                self.check_steps(stage, log, orderly and log.stat().st_mtime > began)

    def open(self, path: Path) -> None:
        import pandas as pd
        import torch
        from PIL import Image

        from segcft import artefact
        from segcft.run import Run

        if path.suffix == ".safetensors":
            artefact.load(path, Run(path.parent, self.study).build(path.stem))
        elif path.suffix == ".checkpoint":
            key = torch.load(path, weights_only=True)["key"]
            assert artefact.load_checkpoint(path, key) is not None
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":  # grows line by line, and the last may be cut off
            for line in path.read_text().splitlines(keepends=True):
                assert not line.endswith("\n") or json.loads(line)
        elif path.suffix == ".parquet":
            pd.read_parquet(path)
        elif path.suffix == ".csv":
            pd.read_csv(path)
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_text())
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()

    def check_steps(self, stage: str, log: Path, orderly: bool) -> None:
        import torch

        spec = self.study.finetune if stage.startswith("cft-") else getattr(self.study, stage)
        reached = log.read_text().count("\n")
        checkpoint = log.with_suffix(".checkpoint")
        lost = reached - (torch.load(checkpoint, weights_only=True)["step"] if checkpoint.exists() else 0)
        self.lost = max(self.lost, lost)
        # After the last step there is no checkpoint, since the weights follow.
        allowed = 0 if orderly and reached < spec.steps else spec.checkpoint_steps
        if lost > allowed:
            raise SoakError(f"{stage}: {lost} of {reached} steps lost, {allowed} allowed")

    def report(self) -> str:
        numbers = [number.name for number in SIGNALS]
        rows = [f"| {'stage':<16} | {' | '.join(numbers)} | all |", f"| --- |{' ---: |' * (len(numbers) + 1)}"]
        for stage in self.stages:
            counts = [self.kills[stage, number] for number in numbers]
            rows.append(f"| {stage:<16} | {' | '.join(map(str, counts))} | {sum(counts)} |")
        return "\n".join(
            [
                *rows,
                "",
                f"{self.kills.total()} kills, {self.aimed} of them while a file was written, {self.grouped} of the "
                f"whole group; {self.through} times through, each time equal to the reference; no half-written "
                f"file, no process left; at most {self.lost} steps lost (checkpoint interval: 5).",
            ]
        )


def work(command: list[str], log: Path) -> None:
    """A process's life: one command, in a group of its own."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import torch

    from segcft.cli import main

    torch.set_num_threads(1)
    sys.exit(main(command))


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            pass
    return found


def is_partial(path: Path, folder: Path) -> bool:
    """Whether a file's name, or that of a folder it is in, says that it is not complete."""
    return any("partial" in part or part.startswith(".") for part in path.relative_to(folder).parts)


def partial_files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files and folders that are not complete, and when they were last written."""
    for place in ("run", "run/training", "run/evaluation", "run/evaluation/figures", "answers", "answers/images"):
        for pattern in ("*partial*", ".*partial*"):
            for path in (folder / place).glob(pattern):
                with suppress(FileNotFoundError):  # complete by now
                    yield path, path.stat().st_mtime_ns


def compare(folder: Path, reference: Path) -> None:
    """All files of both folders are the same, but for what of their making is recorded: times and waits."""
    paths = [{path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (folder, reference)]
    differ = {path for path in paths[0] ^ paths[1] if not path.name.startswith(".lock")}
    if differ:
        raise SoakError(f"files that are not in both {folder} and {reference}: {sorted(map(str, differ))}")
    for path in sorted(paths[0] & paths[1]):
        if not same(folder / path, reference / path):
            raise SoakError(f"{folder / path}: differs from the reference")


def same(path: Path, other: Path) -> bool:
    """Whether two files hold the same; answers, as close as they are to those of another batch of images."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    if path.suffix == ".safetensors":
        return weights(path) == weights(other)
    if path.name == "journal.jsonl":  # has the answers in the order in which processes were done
        return len(path.read_text().splitlines()) == len(other.read_text().splitlines())
    if path.read_bytes() == other.read_bytes() or path.parent.name not in ("answers", "images"):
        return path.read_bytes() == other.read_bytes()
    if path.suffix == ".png":
        pixels = [np.asarray(Image.open(one), dtype=int) for one in (path, other)]
        return bool((np.abs(pixels[0] - pixels[1]) <= GREY_LEVELS).all())
    tables = [pd.read_csv(one) for one in (path, other)]
    columns = tables[0].select_dtypes("number").columns
    close = np.allclose(tables[0][columns], tables[1][columns], rtol=ROUNDING, equal_nan=True)
    return bool(close and tables[0].drop(columns=columns).equals(tables[1].drop(columns=columns)))


def weights(path: Path) -> dict[str, bytes]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - not a dict


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments and signals (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the folders there (default: removed at the end)")
    options = parser.parse_args(arguments)
    from segcft.progress import ConsoleProgress

    with tempfile.TemporaryDirectory(prefix="segcft-soak-") as temporary:
        soak, progress = Soak(options.out or Path(temporary), options.seed), ConsoleProgress()
        try:
            reference = soak.make_reference()
            progress.note("reference: " + ", ".join(f"{stage} {took:.1f} s" for stage, took in soak.seconds.items()))
            with progress.task("Kills", options.kills) as task:
                while soak.kills.total() < options.kills:
                    for _ in soak.one_pass(reference, options.kills - soak.kills.total()):
                        task.advance(note=f"{soak.through} times through")
        except SoakError as error:
            print(f"lost after {soak.kills.total()} kills: {error}", file=sys.stderr)
            return 1
    print(soak.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
