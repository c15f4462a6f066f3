"""Reads the checkpoints of causal-gen, the code of De Sousa Ribeiro et al. 2023, into :class:`CausalGenHVAE`.

Their state dict names a layer by its place in the block (``decoder.blocks.5.prior.conv.1.weight``) and keeps the
weights of joined inputs in one tensor; here they are parts. Weights that nothing reads are left behind: the
projection of an encoder block that does not change its width, what follows the last decoder block in the stream of
the latents, and the prior's scale where there is no latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from segcft.config.causal_gen import CausalGenSpec, parse_arch
from segcft.errors import Code, DataError
from segcft.image_models.causal_gen import CausalGenHVAE, DecoderBlock
from segcft.image_models.causal_gen_layers import Convolutions, ResidualBlock
from segcft.training import artefact

AVERAGED, RAW = "ema_model_state_dict", "model_state_dict"
FINETUNED = "vae."
"""Before the image mechanism's names in checkpoints of their counterfactual fine-tuning."""

SHOWN = 5
"""Disagreements that one error lists."""


class TrainedParent(NamedTuple):
    """A parent as a checkpoint's network sees it: (s(a) - centre) / scale with ``norm`` (centre, scale), where s is
    the study's scale of the variable (log or linear); a category, which has no norm, as it is."""

    name: str
    norm: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> TrainedParent:
        """``age=44..73`` (mapped to [-1, 1]), ``volume=13.97:0.095`` (mean and standard deviation) or ``sex``.

        Raises:
            DataError: it is none of them.
        """
        name, equals, norm = text.partition("=")
        if not equals:
            return cls(name)
        try:
            if ".." in norm:
                low, high = (float(part) for part in norm.split(".."))
                centre, scale = (low + high) / 2, (high - low) / 2
            else:
                centre, scale = (float(part) for part in norm.split(":"))
        except ValueError:
            scale = 0.0
        if not scale > 0:
            raise DataError(
                Code.INVALID, text, "expected NAME=LOW..HIGH, NAME=MEAN:STD or, of a categorical variable, NAME"
            )
        return cls(name, (centre, scale))


def load_causal_gen(path: Path, network: CausalGenHVAE, parents: Sequence[TrainedParent]) -> dict[str, Any]:
    """Read the (averaged) weights of the checkpoint at ``path`` into ``network``, whose parents' statistics become
    those of the checkpoint's training.

    Args:
        path: a checkpoint of their image mechanism, or of their fine-tuning of it.
        network: of the study's sizes.
        parents: all of them, in the order in which the checkpoint's network was given them.

    Returns:
        the settings that the checkpoint records, as far as they are plain values.

    Raises:
        DataError: it is no such checkpoint, is of a kind that is not supported, or disagrees with ``network``; the
            message says in what.
    """
    state, settings = _read(path)
    _refuse_other_kinds(path, state, settings)
    order = _parents_order(network, parents)
    wrong = _disagreements(network, settings)
    if not wrong:
        weights = _Weights(state, order)
        weights.fill(network)
        wrong = weights.wrong + [f"{name}: the study's network has no such weights" for name in weights.left]
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise DataError(Code.OTHER, path, "\n  ".join(["not the network of this study:", *wrong[:SHOWN], *more]))
    with torch.no_grad():
        for parent in parents:
            k = network.parents.variables.index(parent.name)
            network.parents.mean[k], network.parents.std[k] = parent.norm or (0.0, 1.0)
    return {key: value for key, value in settings.items() if isinstance(value, (str, int, float, bool, list))}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = artefact.load_plain(path)
    except FileNotFoundError:
        raise DataError(Code.MISSING, path, "there is no such file") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(Code.UNREADABLE, path, f"not a checkpoint that can be read safely ({reason})") from None
    state = content.get(AVERAGED, content.get(RAW)) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(Code.MISSING, f"{path}: {AVERAGED}", "not there, so this is no checkpoint of causal-gen")
    if any(name.startswith(FINETUNED) for name in state):
        state = {name.removeprefix(FINETUNED): value for name, value in state.items() if name.startswith(FINETUNED)}
    settings = content.get("hparams")
    return dict(state), settings if isinstance(settings, dict) else {}


def _refuse_other_kinds(path: Path, state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    projections = [name for name in state if name.endswith(".z_proj.weight")]
    entering, prior = (state.get(f"decoder.blocks.0.{layer}.weight") for layer in ("z_proj", "prior.conv.1"))
    if entering is None or prior is None or settings.get("vae", "hierarchical") != "hierarchical":
        raise DataError(Code.UNSUPPORTED, path, "not a hierarchical VAE of causal-gen")
    conditional = prior.shape[1] != entering.shape[0]
    corrected = len(projections) > 1 and not any(name.endswith(".z_feat_proj.weight") for name in state)
    coloured = "likelihood.channel_coeffs.weight" in state
    likelihood = settings.get("x_like", "diag_dgauss")
    for refused, what in (
        (conditional or settings.get("cond_prior"), "a prior that sees the parents (cond_prior)"),
        (corrected or settings.get("q_correction"), "a prior that follows the posterior (q_correction)"),
        (coloured, "colour images (input_channels 3)"),
        (likelihood != "diag_dgauss", f"the likelihood {likelihood!r} (x_like)"),
    ):
        if refused:
            raise DataError(Code.UNSUPPORTED, path, f"trained with {what}, which segcft does not support")


def _parents_order(network: CausalGenHVAE, parents: Sequence[TrainedParent]) -> list[int]:
    """For each of the network's parents' features, in its order, which one of the checkpoint's it is."""
    names = [parent.name for parent in parents]
    variables = network.parents.definitions
    if sorted(names) != sorted(variables):
        raise DataError(
            Code.INVALID,
            "--parent",
            f"expected every variable of the study ({', '.join(variables)}) in the order of the checkpoint's parents, "
            f"not ({', '.join(names)})",
        )
    place: dict[str, list[int]] = {}
    start = 0
    for parent in parents:
        if variables[parent.name].zero_inflated:
            raise DataError(
                Code.UNSUPPORTED, parent.name, "'zero_inflated' in the study, which no network of causal-gen knows"
            )
        count = len(network.parent_features(parent.name))
        place[parent.name] = list(range(start, start + count))
        start += count
        categorical = variables[parent.name].kind == "categorical"
        if categorical == (parent.norm is not None):
            how = "categorical, so it has no LOW..HIGH or MEAN:STD" if categorical else "expected LOW..HIGH or MEAN:STD"
            raise DataError(Code.INVALID, parent.name, how)
    return [index for name in variables for index in place[name]]


def _disagreements(network: CausalGenHVAE, settings: Mapping[str, Any]) -> list[str]:
    """Keys of the study's ``hvae`` that are not as in the checkpoint's settings, as far as it has any."""
    spec = network.spec
    shapes = spec.decoder_blocks(int(parse_arch(spec.dec_arch)[-1].resolution))
    resolutions = sorted({shape.resolution for shape in shapes})

    def up_to(limit: int) -> list[int]:
        return [resolution for resolution in resolutions if resolution <= limit]

    def same(key: str, theirs: Any) -> bool:
        ours = getattr(spec, key)
        if key in ("enc_arch", "dec_arch"):
            first = 1 if key == "enc_arch" else 0  # the encoder's resolutions follow from the image
            return [s[first:] for s in parse_arch(ours)] == [s[first:] for s in parse_arch(theirs)]
        if key in ("z_max_res", "bias_max_res"):
            return up_to(ours) == up_to(theirs)
        return bool(list(ours) == list(theirs) if key == "widths" else ours == theirs)

    wrong = []
    for key in ("enc_arch", "dec_arch", "widths", "bottleneck", "z_dim", "z_max_res", "bias_max_res"):
        try:
            if key in settings and not same(key, settings[key]):
                wrong.append(f"hvae.{key}: {_shown(getattr(spec, key))}; the checkpoint has {_shown(settings[key])}")
        except (TypeError, ValueError):
            wrong.append(f"hvae.{key}: the checkpoint has {settings[key]!r}, which is not supported")
    if "hps" in settings:
        block = "light" if "ukbb" in str(settings["hps"]) else "gelu"
        if block != spec.block:
            wrong.append(f"hvae.block: {spec.block}; the checkpoint ({settings['hps']}) has {block}")
    return wrong


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, (tuple, list)) else str(value)


class _Weights:
    """Moves the tensors of a checkpoint into a network and notes what does not fit.

    Args:
        state: the checkpoint's tensors.
        order: for each of the network's parents' features, which one of the checkpoint's it is.
    """

    def __init__(self, state: Mapping[str, Tensor], order: list[int]) -> None:
        self.left = dict(state)
        self.order = order
        self.wrong: list[str] = []

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """The tensor ``name``, once; zeros, and a note, where it is not of this shape."""
        found = self.left.pop(name, None)
        if found is not None and found.shape == tuple(shape):
            return found.float()
        has = "missing in the checkpoint" if found is None else f"the checkpoint has {tuple(found.shape)}"
        self.wrong.append(f"{name}: the study's network has {tuple(shape)}; {has}")
        return torch.zeros(*shape)

    def take_joined(self, name: str, shape: Sequence[int], before: int) -> Tensor:
        """A weight of joined inputs, of which the parents follow the first ``before``: in the study's order."""
        joined = self.take(name, shape)
        parents = [before + index for index in self.order]
        after = range(before + len(parents), shape[1])
        return joined[:, [*range(before), *parents, *after]]

    @torch.no_grad()
    def fill(self, network: CausalGenHVAE) -> None:
        self._layer(network.encoder.stem, "encoder.stem")
        for index, block in enumerate(network.encoder.blocks):
            self._residual(cast(ResidualBlock, block), f"encoder.blocks.{index}")
        for index, block in enumerate(network.decoder):
            self._decoder_block(cast(DecoderBlock, block), f"decoder.blocks.{index}", network.spec)
        for index, resolution in enumerate(sorted(network.places, key=int)):
            place = network.places[resolution]
            place.copy_(self.take(f"decoder.bias.{index}", place.shape))
        self._layer(network.loc, "likelihood.x_loc")
        self._layer(network.log_scale, "likelihood.x_logscale")

    def _layer(self, layer: nn.Conv2d, name: str) -> None:
        layer.weight.copy_(self.take(f"{name}.weight", layer.weight.shape))
        bias = cast(Tensor, layer.bias)
        bias.copy_(self.take(f"{name}.bias", bias.shape))

    def _convolutions(self, convolutions: Convolutions, name: str, skip: int = 0) -> None:
        for index, layer in enumerate(convolutions.layers):
            if index >= skip:
                self._layer(cast(nn.Conv2d, layer), f"{name}.conv.{2 * index + 1}")

    def _residual(self, block: ResidualBlock, name: str) -> None:
        self._convolutions(block.convolutions, name)
        if block.project is not None:
            self._layer(block.project, f"{name}.width_proj")
        else:  # theirs exists wherever a block shrinks, and is used only where it changes the width
            self._drop(f"{name}.width_proj")

    def _drop(self, name: str) -> None:
        for part in ("weight", "bias"):
            self.left.pop(f"{name}.{part}", None)

    def _decoder_block(self, block: DecoderBlock, name: str, spec: CausalGenSpec) -> None:
        width = block.enter.weight.shape[0]
        if block.posterior is None:  # theirs has a prior's scale here too, rows z to 2 z of the last layer
            for part in ("weight", "bias"):
                last = f"{name}.prior.conv.{2 * len(block.prior.layers) - 1}.{part}"
                if last in self.left:
                    self.left[last] = torch.cat([self.left[last][: block.z], self.left[last][2 * block.z :]])
        self._convolutions(block.prior, f"{name}.prior")
        if block.posterior is not None:
            first = block.posterior.convolutions.first
            weight, bias = first.weight, cast(Tensor, first.bias)
            joined = (weight.shape[0], 2 * width + len(self.order), *weight.shape[2:])
            block.posterior.split(self.take_joined(f"{name}.posterior.conv.1.weight", joined, width))
            bias.copy_(self.take(f"{name}.posterior.conv.1.bias", bias.shape))
            self._convolutions(block.posterior.convolutions, f"{name}.posterior", skip=1)
        joined = (width, block.z + len(self.order), 1, 1)
        block.split_enter(self.take_joined(f"{name}.z_proj.weight", joined, block.z))
        bias = cast(Tensor, block.enter.bias)
        bias.copy_(self.take(f"{name}.z_proj.bias", bias.shape))
        if block.onward is not None:
            self._layer(block.onward, f"{name}.z_feat_proj")
        else:
            self._drop(f"{name}.z_feat_proj")
        self._residual(block.draw, f"{name}.conv")
