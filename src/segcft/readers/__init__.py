"""Frozen readers of an image: a segmentor or a regressor, both with ``areas(x)``."""
