"""causal-gen's own code as a contender, from a folder that the user has: nothing of it is in this project.

What is timed is its network, its loss and PyTorch's AdamW as its trainer sets them up, without data loading,
logging and the moving average, on neither side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.work import Work
from segcft.grey import to_unit


def network(folder: str, configuration: dict[str, Any]) -> nn.Module:
    """causal-gen's HVAE of a configuration in ``published.yaml``; ``folder`` is its checkout.

    Raises:
        FileNotFoundError: there is no causal-gen in ``folder``.
    """
    source = Path(folder) / "src"
    if not (source / "vae.py").is_file():
        raise FileNotFoundError(f"{folder}: no causal-gen here (src/vae.py is missing)")
    sys.path.insert(0, str(source))
    import hps  # type: ignore[import-not-found]
    import vae  # type: ignore[import-not-found]

    options = hps.add_arguments(argparse.ArgumentParser()).parse_args([])
    settings = {key: configuration[key] for key in ("enc_arch", "dec_arch", "widths")}
    settings |= {"input_res": configuration["size"], "context_dim": configuration["parents"]}
    # Its choice of block hangs on the configuration's name.
    settings["hps"] = "ukbb" if configuration["block"] == "light" else "other"
    for key, value in settings.items():
        setattr(options, key, value)
    made: nn.Module = vae.HVAE(options)
    return made


class Baseline(Work):
    """One of the tasks in :class:`Work`, as causal-gen does it."""

    network: Any

    def __init__(self, folder: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.network = network(folder, self.configuration).to(self.device)
        if self.task.startswith("cft-"):
            self.reader = self.guide()
        self.prepare()

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.9))

    def planes(self, values: Tensor) -> Tensor:
        """Its parents: one constant plane each."""
        return values[..., None, None].repeat(1, 1, *self.batch["image"].shape[-2:])

    def loss(self) -> Tensor:
        loss: Tensor = self.network(to_unit(self.batch["image"]), self.planes(self.batch["values"]))["elbo"]
        if self.task.startswith("cft-"):
            loss = loss + self.reader.estimate(self.counterfactual()).square().mean()
        return loss

    def counterfactual(self) -> Tensor:
        """Abduction, then its decoder under the counterfactual and the factual parents, as its model does."""
        image, before, after = to_unit(self.batch["image"]), self.planes(self.batch["values"]), self.planes(self.after)
        latents = self.network.abduct(image, parents=before)
        loc, scale = self.network.forward_latents(latents, parents=after)
        factual_loc, factual_scale = self.network.forward_latents(latents, parents=before)
        noise = (image - factual_loc) / factual_scale.clamp(min=1e-12)
        changed: Tensor = torch.clamp(loc + scale * noise, min=-1, max=1)
        return changed


def make(**arguments: Any) -> Callable[[], None]:
    """See :func:`benchmarks.measure.compare`."""
    return Baseline(**arguments)
