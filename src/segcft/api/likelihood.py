"""How likely a subject is to a model."""

from __future__ import annotations

from typing import NamedTuple


class LogLikelihood(NamedTuple):
    """Logarithms of densities: the larger, the likelier the subject is to the model."""

    image: float
    """Evidence lower bound of log p(image | attributes), in nats."""
    bits_per_pixel: float
    """The same negated, in bits per pixel and channel: the fewer, the likelier."""
    attributes: dict[str, float]
    """log p(variable | its parents), in nats, of the variables' densities in their units."""

    confounded: float = 0.0
    """What pairs of confounded variables add to these, in nats; see :class:`segcft.causal.copula.GaussianCopula`."""

    @property
    def total(self) -> float:
        """Lower bound of log p(image, attributes), in nats."""
        return self.image + sum(self.attributes.values()) + self.confounded
