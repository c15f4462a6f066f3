r"""What an image says of the attributes that nobody has written down.

A predictor reads them, and its readings are drawn to the mean, so they are not taken at their word. Of people on
whom it was not trained, what it says, :math:`o(x)`, is about Gaussian around a linear function of all their values,

.. math:: p(o(x) \mid a) = N(o(x);\; W e(a) + b,\; S),

where e are features of the values (:class:`~segcft.causal.mechanisms.ParentEncoder`), W is the predictor's response and
S what it leaves unexplained. That includes the measures: a large heart is not taken for evidence twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segcft.readers.predictor import Predictor

SINGULAR = 1e-4
"""Share of the largest eigenvalue of S below which a direction says nothing: probabilities add up to 1."""


class ImageEvidence:
    """How likely what a predictor says of an image is, under values of its subject.

    Args:
        predictor: whose response was fitted.
        said: what it says of N people whom it has not seen, (N, K).
        values: theirs, (N, V); who misses one counts for nothing.
    """

    def __init__(self, predictor: Predictor, said: Tensor, values: Tensor) -> None:
        needed = [not variable.derived for variable in predictor.encoder.definitions.values()]
        complete = ~values[:, needed].isnan().any(dim=1)
        said, values = said[complete], values[complete]
        self.encoder, self.response = predictor.encoder, predictor.response
        residual = said - self.encoder(values) @ self.response
        self.offset = residual.mean(dim=0)
        residual = residual - self.offset
        # As many people as there are features, of whom it knows nothing, as where its response was fitted: what few
        # people say is weak.
        scatter = (said - said.mean(dim=0)).square().mean(dim=0).diag()
        count = self.encoder.features
        unexplained = (residual.T @ residual + count * scatter) / (len(residual) + count)
        self.precision = torch.linalg.pinv(unexplained.cpu(), hermitian=True, rtol=SINGULAR).to(said.device)

    def __call__(self, said: Tensor, values: Tensor) -> Tensor:
        """Log likelihood, up to a constant, of what is said (K,) of an image under values (n, V), (n,)."""
        off = said - self.offset - self.encoder(values) @ self.response
        return -0.5 * ((off @ self.precision) * off).sum(dim=1)
