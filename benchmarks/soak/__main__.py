"""The command: ``python -m benchmarks.soak --help``."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml
from PIL import Image

import benchmarks.soak
from benchmarks.soak import SoakError, small_study
from benchmarks.soak.checks import check, compare, partial_files, trained
from benchmarks.soak.faults import FULL_DISK, KINDS, Command, Fault
from segcft.config.loader import parse_study
from segcft.pipeline.run import Run
from segcft.utils.progress import ConsoleProgress

AIMED = 0.4
"""The share of faults that wait for a file to be written."""


class Soak:
    """The study, its reference and its faults, in the folder ``out``."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.random = out, random.Random(seed)
        self.file, self.images = out / "soak.yaml", out / "images"
        out.mkdir(parents=True, exist_ok=True)
        self.file.write_text(yaml.safe_dump(small_study(), sort_keys=False), encoding="utf-8")
        self.study = parse_study(small_study())
        self.stages = ["import", *trained(self.study), "evaluate", "counterfactual"]
        self.faults: Counter[tuple[str, str]] = Counter()
        self.aimed = self.grouped = self.through = self.lost = 0
        self.seconds: dict[str, float] = {}
        """What each stage takes without a fault."""

    def commands(self, folder: Path, jobs: int) -> list[list[str]]:
        run, answers = str(folder / "run"), str(folder / "answers")
        return [
            ["run", str(self.file), "--out", run, "--jobs", str(jobs)],
            ["counterfactual", run, str(self.images), "--do", "heart_area=+20%", "--out", answers, "--jobs", str(jobs)],
        ]

    def make_reference(self) -> Path:
        """Run everything once, without a fault."""
        folder = self.out / "reference"
        shutil.rmtree(folder, ignore_errors=True)
        first, second = self.commands(folder, 1)
        Command(["--version"]).finish()  # what is imported is imported now, and counts for no stage
        began = time.time()
        Command(first).finish()
        made = self.made(folder)
        for stage, path in sorted(made.items(), key=lambda one: one[1].stat().st_mtime):
            self.seconds[stage] = path.stat().st_mtime - began
            began = path.stat().st_mtime
        self.write_images(folder / "run")
        began = time.time()
        Command(second).finish()
        self.seconds["counterfactual"] = time.time() - began
        return folder

    def made(self, folder: Path) -> dict[str, Path]:
        """The file that each stage of a run makes last."""
        made = {"import": folder / "run/import.json", "evaluate": folder / "run/evaluation/evaluation.json"}
        return made | {stage: folder / f"run/{stage}.safetensors" for stage in trained(self.study)}

    def write_images(self, run: Path) -> None:
        shutil.rmtree(self.images, ignore_errors=True)
        self.images.mkdir()
        for number, pixels in enumerate(Run(run).store().images[:40]):
            Image.fromarray(pixels[0]).save(self.images / f"{number}.png")

    def stage(self, folder: Path) -> str:
        """The first stage whose outcome is not there."""
        made = self.made(folder)
        return next((stage for stage in self.stages if stage in made and not made[stage].exists()), "counterfactual")

    def one_pass(self, reference: Path, faults: int) -> Iterator[None]:
        """Both commands, until they are through or the ``faults`` are used up; yields after each fault."""
        folder, left = self.out / "struck", faults
        shutil.rmtree(folder, ignore_errors=True)
        jobs = 2 if self.through % 4 == 3 else 1
        for arguments in self.commands(folder, jobs):
            while True:
                stage, began = self.stage(folder), time.time()
                command = Command(arguments)
                fault = self.draw(stage, jobs) if left else None
                if fault is None or not self.wait(command, fault, folder):
                    command.finish()
                    break
                if not command.suffer(fault, folder):
                    break
                self.lost = max(self.lost, check(folder, self.study, began, fault.kind in ("SIGTERM", "SIGINT")))
                self.faults[self.stage(folder), fault.kind] += 1
                self.aimed, self.grouped, left = self.aimed + fault.aimed, self.grouped + fault.group, left - 1
                yield
        compare(folder, reference)
        self.through += 1

    def draw(self, stage: str, jobs: int) -> Fault:
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        start = 0.05 if jobs == 1 else 8.0 * self.random.random()  # workers import PyTorch first
        aimed = self.random.random() < AIMED
        delay = start + self.random.uniform(0, self.seconds[stage] * (0.8 if aimed else 1.3))
        return Fault(kind, kind == FULL_DISK or self.random.random() < 0.5, delay, aimed)

    def wait(self, command: Command, fault: Fault, folder: Path) -> bool:
        """Whether the command still ran when the fault's moment came."""
        left = set(partial_files(folder))  # by an earlier fault
        command.process.join(fault.delay)
        while fault.aimed and command.process.is_alive() and not set(partial_files(folder)) - left:
            time.sleep(0.0005)
        return command.process.is_alive()

    def report(self) -> str:
        rows = [f"| {'stage':<16} | {' | '.join(KINDS)} | all |", f"| --- |{' ---: |' * (len(KINDS) + 1)}"]
        for stage in self.stages:
            counts = [self.faults[stage, kind] for kind in KINDS]
            rows.append(f"| {stage:<16} | {' | '.join(map(str, counts))} | {sum(counts)} |")
        return "\n".join(
            [
                *rows,
                "",
                f"{self.faults.total()} faults, {self.aimed} of them while a file was written, {self.grouped} of the "
                f"whole group; {self.through} times through, each time equal to the reference; no half-written "
                f"file, no process left; at most {self.lost} steps lost (checkpoint interval: 5).",
            ]
        )


def main(arguments: list[str] | None = None) -> int:
    about = (benchmarks.soak.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=about)
    parser.add_argument("--faults", type=int, default=120, metavar="N", help="kills and full disks (default: 120)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments and kinds (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the folders there (default: removed at the end)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="segcft-soak-") as temporary:
        soak, progress = Soak(options.out or Path(temporary), options.seed), ConsoleProgress()
        try:
            reference = soak.make_reference()
            progress.note("reference: " + ", ".join(f"{stage} {took:.1f} s" for stage, took in soak.seconds.items()))
            with progress.task("Faults", options.faults) as task:
                while soak.faults.total() < options.faults:
                    for _ in soak.one_pass(reference, options.faults - soak.faults.total()):
                        task.advance(note=f"{soak.through} times through")
        except SoakError as error:
            print(f"lost after {soak.faults.total()} faults: {error}", file=sys.stderr)
            return 1
    print(soak.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
