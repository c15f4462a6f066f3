"""Simulators: known structural causal models that draw images, exact masks and true counterfactuals."""

from segcft.simulate.chest import ChestSimulator
from segcft.simulate.coronary import CoronarySimulator

__all__ = ["ChestSimulator", "CoronarySimulator"]
