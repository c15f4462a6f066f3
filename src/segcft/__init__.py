"""segcft: segmentor-guided counterfactual fine-tuning of deep structural causal models for medical images."""

__version__ = "0.1.0"
