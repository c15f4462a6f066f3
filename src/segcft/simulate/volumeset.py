"""Simulated volumes as a folder data set.

``images/ID.nii.gz``, which say in their headers that they are synthetic, a mask of each part,
``masks/ID_STRUCTURE.nii.gz``, whose grey is coverage, and ``metadata.csv`` with the attributes, volumes among them, and
the number by which the simulator knows the person.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segcft
from segcft.io.lie import Lie
from segcft.io.volumeout import nifti_bytes
from segcft.simulate.people import person_id, person_number
from segcft.simulate.studylines import lines_of
from segcft.simulate.volume import VolumeSimulator
from segcft.utils.atomic import whole_folder, write_rows
from segcft.utils.progress import Progress


def study_lines() -> str:
    """The lines of a study file, YAML, by which the files of :func:`write_volumes` are read."""
    return lines_of(VolumeSimulator.structures, "volume", ".nii.gz", "{source: folder, grey_range: [0, 255]}")


def write_volumes(
    out: Path,
    people: int,
    *,
    seed: int = 0,
    size: tuple[int, int, int] = (32, 40, 56),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    progress: Progress | None = None,
) -> Path:
    """Write people's volumes, masks and attributes; returns the table ``out/metadata.csv``.

    Args:
        out: folder to write, which is not there yet, or empty; it is there once it is complete.
        people: how many.
        seed: of the population, as in a study's ``data.seed``.
        size: voxels along each axis.
        spacing: their size in mm.
        progress: wraps the loop over people.

    Raises:
        DataError: ``out`` holds something.
        ValueError: the parts do not fit in such a frame.
    """
    simulator = VolumeSimulator(size, spacing[0] * spacing[1] * spacing[2], spacing=spacing)
    lie = Lie.straight(spacing, said=True)
    with whole_folder(out) as partial:
        rows: list[dict[str, Any]] = []
        for folder in ("images", "masks"):
            (partial / folder).mkdir()
        for index in (progress or Progress())(range(people), people, "Simulating volumes"):
            number, id = person_number(seed, index), person_id(seed, index)
            attributes = simulator.attributes(number)
            image, masks = simulator.render(number, attributes)
            record = {"segcft": segcft.__version__, "simulator": "volume-simulator", "person": number} | attributes
            (partial / "images" / f"{id}.nii.gz").write_bytes(nifti_bytes(image[None], lie, record))
            for structure, mask in zip(simulator.structures, masks, strict=True):
                content = nifti_bytes(mask[None], lie, record)
                (partial / "masks" / f"{id}_{structure}.nii.gz").write_bytes(content)
            numbers = {k: v if isinstance(v, str) else f"{v:.6g}" for k, v in attributes.items()}
            rows.append({"id": id, "person": number, **numbers})
        write_rows(partial / "metadata.csv", rows)
    return out / "metadata.csv"
