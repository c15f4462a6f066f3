"""The stages, a file each; what they have in common is in :mod:`segcft.pipeline.stage`."""
