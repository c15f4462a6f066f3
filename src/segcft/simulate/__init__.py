"""Simulators: known structural causal models that draw images, exact masks and true counterfactuals."""

from segcft.simulate.chest import ChestSimulator

__all__ = ["ChestSimulator"]
