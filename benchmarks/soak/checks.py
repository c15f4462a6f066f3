"""What must hold after every fault, and in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from benchmarks.soak import SoakError
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.pipeline.run import Run
from segcft.training import artefact

GREY_LEVELS, ROUNDING = 1, 1e-3
"""How far answers may be apart, in grey levels and relatively: who is in a batch with whom changes the rounding."""


def check(folder: Path, study: Study, began: float, orderly: bool) -> int:
    """What must hold after every fault; ``began`` is when the process did, ``orderly`` whether it was asked to end.

    Returns:
        how many steps a training has lost.

    Raises:
        SoakError: it does not hold.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not is_partial(path, folder):
            try:
                read(path, study)
            except Exception as error:
                raise SoakError(f"{path}: half-written ({type(error).__name__}: {error})") from error
    if (folder / "run/store/store.json").is_file():
        Store(folder / "run/store", verify=True)
    lost = [0]
    for stage in trained(study):
        log = folder / f"run/training/{stage}.jsonl"
        if log.exists() and not (folder / f"run/{stage}.safetensors").exists():
            lost.append(lost_steps(stage, log, study, orderly and log.stat().st_mtime > began))
    return max(lost)


def trained(study: Study) -> list[str]:
    """The parts of the study."""
    return list(Run(Path(), study).parts)


def read(path: Path, study: Study) -> None:
    """Read a file whole; an error if it is not."""
    if path.suffix == ".safetensors":
        artefact.load(path, Run(path.parent, study).build(path.stem))
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


def lost_steps(stage: str, log: Path, study: Study, orderly: bool) -> int:
    """How many steps of a training that is not done were made since its checkpoint."""
    spec = study.finetune if stage.startswith("cft-") else getattr(study, stage)
    reached = log.read_text().count("\n")
    checkpoint = log.with_suffix(".checkpoint")
    lost = reached - (torch.load(checkpoint, weights_only=True)["step"] if checkpoint.exists() else 0)
    # After the last step there is no checkpoint, since the weights follow.
    allowed = 0 if orderly and reached < spec.steps else spec.checkpoint_steps
    if lost > allowed:
        raise SoakError(f"{stage}: {lost} of {reached} steps lost, {allowed} allowed")
    return lost


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
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - not a dict
