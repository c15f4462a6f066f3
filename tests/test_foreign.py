"""Judges from elsewhere: networks in ONNX and TorchScript, and the file that says what they expect and give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from refused import refused
from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.errors import Code, RunError, StudyError
from segcft.grey import to_unit
from segcft.pipeline.judging import load_judge
from segcft.pipeline.run import Run
from segcft.readers.foreign import ForeignSegmentor, resized
from tests import small_volumes


class Levels(nn.Module):
    """Output k is the grey level times ``gains[k]``, plus ``k``."""

    def __init__(self, gains: tuple[float, ...]) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains))

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(self.gains.shape[0], dtype=x.dtype)
        along = (-1, *[1] * (x.dim() - 2))
        return x.mean(dim=1, keepdim=True) * self.gains.view(along) + steps.view(along)


def torchscript(folder: Path, network: nn.Module, example: Tensor) -> str:
    torch.jit.trace(network.eval(), example).save(str(folder / "net.pt"))
    return "net.pt"


def onnx_levels(folder: Path, gains: tuple[float, ...], batch: int | str = "n", size: str = "hw") -> str:
    """:class:`Levels` of grey images in ONNX; a ``batch`` that is a number is the one size it takes."""
    weight = np.array(gains, dtype=np.float32).reshape(-1, 1, *[1] * len(size))
    bias = np.arange(len(gains), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "levels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, len(gains), *size])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(made, str(folder / "net.onnx"))
    return "net.onnx"


def card(folder: Path, **keys: Any) -> Path:
    structures = {"left_lung": [0], "right_lung": [1], "heart": [2]}
    path = folder / "theirs.yaml"
    path.write_text(yaml.safe_dump({"structures": structures} | keys), encoding="utf-8")
    return path


def images(run: Run) -> Tensor:
    return to_unit(torch.from_numpy(run.store().images[:5].copy()))


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_torchscript_and_onnx_say_the_same(small_run: Run, tmp_path: Path, batch: int | str) -> None:
    gains, x = (3.0, -2.0, 0.5), images(small_run)[:4]
    networks = torchscript(tmp_path, Levels(gains), x), onnx_levels(tmp_path, gains, batch)
    seen = [ForeignSegmentor(card(tmp_path, network=one, range=[-1, 1]), small_run.study).masks(x) for one in networks]
    torch.testing.assert_close(*seen)
    torch.testing.assert_close(seen[0], torch.sigmoid(Levels(gains)(x)).detach())


def test_what_it_expects_and_gives_is_translated(small_run: Run, tmp_path: Path) -> None:
    height, width = small_run.study.image.size
    x = torch.linspace(-1, 1, width).expand(5, 1, height, width)  # smooth, so that resizing hardly matters

    class Asked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            # Outputs beyond the masks: what it was given, for the test to see.
            return torch.cat([x[:, :1] / 200, x[:, 2:] / 200, torch.full_like(x[:, :1], 0.25)], dim=1)

    network = torchscript(tmp_path, Asked(), torch.zeros(2, 3, 2 * height, 2 * width))
    described = card(
        tmp_path,
        network=network,
        size=[2 * height, 2 * width],
        range=[0, 100],
        channels=3,
        gives="probabilities",
        structures={"heart": [2], "right_lung": [0, 1], "left_lung": [0]},  # in another order than the study's
    )
    seen = ForeignSegmentor(described, small_run.study).masks(x)
    assert seen.shape == (5, 3, height, width)
    torch.testing.assert_close(seen[:, 0], (x[:, 0] + 1) / 4, rtol=0, atol=0.02)  # 0 to 100, over 200
    torch.testing.assert_close(seen[:, 1], 2 * seen[:, 0])
    torch.testing.assert_close(seen[:, 2], torch.full_like(seen[:, 2], 0.25))


def test_classes_exclude_each_other(small_run: Run, tmp_path: Path) -> None:
    x = images(small_run)
    network = torchscript(tmp_path, Levels((1.0, 2.0, -1.0, 0.0)), x)
    whole = {"left_lung": [0, 1, 2, 3], "right_lung": [1], "heart": [2]}
    seen = ForeignSegmentor(card(tmp_path, network=network, gives="classes", structures=whole), small_run.study)
    torch.testing.assert_close(seen.masks(x)[:, 0], torch.ones_like(x[:, 0]))
    assert float((seen.masks(x)[:, 1:].sum(dim=1)).max()) < 1
    assert bool(seen(x).isfinite().all())


def test_a_judge_in_torchscript_reads_as_it_did(small_run: Run, tmp_path: Path) -> None:
    own, x = small_run.load("judge"), images(small_run)
    names = list(small_run.study.masked)
    structures = {name: [k] for k, name in enumerate(names)}
    described = card(tmp_path, network=torchscript(tmp_path, own, x), range=[-1, 1], structures=structures)
    judge = load_judge(small_run, described)
    torch.testing.assert_close(judge.read(x), own.read(x), rtol=1e-4, atol=0.1)


def test_a_run_is_judged_by_it_and_by_its_own(small_run: Run, tmp_path: Path, undrawn: None) -> None:
    shutil.copytree(small_run.folder, tmp_path / "run")
    described = card(tmp_path, network=onnx_levels(tmp_path, (3.0, -2.0, 0.5)))
    words = ["evaluate", str(tmp_path / "run"), "--judge", str(described), "--device", "cpu"]
    assert main([*words, "--judge", str(tmp_path / "run")]) == 0
    rows = json.loads((tmp_path / "run" / "evaluation-judges" / "judges.json").read_text())
    assert {judge for one in rows for judge in one["judges"]} == {"theirs", "run"}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"network": "net.pth"},
        {"network": "net.pt", "range": [1, 1]},
        {"network": "net.pt", "range": [float("nan"), 1]},
        {"network": "net.pt", "gives": "masks"},
        {"network": "net.pt", "structures": {"heart": []}},
        {"network": "net.pt", "size": [64]},
    ],
)
def test_a_file_that_describes_none_is_refused(small_run: Run, tmp_path: Path, keys: dict[str, Any]) -> None:
    with refused(StudyError, Code.INVALID):
        load_judge(small_run, card(tmp_path, **keys))


def test_a_network_that_cannot_judge_is_refused(small_run: Run, tmp_path: Path) -> None:
    with refused(RunError, Code.OTHER, "structures"):
        load_judge(small_run, card(tmp_path, network="net.pt", structures={"heart": [0]}))
    with refused(RunError, Code.MISSING, "network"):
        load_judge(small_run, card(tmp_path, network="net.pt"))
    for name in ("net.pt", "net.onnx"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with refused(RunError, Code.UNREADABLE, name):
            load_judge(small_run, card(tmp_path, network=name))
    for gains, keys, code in (
        ((1.0, 2.0), {}, Code.INVALID),  # too few outputs
        ((1.0, 2.0, float("nan")), {}, Code.INVALID),
        ((1.0, 2.0, 1.0), {"gives": "probabilities"}, Code.INVALID),  # 0, 1 and 2 of a black image
        ((1.0, 2.0, 1.0), {"structures": {"left_lung": [0], "right_lung": [1], "heart": [0]}}, None),
        ((1.0, 2.0, 1.0), {"channels": 3}, Code.UNREADABLE),  # it takes one
    ):
        onnx_levels(tmp_path, gains)
        described = card(tmp_path, network="net.onnx", **keys)
        if code is None:
            assert load_judge(small_run, described).masks(images(small_run)).shape[1] == 3
            continue
        with refused(RunError, code, "net.onnx"):  # at once, and not where the last judge's turn comes
            load_judge(small_run, described)


def test_probabilities_that_are_taken_for_logits_are_told(small_run: Run, tmp_path: Path) -> None:
    network = torchscript(tmp_path, nn.Sequential(Levels((3.0, -2.0, 0.5)), nn.Sigmoid()), images(small_run))
    with refused(RunError, Code.INVALID, "net.pt"):
        load_judge(small_run, card(tmp_path, network=network))
    load_judge(small_run, card(tmp_path, network=network, gives="probabilities"))


# --- volumes ---

OF_VOLUMES = {"anterior": [0], "posterior": [1]}


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_of_volumes_torchscript_and_onnx_say_the_same(tmp_path: Path, batch: int | str) -> None:
    study, gains = parse_study(small_volumes.mapping()), (3.0, -2.0)
    x = torch.rand(4, 1, *small_volumes.SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    networks = torchscript(tmp_path, Levels(gains), x), onnx_levels(tmp_path, gains, batch, "dhw")
    keys = {"range": [-1, 1], "structures": OF_VOLUMES}
    seen = [ForeignSegmentor(card(tmp_path, network=one, **keys), study).masks(x) for one in networks]
    torch.testing.assert_close(*seen)
    torch.testing.assert_close(seen[0], torch.sigmoid(Levels(gains)(x)).detach())


def test_volumes_come_to_what_a_network_expects_and_masks_back(tmp_path: Path) -> None:
    study = parse_study(small_volumes.mapping())
    depth, height, width = small_volumes.SIZE
    # Even along each axis but at the edges, and another number along each.
    along = [torch.linspace(-1, 1, n) for n in (depth, height, width)]
    x = sum(share * one for share, one in zip((0.5, 0.3, 0.2), torch.meshgrid(*along, indexing="ij"), strict=True))

    class Asked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1] / 200, 1 - x[:, 2:] / 200], dim=1)

    size = [2 * depth, height // 2, 3 * width]
    keys = {"range": [0, 100], "channels": 3, "gives": "probabilities", "structures": OF_VOLUMES}
    network = torchscript(tmp_path, Asked(), torch.zeros(1, 3, *size))
    seen = ForeignSegmentor(card(tmp_path, network=network, size=size, **keys), study).masks(x[None, None])
    assert seen.shape == (1, 2, depth, height, width)
    torch.testing.assert_close(seen[0, 0], (x + 1) / 4, rtol=0, atol=0.02)
    torch.testing.assert_close(seen[:, 1], 1 - seen[:, 0])


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_no_axis_of_a_volume_is_resized_otherwise_than_another(order: tuple[int, int, int]) -> None:
    x = torch.rand(2, 3, 6, 8, 10, generator=torch.Generator().manual_seed(0))
    size = (9, 4, 10)
    turned = resized(x.permute(0, 1, *(2 + axis for axis in order)), tuple(size[axis] for axis in order))
    torch.testing.assert_close(turned, resized(x, size).permute(0, 1, *(2 + axis for axis in order)))
    assert float(resized(torch.ones(1, 1, 6, 8, 10), size).sub(1).abs().max()) < 1e-6


def test_planes_are_resized_as_images_always_were() -> None:
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    for size in ((8, 48), (33, 7), (16, 24)):
        assert torch.equal(resized(x, size), F.interpolate(x, size=size, mode="bilinear", antialias=True))
        volume = x[:, :, None].expand(-1, -1, 5, -1, -1)
        assert torch.equal(resized(volume, (5, *size)), resized(x, size)[:, :, None].expand(-1, -1, 5, -1, -1))


def test_a_network_of_images_judges_no_volumes(small_run: Run, tmp_path: Path) -> None:
    study = parse_study(small_volumes.mapping())
    network = onnx_levels(tmp_path, (1.0, 2.0))
    with refused(RunError, Code.OTHER, "size"):
        ForeignSegmentor(card(tmp_path, network=network, size=[32, 32], structures=OF_VOLUMES), study)
    with refused(RunError, Code.UNREADABLE, "net.onnx"):
        ForeignSegmentor(card(tmp_path, network=network, structures=OF_VOLUMES), study)
    with refused(RunError, Code.OTHER, "size"):
        load_judge(small_run, card(tmp_path, network=network, size=[32, 32, 32]))


def test_a_judge_of_volumes_in_torchscript_reads_as_it_did(volumes: Run, tmp_path: Path) -> None:
    own, x = volumes.load("judge"), to_unit(torch.from_numpy(volumes.store().images[:2].copy()))
    described = card(tmp_path, network=torchscript(tmp_path, own, x), range=[-1, 1], structures=OF_VOLUMES)
    torch.testing.assert_close(load_judge(volumes, described).read(x), own.read(x), rtol=1e-4, atol=0.1)
