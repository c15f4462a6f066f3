"""Simulated people as a folder data set.

``images/ID.png``, or ``.nii.gz`` of volumes, which say in themselves that they are synthetic; a mask of each structure,
``masks/ID_STRUCTURE``, whose grey is coverage; and ``metadata.csv`` with the variables and the number by which the
simulator knows the person.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import segcft
from segcft.errors import Code, DataError, SegcftError
from segcft.io.lie import Lie
from segcft.io.provenance import png_bytes
from segcft.io.volumeout import nifti_bytes
from segcft.simulate.people import Population
from segcft.simulate.simulator import Simulator
from segcft.utils.atomic import whole_folder, write_rows
from segcft.utils.progress import Progress

EVERYBODY = Population()


def study_lines(simulator: Simulator, volumes: bool = False) -> str:
    """The lines of a study file, YAML, by which the files of :func:`write_people` are read."""
    data = "{source: folder, grey_range: [0, 255]}" if volumes else "{source: folder}"
    lines = [
        f'  {name}: {{variable: {name}_{simulator.quantity}, file: "{{id}}_{name}{_suffix(volumes)}"}}'
        for name in simulator.structures
    ]
    return "\n".join([f"data: {data}", *(["structures:", *lines] if lines else [])])


def write_people(
    out: Path,
    simulator: Simulator,
    people: int,
    *,
    source: str,
    population: Population = EVERYBODY,
    spacing: tuple[float, float, float] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write people's images, masks and variables; returns the table ``out/metadata.csv``.

    Args:
        out: folder to write, which is not there yet, or empty; it is there once it is complete.
        simulator: draws them.
        people: how many, after a selection.
        source: what a study calls the simulator, for the files' records.
        population: whom.
        spacing: of volumes the edges of a voxel in mm.
        progress: wraps the loop over people.

    Raises:
        DataError: ``out`` holds something, somebody would leave the frame, or see :meth:`Population.of`.
        InterventionError: see :meth:`Population.of`, or somebody cannot be drawn so.
    """
    lie = Lie.straight(spacing, said=True) if spacing else None
    drawn = itertools.islice(population.of(simulator), people)
    with whole_folder(out) as partial:
        rows: list[dict[str, Any]] = []
        for folder in ("images", *(["masks"] if simulator.structures else [])):
            (partial / folder).mkdir()
        for person in (progress or Progress())(drawn, people, "Simulating subjects"):
            try:
                image, masks = simulator.render(person.number, person.attributes)
            except SegcftError as error:
                raise type(error)(error.code, error.field, f"{person.id}: {error.text}") from None
            except ValueError as error:  # it would leave the frame
                raise DataError(Code.OUT_OF_RANGE, "image", f"{source}: {person.id}: {error}") from None
            record = {"segcft": segcft.__version__, "simulator": source, "person": person.number} | person.attributes
            if population.do:
                record["do"] = dict(population.do)
            _write(partial / "images" / f"{person.id}{_suffix(lie is not None)}", image, lie, record)
            for structure, mask in zip(simulator.structures, masks, strict=True):
                path = partial / "masks" / f"{person.id}_{structure}{_suffix(lie is not None)}"
                if lie is None:
                    Image.fromarray(mask).save(path)
                else:
                    _write(path, mask, lie, record)
            numbers = {k: v if isinstance(v, str) else f"{v:.6g}" for k, v in person.attributes.items()}
            rows.append({"id": person.id, "person": person.number, **numbers})
        write_rows(partial / "metadata.csv", rows)
    return out / "metadata.csv"


def _suffix(volumes: bool) -> str:
    return ".nii.gz" if volumes else ".png"


def _write(path: Path, image: NDArray[np.uint8], lie: Lie | None, record: dict[str, Any]) -> None:
    """An image (H, W) or (3, H, W), or a volume (D, H, W), which says that it is synthetic."""
    if lie is None:
        path.write_bytes(png_bytes(image.reshape(-1, *image.shape[-2:]), record))
    else:
        path.write_bytes(nifti_bytes(image[None], lie, record))
