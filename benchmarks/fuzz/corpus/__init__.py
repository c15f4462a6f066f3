"""Every reader of segcft, and a few valid files of each, made by what segcft and its libraries write."""

from __future__ import annotations

from benchmarks.fuzz.corpus import dicom, images, journals, meshes, models, stores, studies, tables, volumes, web

_KINDS = (studies, tables, images, dicom, volumes, meshes, models, stores, journals, web)

READERS = {reader.name.replace(" ", "-"): reader for kind in _KINDS for reader in kind.readers()}
"""By name."""
