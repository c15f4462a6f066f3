"""In what units the guide's errors count, so that all measures weigh alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segcft.config.study import Study

LEAST = 0.1
"""Of the standard deviation: a measure that the others tell altogether would weigh without end."""


def scales(study: Study, values: Tensor, kind: str) -> Tensor:
    """The unit of each measured variable, (M,), from training values (N, V); ``kind`` is ``finetune.area_scale``."""
    observed = values[:, study.measured_columns]
    if not study.measured:
        return values.new_zeros(0)
    if kind == "mean":
        return observed.mean(dim=0)
    if kind == "std":
        return observed.std(dim=0)
    deviations = observed[~values.isnan().any(dim=1)].std(dim=0)
    own = torch.stack([unexplained(study, values, column) for column in study.measured_columns])
    return own.clamp(min=LEAST) * deviations


def unexplained(study: Study, values: Tensor, column: int) -> Tensor:
    r"""The share of a variable's standard deviation that is left given all others, shape (), 0 to 1,

    .. math:: \sqrt{\tfrac1N \sum_n (v_n - \hat v_n)^2} \Big/ \operatorname{sd}(v)

    where :math:`\hat v` is its least-squares fit by the others, categories being zeros and ones. The lower border of a
    lung follows from its area to a large part: an error of it counts by what is left, or it would get away with
    pleasing the area.
    """
    known = values.cpu().double()  # some devices have no double precision
    known = known[~known.isnan().any(dim=1)]
    columns = [torch.ones(len(known), 1, dtype=known.dtype, device=known.device)]
    for other, variable in enumerate(study.variables.values()):
        if variable.derived:
            continue  # it follows from the others, this one among them
        if other != column and variable.categories:
            columns.append(F.one_hot(known[:, other].long(), len(variable.categories))[:, 1:].to(known))
        elif other != column:
            one = known[:, other : other + 1]
            columns.append((one - one.mean()) / one.std().clamp(min=1e-12))
    target = known[:, column : column + 1]
    others = torch.cat(columns, dim=1)
    # The pseudo-inverse: some of the others may follow from the rest.
    left = target - others @ (torch.linalg.pinv(others) @ target)
    return (left.square().mean().sqrt() / target.std().clamp(min=1e-12)).to(values)
