"""Frozen readers of an image: a segmentor or a regressor, as a guide or as the judge."""
