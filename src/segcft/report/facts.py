"""What a report says of a run: its parts, its samples, what guards its figures, and where it was made."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
import torch

import segcft
from segcft.causal.dependence import Dependence
from segcft.config.study import Study
from segcft.data.store import Store
from segcft.errors import Code, RunError
from segcft.pipeline.run import Run
from segcft.pipeline.stage import training_stage
from segcft.training import artefact
from segcft.training.findings import recorded

LIBRARIES = ("torch", "lightning", "monai", "zuko", "numpy", "pandas", "scikit-image", "safetensors", "pydantic")
"""Whose versions can change a figure."""


@dataclass(frozen=True)
class Part:
    """A trained part, by what is recorded in its file."""

    name: str
    meta: Mapping[str, Any]
    parameters: int
    current: bool
    """Whether it was made from the parts that the run has now."""


@dataclass(frozen=True)
class Check:
    """Something that must hold for the figures to mean what they say."""

    holds: bool
    text: str


def read_parts(run: Run) -> list[Part]:
    """The trained parts that are there, in the order of the stages.

    Raises:
        RunError: one is damaged.
    """
    metas = {n: artefact.read_meta(run.path(n)) for n in run.parts if run.path(n).is_file()}
    parts = []
    for name, meta in metas.items():
        current = all(metas[b].get("key") == key for b, key in meta.get("made_from", {}).items() if b in metas)
        count = sum(parameter.numel() for parameter in run.build(name).parameters())
        parts.append(Part(name, meta, count, current))
    return parts


def missing_parts(run: Run, parts: Sequence[Part]) -> list[str]:
    """The parts that the study has and the run lacks."""
    there = {part.name for part in parts}
    return [name for name in run.parts if name not in there]


def findings(parts: Sequence[Part]) -> list[str]:
    """What went wrong in the trainings, as recorded in the parts."""
    return [f"{part.name}: {finding}" for part in parts for finding in recorded(part.meta)]


def noises(parts: Sequence[Part]) -> list[Dependence]:
    """The test of the noises that is recorded in the part of the attributes; none of parts that are older than it."""
    scm = next((part for part in parts if part.name == "scm"), None)
    try:
        return [Dependence(**one) for one in scm.meta.get("noises", [])] if scm else []
    except TypeError as error:
        raise RunError(Code.DAMAGED, "scm.safetensors: noises", f"not the record of a test ({error})") from None


def guards(store: Store, parts: Sequence[Part]) -> Iterator[Check]:
    """Checks of the run's parts and samples, made here and now."""
    trained = {part.name: part.meta for part in parts}
    for judge, guide in (("judge", "segmentor"), ("predictor-judge", "predictor")):
        seeds = {name: _seed(name, trained[name]) for name in (judge, guide) if name in trained}
        if len(seeds) == 2:
            yield Check(
                seeds[judge] != seeds[guide] and trained[judge]["key"] != trained[guide]["key"],
                f"The {judge} is not the guide: it was trained from seed {seeds[judge]}, the {guide} from "
                f"{seeds[guide]}.",
            )
        if judge in trained:
            made_from = [part.name for part in parts if judge in part.meta.get("made_from", {})]
            parts_of_it = f"{': ' * bool(made_from)}{', '.join(made_from)}"
            yield Check(not made_from, f"No part was made from the {judge}{parts_of_it}.")
    other = [part.name for part in parts if part.meta.get("data") != store.fingerprint]
    yield Check(not other, f"All parts were trained on the samples that the run has{_except(other)}.")
    stale = [part.name for part in parts if not part.current]
    yield Check(not stale, f"All parts were made from the parts that the run has{_except(stale)}.")
    judged = store.table["split"] == "test"
    shared = set(store.table.loc[judged, "patient"]) & set(store.table.loc[~judged, "patient"])
    yield Check(
        not shared, f"No test subject is a training or validation subject{f', except {len(shared):,}' * bool(shared)}."
    )
    versions = sorted({str(part.meta.get("version")) for part in parts})
    yield Check(len(versions) == 1, f"All parts were made by one version of segcft: {', '.join(versions)}.")
    adopted = next((part for part in parts if "source" in part.meta), None)
    if adopted is not None:
        yield Check(
            False,
            f"{adopted.name} was imported, and segcft does not know its training samples: those judged may be among "
            "them, unless the run has its original split.",
        )


def _seed(part: str, meta: Mapping[str, Any]) -> int:
    """From which a part was trained."""
    try:
        return int(meta["study"][training_stage(part).section]["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            Code.MISSING, f"{part}.safetensors", f"it does not say from which seed it was trained ({error!r})"
        ) from None


def seeds(study: Study) -> dict[str, int]:
    """Every seed of the study, by its key."""
    return {f"{name}.seed": spec.seed for name, spec in study if hasattr(spec, "seed")}


def left_out(rejected: pd.DataFrame) -> list[tuple[str, int]]:
    """Reasons for which samples were left out, and how many: the commonest first.

    The sample's own id, folders and numbers of lines are taken out of the reasons, or each would be one of its own.
    """
    reasons: Counter[str] = Counter()
    for id, reason in zip(rejected["id"], rejected["reason"], strict=True):
        general = re.sub(r"\bline \d+", "line \N{HORIZONTAL ELLIPSIS}", str(reason))
        general = re.sub(r"^.*?[/\\](?=[^/\\:]*:)", "", general)
        if id:
            general = re.sub(rf"(?<!\w){re.escape(str(id))}(?!\w)", "ID", general)
        reasons[general] += 1
    return reasons.most_common()


def environment(device: torch.device) -> dict[str, str]:
    """Where this process runs: versions and hardware."""
    found = {"segcft": segcft.__version__, "Python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = torch.__version__ if name == "torch" else version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["system"] = f"{platform.system()} on {platform.machine()}"
    found["CPU cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    found["threads of PyTorch"] = str(torch.get_num_threads())
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return found


def _except(names: Sequence[str]) -> str:
    return f", except {', '.join(names)}" if names else ""
