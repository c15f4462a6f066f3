"""Trained parts, checkpoints, and what else is in the folder of a run or a published model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fuzz.corpus.common import CHEST, chest, contents, written
from benchmarks.fuzz.work import Reader
from segcft.training import artefact


def readers() -> list[Reader]:
    table, samples, part = CHEST / "examples" / "attributes.csv", CHEST / "samples.json", "scm.safetensors"
    return [
        Reader("artefact", ".safetensors", _layers, lambda: lambda path: artefact.load(path, nn.Linear(3, 4))),
        Reader("weights", ".safetensors", _weights, lambda: _read_weights, "safetensors", _parts, part, weight=0.4),
        Reader("checkpoint", ".pt", _checkpoints, lambda: lambda path: artefact.load_checkpoint(path, "k")),
        Reader("causal-gen", ".pt", _causal_gen_files, lambda: _read_causal_gen),
        Reader("results", ".json", _small_table, lambda: _read_results, "json", file="table.json", weight=0.4),
        Reader("samples", ".json", lambda: contents(samples), lambda: _read_samples, "json", file=samples.name),
        Reader(
            "examples", ".csv", lambda: contents(table), lambda: _read_examples, "csv", _shown, table.name, weight=0.6
        ),
    ]


@cache
def _run(folder: Path) -> Any:
    from segcft.pipeline.run import Run

    return Run(folder, chest())


def _layers() -> list[bytes]:
    torch.manual_seed(0)
    return [written("a.safetensors", lambda path: artefact.save(path, nn.Linear(3, 4), {"key": "k", "n": 1}))]


def _weights() -> list[bytes]:
    """A part of a model, as it is written now, and as before there were checksums."""
    part = _run(CHEST).path("scm")
    network = _run(CHEST).build("scm")
    usual = artefact.read_meta(_run(CHEST).path("cft-segmentor"))["usual"]
    meta = artefact.load(part, network) | {"usual": usual}  # which only image mechanisms have
    return [written(part.name, lambda path: artefact.save(path, network, meta)), part.read_bytes()]


def _parts(folder: Path) -> None:
    """The parts of a run beside the one that is damaged; one is made from what that says it is made from."""
    (folder / "cft-segmentor.safetensors").symlink_to(CHEST / "cft-segmentor.safetensors")
    (folder / "hvae.safetensors").symlink_to(folder / "scm.safetensors")


def _read_weights(path: Path) -> None:
    run = _run(path.parent)
    run.load("scm")
    run.methods()
    run.typical("scm", ("image", "latents"))


def _checkpoints() -> list[bytes]:
    state = {"key": "k", "step": 3, "model": {"weight": torch.ones(3, 4)}, "generator": torch.arange(16).byte()}
    older = partial(torch.save, state, _use_new_zipfile_serialization=False)
    return [written("a.pt", lambda path: artefact.save_checkpoint(path, state)), written("b.pt", older)]


@cache
def _causal_gen() -> tuple[Any, list[Any], dict[str, Tensor], dict[str, Any]]:
    """A tiny network, its parents, and the tensors and settings of a checkpoint that fits it."""
    from segcft.config.causal_gen import CausalGenSpec
    from segcft.config.study import Image as Grid
    from segcft.config.variable import Variable
    from segcft.image_models.causal_gen import CausalGenHVAE
    from segcft.image_models.causal_gen_checkpoint import TrainedParent, _Weights

    settings: dict[str, Any] = {"enc_arch": "16b1d2,8b1d8,1b1", "dec_arch": "1b1,8b2,16b2", "widths": [4, 4, 8]}
    settings |= {"bottleneck": 4, "z_dim": 2, "z_max_res": 16, "bias_max_res": 16}
    spec = CausalGenSpec(architecture="causal-gen", steps=1, block="gelu", **settings)
    variables = {"sex": Variable(kind="categorical", categories=("F", "M")), "age": Variable(kind="continuous")}
    network = CausalGenHVAE(spec, Grid(size=(16, 16)), variables)
    parents = [TrainedParent("sex"), TrainedParent("age", (50.0, 20.0))]
    state: dict[str, Tensor] = {}

    class Noting(_Weights):
        """Asked for a tensor, notes which."""

        def take(self, name: str, shape: Sequence[int]) -> Tensor:
            state[name] = torch.zeros(*shape)
            return state[name]

    Noting({}, [0, 1]).fill(network)
    # Theirs has a prior's scale also where there is no latent.
    return network, parents, state, settings


def _causal_gen_files() -> list[bytes]:
    _, _, state, settings = _causal_gen()
    content = {"epoch": 1, "ema_model_state_dict": state, "hparams": settings}
    return [written("a.pt", partial(torch.save, content))]


def _read_causal_gen(path: Path) -> None:
    from segcft.image_models.causal_gen_checkpoint import load_causal_gen

    network, parents, _, _ = _causal_gen()
    load_causal_gen(path, network, parents)


def _small_table() -> list[bytes]:
    rows = json.loads((CHEST / "evaluation" / "table.json").read_bytes())
    return [json.dumps(rows[:: max(1, len(rows) // 40)]).encode()]


def _read_results(path: Path) -> None:
    from segcft.report.results import render_results

    folder = path.parent
    run = folder / "run"
    if not run.exists():
        run.mkdir()
        for part in CHEST.iterdir():
            if part.name != "evaluation":
                (run / part.name).symlink_to(part)
        (run / "evaluation").symlink_to(folder)
    render_results([run])


def _read_samples(path: Path) -> None:
    _run(path.parent).samples()


def _read_examples(path: Path) -> None:
    from segcft.app.catalogue import _examples

    _examples(_run(path.parent))


def _shown(folder: Path) -> None:
    for path in (CHEST / "examples").iterdir():
        if path.suffix == ".png":
            (folder / path.name).symlink_to(path)
    (folder / "examples").symlink_to(folder)
