"""The published HVAE: that it computes what causal-gen computes, loads its checkpoints, and serves the pipeline.

With the environment variable SEGCFT_CAUSAL_GEN at a checkout of https://github.com/biomedia-mira/causal-gen the
bound is compared with that code's, live; otherwise with numbers that it gave (``RECORDED``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from conftest import changed, small_mapping
from refused import refused
from segcft.cli import main
from segcft.config.causal_gen import CausalGenSpec, parse_arch
from segcft.config.image import Image
from segcft.config.loader import parse_study
from segcft.config.mechanisms import HVAESpec
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.errors import Code, DataError, RunError, StudyError
from segcft.grey import to_unit
from segcft.image_models.causal_gen import CausalGenHVAE
from segcft.image_models.causal_gen_checkpoint import TrainedParent, load_causal_gen
from segcft.image_models.causal_gen_layers import ParentsShare
from segcft.image_models.likelihood import DiscretisedGaussian, TanhDiscretisedGaussian
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.training import artefact
from segcft.training.loop import make_fabric
from tests.test_hvae import one_step

BETA = 2.0
VARIABLES = {
    "sex": Variable(kind="categorical", categories=("F", "M")),
    "age": Variable(kind="continuous"),
    "race": Variable(kind="categorical", categories=("a", "b", "c")),
    "volume": Variable(kind="continuous", scale="log"),
}
# Not in the order of the variables, as in a checkpoint that knows nothing of the study.
PARENTS = [TrainedParent.parse(text) for text in ("volume=5:0.5", "race", "sex", "age=20..80")]
CONTEXT = 6  # volume, race's three, sex, age
VALUES = torch.tensor([[0, 30.0, 2, 100.0], [1, 55, 0, 200], [1, 70, 1, 150]])

SETTINGS: dict[str, dict[str, Any]] = {
    "even": {
        "input_res": 16,
        "enc_arch": "16b1d2,8b1d8,1b1",
        "dec_arch": "1b1,8b2,16b2",
        "widths": [8, 12, 16],
    },
    "padded": {  # 7 pixels become 8; a factor of upsampling that is not whole; widths that stay
        "input_res": 28,
        "enc_arch": "28b1d2,14b1d2,7b1d2,4b1d4,1b1",
        "dec_arch": "1b1,4b1,8b2,14b1,28b1",
        "widths": [8, 8, 12, 16, 16],
    },
    "odd": {  # deterministic blocks without maps of the place at the largest, odd resolution; free bits
        "input_res": 15,
        "enc_arch": "15b1d2,8b1d8,1b1",
        "dec_arch": "1b1,8b2,15b2",
        "widths": [8, 12, 16],
        "z_max_res": 8,
        "bias_max_res": 8,
        "kl_free_bits": 0.5,
    },
}
CASES = [(name, block) for name in SETTINGS for block in ("light", "gelu")]
# Negative ELBO (beta 2), nll and kl, nats per pixel, of causal-gen's HVAE (commit e0e4e22) with the weights of
# `checkpoint`, the images of `images` and PARENTS' planes, after torch.manual_seed(1), on a CPU in float32.
RECORDED = {
    ("even", "light"): (12.471630096435547, 7.4513115882873535, 2.510159492492676),
    ("even", "gelu"): (8.14877700805664, 7.004960536956787, 0.5719084739685059),
    ("padded", "light"): (15.30605697631836, 8.580765724182129, 3.362645387649536),
    ("padded", "gelu"): (11.096924781799316, 10.318340301513672, 0.38929203152656555),
    ("odd", "light"): (7.11705207824707, 6.723374843597412, 0.1968385875225067),
    ("odd", "gelu"): (6.469746112823486, 6.351760387420654, 0.05899281054735184),
}


def settings_of(name: str, block: str) -> dict[str, Any]:
    """Everything that causal-gen would be told; it takes the kind of block from the name of the data set."""
    common = {"z_dim": 3, "bottleneck": 4, "z_max_res": 192, "bias_max_res": 64, "kl_free_bits": 0.0}
    hps = "ukbb-like" if block == "light" else "mimic-like"
    fixed = {"context_dim": CONTEXT, "cond_prior": False, "q_correction": False, "x_like": "diag_dgauss"}
    return common | SETTINGS[name] | fixed | {"hps": hps}


def published_shapes(given: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of causal-gen's state dict, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}
    light, z, context, widths = "ukbb" in given["hps"], given["z_dim"], given["context_dim"], given["widths"]

    def layer(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)

    def block(name: str, inputs: int, hidden: int, outputs: int, kernel: int) -> None:
        kernels = [kernel, kernel] if light else [1, kernel, kernel, 1]
        sizes = [inputs, *[hidden] * (len(kernels) - 1), outputs]
        for i, k in enumerate(kernels):
            layer(f"{name}.conv.{2 * i + 1}", sizes[i], sizes[i + 1], k)

    layer("encoder.stem", 1, widths[0], 7)
    stages = []
    for index, stage in enumerate(parse_arch(given["enc_arch"])):
        stages += [(widths[index], False)] * stage.blocks
        stages += [(widths[index + 1], True)] if stage.down else []
    before = widths[0]
    for index, (width, shrinks) in enumerate(stages):
        block(f"encoder.blocks.{index}", before, before // given["bottleneck"], width, 3)
        if shrinks:
            layer(f"encoder.blocks.{index}.width_proj", before, width, 1)
        before = width
    wide = [
        (stage.resolution, width)
        for stage, width in zip(parse_arch(given["dec_arch"]), reversed(widths), strict=True)
        for _ in range(stage.blocks)
    ]
    for index, (resolution, width) in enumerate(wide):
        name, hidden = f"decoder.blocks.{index}", width // given["bottleneck"]
        following = wide[min(index + 1, len(wide) - 1)][1]
        kernel = 3 if resolution > 2 else 1
        block(f"{name}.prior", width, hidden, 2 * z + width, kernel)
        if resolution <= given["z_max_res"]:
            block(f"{name}.posterior", 2 * width + context, hidden, 2 * z, kernel)
        layer(f"{name}.z_proj", z + context, width, 1)
        layer(f"{name}.z_feat_proj", z + width, following, 1)
        block(f"{name}.conv", width, hidden, following, kernel)
        if width > following:
            layer(f"{name}.conv.width_proj", width, following, 1)
    for index, (resolution, width) in enumerate(dict(wide).items()):
        if resolution <= given["bias_max_res"]:
            shapes[f"decoder.bias.{index}"] = (1, width, resolution, resolution)
    layer("likelihood.x_loc", widths[0], 1, 1)
    layer("likelihood.x_logscale", widths[0], 1, 1)
    return shapes


def checkpoint(given: dict[str, Any], gain: float = 1.0) -> dict[str, Any]:
    """A checkpoint as causal-gen writes it, its weights a function of their names and shapes (and ``gain``) alone."""
    state = {}
    for name, shape in published_shapes(given).items():
        fan_in = np.prod(shape[1:]) if name.endswith("weight") else 100
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * gain / np.sqrt(fan_in)
        state[name] = torch.from_numpy(values.astype(np.float32))
    return {
        "epoch": 3,
        "best_loss": 1.5,
        "model_state_dict": {name: torch.zeros_like(value) for name, value in state.items()},
        "ema_model_state_dict": state,
        "hparams": given | {"device": torch.device("cpu"), "beta": 1.0, "best_loss": torch.tensor(1.5)},
    }


def spec_of(given: dict[str, Any], **changes: Any) -> CausalGenSpec:
    keys = ("enc_arch", "dec_arch", "widths", "z_dim", "bottleneck", "z_max_res", "bias_max_res")
    raw = {key: given[key] for key in keys} | {
        "architecture": "causal-gen",
        "steps": 1,
        "block": "light" if "ukbb" in given["hps"] else "gelu",
        "free_bits": given["kl_free_bits"],
    }
    return CausalGenSpec(**raw | changes)


def build(given: dict[str, Any], **changes: Any) -> CausalGenHVAE:
    size = given["input_res"]
    spec = spec_of(given, **changes)
    spec.check_image((size, size), 1)
    torch.manual_seed(0)
    return CausalGenHVAE(spec, Image(size=(size, size)), VARIABLES)


def loaded(name: str, block: str, folder: Path, **changes: Any) -> CausalGenHVAE:
    given = settings_of(name, block)
    torch.save(checkpoint(given), folder / "checkpoint.pt")
    network = build(given, **changes)
    load_causal_gen(folder / "checkpoint.pt", network, PARENTS)
    return network


def images(size: int, batch: int = 3) -> Tensor:
    pixels = np.random.default_rng(2).integers(256, size=(batch, 1, size, size), dtype=np.uint8)
    pixels[:, :, 0] = 0  # both ends of the range, which the likelihood treats apart
    pixels[:, :, 1] = 255
    return to_unit(torch.from_numpy(pixels))


def planes(size: int) -> Tensor:
    """The parents as causal-gen is given them: in PARENTS' order, normalised, the same at every pixel."""
    sex, age, race, volume = VALUES.T
    columns = [(volume.log() - 5) / 0.5, *F.one_hot(race.long(), 3).float().T, sex, (age - 50) / 30]
    return torch.stack(columns, dim=1)[:, :, None, None].repeat(1, 1, size, size)


@pytest.fixture
def published() -> ModuleType | None:
    """causal-gen's module of the network, where there is a checkout of it."""
    folder = os.environ.get("SEGCFT_CAUSAL_GEN")
    if folder is None:
        return None
    sys.path.insert(0, str(Path(folder) / "src"))
    try:
        import vae
    finally:
        sys.path.pop(0)
    return vae


@pytest.mark.parametrize(("name", "block"), CASES)
def test_the_bound_is_the_published_one(name: str, block: str, tmp_path: Path, published: ModuleType | None) -> None:
    given = settings_of(name, block)
    network = loaded(name, block, tmp_path)
    x = images(given["input_res"])
    if published is None:
        expected = RECORDED[name, block]
    else:
        theirs = published.HVAE(argparse.Namespace(**given, input_channels=1, std_init=0.0))
        assert {key: tuple(value.shape) for key, value in theirs.state_dict().items()} == published_shapes(given)
        theirs.load_state_dict(checkpoint(given)["ema_model_state_dict"])
        torch.manual_seed(1)
        out = theirs(x, planes(given["input_res"]), beta=BETA)
        out["elbo"].backward()
        expected = tuple(out[key].item() for key in ("elbo", "nll", "kl"))
        print(f'    ("{name}", "{block}"): {expected},')  # what to record: pytest -s
    torch.manual_seed(1)  # both draw the noise of one block after the other, (B, z, H, W) each
    bound = network(x, VALUES, beta=BETA)
    found = [float(part.mean().detach()) for part in bound]
    found[1] = (found[2] - found[0]) / BETA  # what is paid: the rate with free bits
    assert [found[2], found[0], found[1]] == pytest.approx(expected, rel=1e-5)
    if published is not None:
        bound.objective.mean().backward()
        for ours, name_there in (
            (network.encoder.stem.weight, "encoder.stem.weight"),
            (network.loc.weight, "likelihood.x_loc.weight"),
        ):
            there = theirs.get_parameter(name_there).grad
            assert ours.grad is not None
            torch.testing.assert_close(ours.grad, there, rtol=1e-3, atol=1e-3 * float(there.abs().max()))


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.sampled_from([1, 3, 5]),
    parents=st.integers(1, 4),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_the_parents_share_is_that_of_constant_planes(
    size: tuple[int, int], kernel: int, parents: int, outputs: int, seed: int
) -> None:
    torch.manual_seed(seed)
    share = ParentsShare(parents, outputs, kernel, size).double()
    torch.nn.init.normal_(share.weight)
    values = torch.randn(3, parents, dtype=torch.float64)
    convolved = F.conv2d(values[:, :, None, None].expand(-1, -1, *size), share.weight, padding=kernel // 2)
    torch.testing.assert_close(share(values).expand_as(convolved), convolved)


# --- images that are not square ---


def wide(size: tuple[int, int], block: str, gain: float = 1.0) -> CausalGenHVAE:
    """The network of the case "even" for images of ``size``, its weights drawn from one seed."""
    spec = spec_of(settings_of("even", block))
    spec.check_image(size, 1)
    network = CausalGenHVAE(spec, Image(size=size), VARIABLES)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in network.named_parameters():
            fan_in = p[0].numel() if name.endswith("weight") else 100
            p.copy_(gain * torch.randn(p.shape, generator=generator) / fan_in**0.5)
        for parent in PARENTS:
            k = network.parents.variables.index(parent.name)
            network.parents.mean[k], network.parents.std[k] = parent.norm or (0.0, 1.0)
    return network.eval()


@pytest.mark.parametrize("block", ["light", "gelu"])
def test_height_and_width_are_treated_alike(block: str) -> None:
    """A network for tall images whose weights are turned sees turned images as one for wide images sees them."""
    lying, standing = (wide(size, block, gain=0.5) for size in ((16, 32), (32, 16)))
    turned = {key: value.transpose(2, 3) if value.dim() == 4 else value for key, value in lying.state_dict().items()}
    standing.load_state_dict(turned)
    pixels = np.random.default_rng(5).integers(256, size=(3, 1, 16, 32), dtype=np.uint8)
    x = to_unit(torch.from_numpy(pixels))
    with torch.no_grad():
        latents, other = lying.encode(x, VALUES, sample=False), standing.encode(x.mT, VALUES, sample=False)
        shapes = [tuple(feature.shape[-2:]) for feature in latents.features]
        for here, there in zip(latents.kl, other.kl, strict=True):
            torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
        after = VALUES.flip(0)
        torch.testing.assert_close(
            lying.decode(latents, after).loc, standing.decode(other, after).loc.mT, rtol=1e-4, atol=1e-4
        )
        again = lying.predict(lying.abduct(x, VALUES), VALUES)
    assert shapes == [(1, 2), (8, 16), (8, 16), (16, 32), (16, 32)]
    torch.testing.assert_close(again, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", ["light", "gelu"])
def test_of_wide_images_every_parameter_matters(block: str) -> None:
    network = wide((16, 48), block)
    network(torch.rand(3, 1, 16, 48) * 2 - 1, VALUES).objective.mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("name", "block"), CASES)
def test_every_parameter_matters(name: str, block: str, tmp_path: Path) -> None:
    network = loaded(name, block, tmp_path)
    network(images(SETTINGS[name]["input_res"]), VALUES).objective.mean().backward()
    dead = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize(("name", "block"), CASES)
def test_a_null_intervention_changes_nothing(name: str, block: str, tmp_path: Path) -> None:
    network = loaded(name, block, tmp_path).eval()
    x = images(SETTINGS[name]["input_res"])
    with torch.no_grad():
        latents = network.encode(x, VALUES)
        factual, again = network.factual(latents, VALUES), network.decode(latents, VALUES)
        pair = network.factual_and_changed(latents, VALUES, VALUES.flip(0))
        changed_alone = network.decode(latents, VALUES.flip(0))
        unchanged = network.predict(network.abduct(x, VALUES), VALUES)
    assert torch.equal(factual.loc, again.loc)
    assert torch.equal(factual.log_scale, again.log_scale)
    assert torch.equal(pair[0].loc, factual.loc)
    assert torch.equal(pair[1].loc, changed_alone.loc)
    assert not torch.allclose(pair[1].loc, factual.loc)
    torch.testing.assert_close(unchanged, x, rtol=0, atol=1e-5)


def test_the_prior_does_not_see_the_parents_and_its_samples_are_drawn(tmp_path: Path) -> None:
    network = loaded("even", "gelu", tmp_path).eval()
    with torch.no_grad():
        latents = network.draw(3)
        assert [f.shape[-1] for f in latents.features] == [1, 8, 8, 16, 16]
        assert latents.kl == []
        assert network.decode(latents, VALUES).loc.shape == (3, 1, 16, 16)
        for pixel_noise in (False, True):
            assert network.predict(network.sample(3, pixel_noise), VALUES).shape == (3, 1, 16, 16)
        mean = network.encode(images(16), VALUES, sample=False)
        assert torch.equal(mean.features[-1], network.encode(images(16), VALUES, sample=False).features[-1])


def test_a_new_network_starts_as_published() -> None:
    """Priors that add nothing, and biases of zero."""
    network = build(settings_of("even", "light"))
    assert all(not p.any() for key, p in network.named_parameters() if key.endswith("bias"))
    assert all(not block.prior.last.weight.any() for block in network.decoder)


def test_channels_last_and_bfloat16_give_the_same_bound(tmp_path: Path) -> None:
    network = loaded("even", "light", tmp_path)
    x = images(16)
    latents = network.encode(x, VALUES, sample=False)
    expected = network.elbo(x, latents, network.factual(latents, VALUES), 1.0).objective
    network.to(memory_format=torch.channels_last)
    latents = network.encode(x, VALUES, sample=False)
    torch.testing.assert_close(network.elbo(x, latents, network.factual(latents, VALUES), 1.0).objective, expected)
    with torch.autocast("cpu", torch.bfloat16):
        latents = network.encode(x, VALUES, sample=False)
        rough = network.elbo(x, latents, network.factual(latents, VALUES), 1.0).objective
    torch.testing.assert_close(rough, expected, rtol=0.1, atol=0)


def test_the_tanh_likelihood_is_nearly_the_gaussian_one() -> None:
    levels = to_unit(torch.arange(256, dtype=torch.uint8))
    loc, log_scale = torch.full((256,), 0.2), torch.full((256,), -2.0)
    exact = DiscretisedGaussian(loc, log_scale).log_prob(levels).exp()
    close = TanhDiscretisedGaussian(loc, log_scale).log_prob(levels).exp()
    torch.testing.assert_close(close, exact, rtol=0, atol=5e-4)
    assert float(close.sum()) == pytest.approx(1, abs=1e-4)
    assert all(isinstance(part, TanhDiscretisedGaussian) for part in TanhDiscretisedGaussian(loc, log_scale).chunk(2))


# Checkpoints


def spoilt(change: Callable[[dict[str, Any]], None], folder: Path) -> Path:
    content = checkpoint(settings_of("even", "gelu"))
    change(content)
    torch.save(content, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def _setting(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["hparams"].update({key: value})


def _without_settings(content: dict[str, Any]) -> None:
    del content["hparams"]


def _conditional(content: dict[str, Any]) -> None:
    _without_settings(content)
    state = content["ema_model_state_dict"]
    for name in [n for n in state if n.endswith(".prior.conv.1.weight")]:
        hidden, width, *kernel = state[name].shape
        state[name] = torch.zeros(hidden, width + CONTEXT, *kernel)


def _corrected(content: dict[str, Any]) -> None:
    _without_settings(content)
    state = content["ema_model_state_dict"]
    for name in [n for n in state if ".z_feat_proj." in n]:
        del state[name]


def _coloured(content: dict[str, Any]) -> None:
    content["ema_model_state_dict"]["likelihood.channel_coeffs.weight"] = torch.zeros(3, 8, 1, 1)


def _other_width(content: dict[str, Any]) -> None:
    _without_settings(content)
    content["ema_model_state_dict"]["decoder.blocks.2.z_proj.weight"] = torch.zeros(12, 7, 1, 1)


def _more_blocks(content: dict[str, Any]) -> None:
    content["ema_model_state_dict"]["decoder.blocks.5.z_proj.weight"] = torch.zeros(8, 9, 1, 1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_setting("cond_prior", True), "cond_prior"),
        (_conditional, "cond_prior"),
        (_setting("q_correction", True), "q_correction"),
        (_corrected, "q_correction"),
        (_coloured, "colour images"),
        (_setting("x_like", "shared_dgauss"), "'shared_dgauss'"),
        (_setting("vae", "simple"), "not a hierarchical VAE"),
        (_setting("widths", [8, 12, 24]), r"hvae\.widths: \[8, 12, 16\]; the checkpoint has \[8, 12, 24\]"),
        (_setting("enc_arch", "16b2d2,8b1d8,1b1"), r"hvae\.enc_arch: .*; the checkpoint has 16b2d2"),
        (_setting("dec_arch", "1b1,8b2,16b3"), r"hvae\.dec_arch"),
        (_setting("dec_arch", "nonsense"), r"hvae\.dec_arch: .*not supported"),
        (_setting("z_max_res", 8), r"hvae\.z_max_res: 192; the checkpoint has 8"),
        (_setting("hps", "ukbb64"), r"hvae\.block: gelu; the checkpoint \(ukbb64\) has light"),
        (_other_width, r"decoder\.blocks\.2\.z_proj\.weight: .*\(12, 9, 1, 1\); the checkpoint has \(12, 7, 1, 1\)"),
        (_more_blocks, r"decoder\.blocks\.5\.z_proj\.weight: the study's network has no such weights"),
        (lambda content: content.clear(), "ema_model_state_dict"),
        (lambda content: content.update(hparams=argparse.Namespace()), "read safely"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], None], what: str, tmp_path: Path
) -> None:
    network = build(settings_of("even", "gelu"))
    with pytest.raises(DataError, match=what):
        load_causal_gen(spoilt(change, tmp_path), network, PARENTS)


@pytest.mark.parametrize(
    ("parents", "field"),
    [
        (["sex", "age=20..80", "race"], "--parent"),
        (["sex", "sex", "age=20..80", "race", "volume=5:1"], "--parent"),
        (["sex", "age", "race", "volume=5:1"], "age"),
        (["sex=0..1", "age=20..80", "race", "volume=5:1"], "sex"),
        (["sex=-1..1", "age=20..80", "race", "volume=5:1"], "sex"),
        (["sex", "age=20..80", "race=0:1", "volume=5:1"], "race"),
        (["sex", "age=80..20", "race", "volume=5:1"], "age=80..20"),
        (["sex", "age=about 50", "race", "volume=5:1"], "age=about 50"),
    ],
)
def test_the_parents_must_be_known(parents: list[str], field: str, tmp_path: Path) -> None:
    path = spoilt(lambda content: None, tmp_path)
    with refused(DataError, Code.INVALID, field):
        load_causal_gen(path, build(settings_of("even", "gelu")), [TrainedParent.parse(text) for text in parents])


def test_a_parent_that_may_be_zero_has_two_features_and_is_in_no_checkpoint(tmp_path: Path) -> None:
    variables = VARIABLES | {"volume": Variable(kind="continuous", scale="log", zero_inflated=True)}
    settings = settings_of("even", "gelu")
    network = CausalGenHVAE(build(settings).spec, Image(size=(16, 16)), variables)
    assert len(network.parent_features("volume")) == 2
    assert len(network.read_features) == CONTEXT + 1
    with refused(DataError, Code.UNSUPPORTED, "volume"):
        load_causal_gen(spoilt(lambda content: None, tmp_path), network, PARENTS)


@pytest.mark.parametrize("norm", ["0:1", "-1..1"])
def test_a_parent_may_have_been_normalised_before(norm: str, tmp_path: Path) -> None:
    """A norm that changes nothing is a norm."""
    network = build(settings_of("even", "gelu"))
    parents = [TrainedParent.parse(text) for text in ("volume=5:0.5", "race", "sex", f"age={norm}")]
    load_causal_gen(spoilt(lambda content: None, tmp_path), network, parents)
    age = list(VARIABLES).index("age")
    assert (float(network.parents.mean[age]), float(network.parents.std[age])) == (0, 1)


def test_a_finetuned_checkpoint_is_read_too(tmp_path: Path) -> None:
    """Their fine-tuning saves the image mechanism as a part of the whole model, with settings of its own."""

    def finetuned(content: dict[str, Any]) -> None:
        state = content["ema_model_state_dict"]
        content["ema_model_state_dict"] = {f"vae.{name}": value for name, value in state.items()}
        content["ema_model_state_dict"]["pgm.weight"] = torch.zeros(3)
        content["hparams"] = {"lmbda_init": 0.0, "damping": 100.0}

    network, other = build(settings_of("even", "gelu")), loaded("even", "gelu", tmp_path)
    load_causal_gen(spoilt(finetuned, tmp_path), network, PARENTS)
    for key, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with refused(DataError, Code.MISSING, "nowhere.pt"):
        load_causal_gen(tmp_path / "nowhere.pt", build(settings_of("even", "gelu")), PARENTS)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("finetuning", [False, True])
@pytest.mark.parametrize(("name", "block"), CASES)
def test_recomputing_saves_memory_and_changes_no_bit(
    name: str, block: str, finetuning: bool, precision: torch.dtype, tmp_path: Path
) -> None:
    networks = [loaded(name, block, tmp_path, recompute=recompute).train() for recompute in (False, True)]
    x = images(SETTINGS[name]["input_res"])
    whole, lean = (one_step(network, x, VALUES, finetuning, precision) for network in networks)
    assert torch.equal(lean[0], whole[0])
    for key, gradient in whole[1].items():
        assert torch.equal(lean[1][key], gradient), key
    assert lean[2] < 0.55 * whole[2]
    assert one_step(networks[1].eval(), x, VALUES, finetuning, precision)[2] == whole[2]


# Studies

HVAE = {
    "architecture": "causal-gen",
    "steps": 2,
    "batch_size": 12,
    "enc_arch": "32b1d2,16b1d4,4b1d4,1b1",
    "dec_arch": "1b1,4b1,16b1,32b1",
    "widths": [8, 8, 12, 16],
    "z_dim": 2,
    "block": "light",
}


def study_with(**changes: Any) -> Study:
    return parse_study(changed(small_mapping(), {"hvae": dict(HVAE)} | changes))


def test_without_an_architecture_a_study_means_what_it_meant() -> None:
    study = parse_study(small_mapping())
    assert isinstance(study.hvae, HVAESpec)
    assert study == parse_study(changed(small_mapping(), {"hvae.architecture": "two-stream"}))
    assert isinstance(study_with().hvae, CausalGenSpec)
    assert Study.model_validate(study_with().model_dump(mode="json")) == study_with()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hvae.architecture": "transformer"}, "hvae.architecture: no image mechanism (two-stream, causal-gen"),
        ({"hvae.enc_arch": "32x1"}, "hvae.enc_arch: '32x1' is not a stage"),
        ({"hvae.enc_arch": "32b1d2,16b1d4,4b1d4"}, "hvae.enc_arch: 3 stages, but hvae.widths has 4"),
        ({"hvae.enc_arch": "32b1d2,16b1,4b1d4,1b1"}, "hvae.enc_arch: every stage but the last"),
        ({"hvae.enc_arch": "32b1d2,8b1d4,4b1d4,1b1"}, "hvae.enc_arch: stage 8 is at 16 pixels"),
        ({"hvae.enc_arch": "32b0d2,16b1d4,4b1d4,1b1"}, "hvae.enc_arch: the first stage needs at least one block"),
        ({"hvae.dec_arch": "1b1,4b1,16b1"}, "hvae.dec_arch: 3 stages, but hvae.widths has 4"),
        ({"hvae.dec_arch": "1b1,4b1,16b1,64b1"}, "hvae.dec_arch: resolutions must rise from 1 to image.size (32)"),
        ({"hvae.dec_arch": "1b1,8b1,16b1,32b1"}, "hvae.dec_arch: latents at 8 pixels need the encoder's features"),
        ({"hvae.dec_arch": "1b1,4b1d2,16b1,32b1"}, "hvae.dec_arch: a stage is a resolution"),
        ({"hvae.widths": [16, 12, 8, 8]}, "hvae.widths: from the largest resolution to the smallest"),
        ({"hvae.bottleneck": 9}, "hvae.bottleneck: 9 leaves nothing"),
        ({"hvae.z": 3}, "hvae.z: unknown key"),
        ({"image.size": [32, 48]}, "image.size: 'architecture: causal-gen' needs images whose longer side"),
        (
            {"image.size": [28, 56], "hvae.enc_arch": "28b1d2,14b1d2,7b1d7,1b1", "hvae.dec_arch": "1b1,8b1,14b1,28b1"},
            "hvae.enc_arch: an odd resolution",
        ),
        ({"image.channels": 3}, "image.channels: 'architecture: causal-gen' draws grey images"),
    ],
)
def test_a_wrong_study_is_told_which_key(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(StudyError) as error:
        study_with(**changes)
    assert what in str(error.value)


# The pipeline


ORDER = ["heart_area=400:90", "sex", "age=10..90", "left_lung_area=500:100", "right_lung_area=600:100"]


def import_checkpoint(run: Run, folder: Path, gain: float = 0.3, order: list[str] = ORDER) -> Path:
    """What the command does with a checkpoint of weights as tame as a trained network's; the checkpoint's path."""
    study, path = folder / "study.yaml", folder / f"checkpoint-{gain}.pt"
    study.write_text(yaml.safe_dump(run.study.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    given = {key: getattr(run.study.hvae, key) for key in ("enc_arch", "dec_arch", "widths", "z_dim")}
    given |= {"bottleneck": 4, "z_max_res": 192, "bias_max_res": 64, "context_dim": 5, "hps": "ukbb"}
    torch.save(checkpoint(given, gain), path)
    parents = [word for text in order for word in ("--parent", text)]
    command = ["import", "causal-gen", path, study, *parents, "--out", run.folder, "--device", "cpu"]
    assert main([str(word) for word in command]) == 0
    return path


def run_all(run: Run) -> dict[str, str]:
    """Bring the run up to date; the key of every part and of the evaluation."""
    pipeline = Pipeline(run, make_fabric("cpu"))
    pipeline.run_all()
    keys = {path.stem: artefact.read_meta(path)["key"] for path in run.folder.glob("*.safetensors")}
    return keys | {"evaluation": json.loads((run.evaluation / "evaluation.json").read_text())["key"]}


def test_from_a_checkpoint_to_finetuning(small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The imported mechanism is up to date for the stages after it, which train it further."""
    run = Run(shutil.copytree(small_run.folder, tmp_path / "run"), study_with())
    import_checkpoint(run, tmp_path)
    assert "warning: the image mechanism was imported, and segcft does not know" in capsys.readouterr().err
    meta = artefact.read_meta(run.path("hvae"))
    assert meta["source"]["parents"] == ORDER
    assert "validation_bits_per_pixel" in meta["metrics"]
    imported = run.load("hvae")
    assert imported.parents.mean[1:].tolist() == [50, 500, 600, 400]
    assert imported.parents.std[1:].tolist() == [40, 100, 100, 90]

    pipeline = Pipeline(run, make_fabric("cpu"))
    pipeline.run_stage("cft-segmentor")
    assert artefact.read_meta(run.path("hvae")) == meta
    assert run.methods() == {"none": "hvae", "segmentor": "cft-segmentor"}
    tuned = run.load("cft-segmentor")
    assert torch.equal(tuned.parents.mean, imported.parents.mean)
    before, after = imported.state_dict(), tuned.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in after.items())
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_another_checkpoint_makes_anew_what_was_made_from_the_first(small_run: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(small_run.folder, tmp_path / "run"), study_with())
    warning = "**Warning: the image mechanism was imported, and segcft does not know its training samples"
    assert warning not in (run.evaluation / "table.md").read_text()
    import_checkpoint(run, tmp_path)
    first = run_all(run)
    assert warning in (run.evaluation / "table.md").read_text()

    import_checkpoint(run, tmp_path)  # the same one
    weights = run.path("cft-segmentor").stat().st_mtime_ns
    assert run_all(run) == first
    assert run.path("cft-segmentor").stat().st_mtime_ns == weights

    remade = {"hvae", "cft-segmentor", "cft-regressor", "evaluation"}
    import_checkpoint(run, tmp_path, gain=0.2)
    other = run_all(run)
    assert {part for part in first if other[part] != first[part]} == remade
    assert run.path("cft-segmentor").stat().st_mtime_ns != weights
    import_checkpoint(run, tmp_path, gain=0.2, order=[ORDER[0].replace("400", "300"), *ORDER[1:]])
    normalised = run_all(run)
    assert {part for part in other if normalised[part] != other[part]} == remade


def test_what_was_imported_is_never_replaced(small_run: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(small_run.folder, tmp_path / "run"), study_with())
    path = import_checkpoint(run, tmp_path)
    before = run.path("hvae").read_bytes()
    run = Run(run.folder, study_with(**{"hvae.steps": 3}))
    pipeline = Pipeline(run, make_fabric("cpu"))
    for _ in range(2):  # also when asked again
        with pytest.raises(RunError, match=f"hvae.safetensors: imported from {path} "):
            pipeline.run_stage("hvae")
    assert run.path("hvae").read_bytes() == before
    run.path("hvae").unlink()
    pipeline.run_stage("hvae")
    assert "source" not in artefact.read_meta(run.path("hvae"))


def test_the_stage_trains_it_from_the_start_as_well(small_run: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(small_run.folder, tmp_path / "run"), study_with())
    Pipeline(run, make_fabric("cpu")).run_stage("hvae")
    assert isinstance(run.load("hvae"), CausalGenHVAE)


def test_a_study_of_the_other_architecture_is_refused(
    small_study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["import", "causal-gen", "checkpoint.pt", str(small_study_file), "--parent", "sex"]
    assert main([*words, "--out", str(tmp_path)]) == 1
    assert "hvae.architecture: " in capsys.readouterr().err
