"""What users write by hand: studies, ablations, and interventions on a command line."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz.corpus.common import ROOT, chest, contents, lazily
from benchmarks.fuzz.work import Reader
from segcft.config.loader import load_study
from segcft.errors import Code, SegcftError

_STUDIES = [ROOT / "configs" / f"{name}.yaml" for name in ("quickstart", "jsrt", "ccta")]
_ABLATION = b"base: quickstart.yaml\nvariants:\n  best: {}\n  one: {why: fewer, finetune: {also: 0, slack: 0.1}}\n"
_ASKED = [
    b"age=63",
    b"heart_area=+20%",
    b"heart_area=-1.5sd",
    b"sex=F",
    b"age=(-5)",
    b"age=match:a.png",
    b"3/8",
    b"v=5:0.5",
    b"age=20..80",
]


def readers() -> list[Reader]:
    ablation = lazily("segcft.pipeline.ablation", "load_ablation")
    return [
        Reader("study", ".yaml", lambda: contents(*_STUDIES), lambda: load_study, "yaml"),
        # It may name another base.
        Reader("ablation", ".yaml", lambda: [_ABLATION], ablation, "yaml", _base, named=False, weight=0.6),
        Reader("intervention", ".txt", lambda: _ASKED, lambda: _read_asked, "text", named=False),
    ]


def _base(folder: Path) -> None:
    (folder / "quickstart.yaml").write_bytes((ROOT / "configs" / "quickstart.yaml").read_bytes())


def _read_asked(path: Path) -> None:
    from segcft.api.question import parse_values
    from segcft.data.shards import Shard
    from segcft.image_models.causal_gen_checkpoint import TrainedParent

    study = chest()
    problems: list[SegcftError] = []
    understood = False
    for part in path.read_bytes().decode("utf-8", errors="replace").split("\n", 8):
        for parse in (lambda part: parse_values(study, [part]), TrainedParent.parse):
            try:
                parse(part)
                understood = True
            except SegcftError as error:
                problems.append(error)
        try:
            Shard.parse(part)
        except ValueError as error:  # what it is documented to raise
            problems.append(SegcftError(Code.INVALID, "shard", str(error)))
    if not understood:
        raise problems[0]
