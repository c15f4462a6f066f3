"""Import of a user's own data: images and masks in folders, attributes in a CSV table.

What is wrong with one sample leaves that sample out, with a reason; what is wrong with the data set as a
whole is a :class:`~segcft.errors.DataError`. An attribute that is missing in the table is kept as missing.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from segcft.config.sources import SeveralFolders, SimulatedData
from segcft.config.study import Study
from segcft.data.shards import Shard
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.importers.sample import Folder
from segcft.io.reject import Rejected
from segcft.utils.loop import ahead
from segcft.utils.progress import Progress


def import_folder(
    study: Study,
    data: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> Store:
    """Read the folders that ``study.data`` describes and write them to the store ``out``.

    Images may have any size. One whose aspect ratio (width / height, of the field of view if the study has
    one) differs from the study's by more than 2 % is centred on a canvas of that ratio first, filled with the
    median of its border and without structures; the canvas then spans the field of view. Other ways to fit images are
    in :class:`segcft.config.image.Image`. Pixels that are not square, as a DICOM header may say of an image (and
    thereby of its mask), are taken as such. Shrinking averages
    over each pixel's footprint, for masks too, so that areas survive it. Areas are measured from the masks
    and never read from the table.

    Of several sources, the ids of samples and patients are those of their tables behind the name of the source, as
    ``jsrt/0001``: the same id in two sources is of two patients. Samples of a source without masks have missing
    measures, and nothing is learnt or judged of their empty masks.

    Args:
        study: whose ``data`` is read from files.
        data: folder that the paths in ``study.data`` are relative to.
        out: the store's folder; an older store there is replaced once the new one is complete.
        split: put every sample in this part, e.g. ``"test"`` for subjects that no stage may have seen.
        shard: import this share of the table only; see :func:`segcft.data.shards.join`.
        progress: wraps the loop over samples: ``progress(iterable, total, description) -> iterable``.

    Returns:
        The new store. ``store.rejected`` lists what was left out and why.

    Raises:
        DataError: a folder or the table is missing or unreadable, a column is missing, a patient is in two
            parts, the table has a column of patients that the study does not name, no sample is usable, or a part of
            the split is empty.
    """
    sources = folders_of(study, Path(data), split)
    lines = [(source, line) for source in sources for line in source.read_lines()]
    remarks = [remark for source in sources for remark in source.remarks] if shard is None or shard.index == 1 else []
    if shard is not None:
        lines = list(shard.of(lines))
    workers = min(8, os.cpu_count() or 1)
    reading = closing(ahead(lambda one: one[0].read_sample(one[1]), lines, workers, depth=2 * workers))
    with StoreWriter(out, study, partial=shard is not None) as writer, reading as samples:
        writer.remark("", remarks)
        every = zip(lines, samples, strict=True)
        for (source, line), sample in (progress or Progress())(every, len(lines), "Importing images"):
            id = source.name_of(line)
            if isinstance(sample, Rejected):
                writer.reject(id, str(sample))
            else:
                writer.append(id, *sample[:-1])
                writer.remark(id, sample.remarks)
        # Of several sources, those whose tables give the split may be who have too few.
        parts, _, remedy = max((one.expected_parts() for one in sources), key=lambda one: "column" in one[2])
        writer.check_parts(parts, ", ".join(str(source.table) for source in sources), remedy)
    return Store(out)


def folders_of(study: Study, data: Path, split: str | None) -> list[Folder]:
    """The sources of a study in their order, one where it has one folder.

    Where all samples are put in one part, they may be of none of the sources: a folder without theirs, but with a table
    of its own, is read as all sources are, with a column for every attribute.

    Args:
        study: whose ``data`` is read from files.
        data: folder that all paths are relative to.
        split: the part that every sample is put in, if it is not the table or the study that says it.
    """
    assert not isinstance(study.data, SimulatedData)
    if isinstance(study.data, SeveralFolders):
        places = [data / (name if spec.folder is None else spec.folder) for name, spec in study.data.folders.items()]
        if split is not None and not any(place.is_dir() for place in places):
            return [Folder(study, study.data.common, data, split)]
        return [
            Folder(study, spec, data / (name if spec.folder is None else spec.folder), split, name)
            for name, spec in study.data.folders.items()
        ]
    return [Folder(study, study.data, data, split)]
