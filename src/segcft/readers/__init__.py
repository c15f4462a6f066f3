"""Frozen readers of an image: a segmentor or a regressor, see :mod:`segcft.readers.reader`."""
