"""NIfTI: single images, and volumes of a CT."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.fuzz.corpus import images
from benchmarks.fuzz.corpus.common import lazily, pixels
from benchmarks.fuzz.work import Reader


def readers() -> list[Reader]:
    volume = lazily("segcft.io.volumefile", "read_volume")
    return [
        Reader("nifti", ".nii", slices, lambda: images.read, weight=1.5),
        Reader("ct volume", ".nii", _volumes, volume),
        Reader("ct gzip", ".nii.gz", lambda: [gzip.compress(one, mtime=0) for one in _volumes()], volume, "gzip"),
    ]


def slices() -> list[bytes]:
    """Files with a single image."""
    import nibabel

    files = []
    for kind, values in (
        (nibabel.Nifti1Image, pixels()[..., None].astype(np.int16)),
        (nibabel.Nifti1Image, pixels()[:, None, :].astype(np.float32)),
    ):
        files.append(kind(values, np.diag([0.5, 0.7, 1, 1])).to_bytes())
    return [*files, gzip.compress(files[0], mtime=0)]


def _ct(shape: Sequence[int] = (8, 9, 10)) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


def _volumes() -> list[bytes]:
    import nibabel

    files = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        image = kind(_ct(), np.diag([0.5, 0.5, 0.5, 1]))
        image.header.set_xyzt_units("mm")
        files.append(image.to_bytes())
    return files
