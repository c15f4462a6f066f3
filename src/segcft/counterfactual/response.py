"""How far measured variables move when they are set: what fine-tuning is for, as its guide reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from segcft.config.study import Study
from segcft.counterfactual.model import CounterfactualModel
from segcft.data.batches import Batch
from segcft.grey import rounded, to_unit
from segcft.measures.slope import slope
from segcft.readers.reader import Reader


@torch.no_grad()
def response_slopes(
    model: CounterfactualModel,
    guide: Reader,
    study: Study,
    batches: Sequence[Batch],
    variables: Iterable[str],
    seed: int = 0,
) -> dict[str, float]:
    """Of each of the measured ``variables``, the slope of the change that the ``guide`` reads on the change asked for.

    Each sample of the ``batches``, whose values are all known, gets the value of another one, as ``seed`` has it. Least
    squares through the origin: 0 is no change, 1 is what was asked for. Latents are posterior means. A variable that is
    the same in all samples has no slope.
    """
    values = torch.cat([batch["values"] for batch in batches])
    columns = {name: list(study.variables).index(name) for name in variables}
    donors = _donors(len(values), seed).to(values.device)
    # Noise of categories is drawn.
    generator = torch.Generator(values.device).manual_seed(seed)
    changes: dict[str, list[Tensor]] = {name: [] for name in columns}
    places = iter(torch.arange(len(values), device=values.device).split([len(batch["values"]) for batch in batches]))
    for batch in batches:
        image, known, here = to_unit(batch["image"]), batch["values"], donors[next(places)]
        abduction, before = model.abduct(image, known), guide.read(image)
        for name, column in columns.items():
            do = model.scm.intervention(len(known), **{name: values[here, column]})
            changed, after = abduction.counterfactual(do, generator)
            place = study.measured.index(name)
            obtained = (guide.read(rounded(changed)) - before)[:, place]
            asked = after[:, column] - known[:, column]
            changes[name].append(torch.stack([obtained, asked]))
    found = {name: slope(*torch.cat(both, dim=1)) for name, both in changes.items()}
    return {name: one for name, one in found.items() if not math.isnan(one)}


def _donors(samples: int, seed: int) -> Tensor:
    """For each sample the place of another one, (N,): the next in a random circle of all."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    donors = torch.empty_like(order)
    donors[order] = order.roll(1)
    return donors
