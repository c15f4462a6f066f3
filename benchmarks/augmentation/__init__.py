"""Does a classifier learn better from confounded people with counterfactuals? ``python -m benchmarks.augmentation``."""
