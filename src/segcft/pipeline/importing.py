"""From a study's source to the samples of a run: whole, in shards, or of new subjects."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcft.causal.mechanisms import ParentEncoder
from segcft.config.sources import SimulatedData
from segcft.config.study import Study
from segcft.data.alike import check_copies
from segcft.data.maskfit import check_masks
from segcft.data.resplit import resplit
from segcft.data.shards import Shard, join
from segcft.data.splits import parts_of
from segcft.data.store import Store
from segcft.errors import Code, DataError
from segcft.evaluate.names import counted
from segcft.importers.folder import import_folder
from segcft.importers.simulated import import_simulated
from segcft.io.reject import summarise
from segcft.pipeline.run import Run
from segcft.utils.atomic import link, read_json, recover, replaced_folder, write_text
from segcft.utils.digest import key_of
from segcft.utils.lock import Lock
from segcft.utils.progress import Progress

DARK = 63
"""Images none of which is brighter than this, of 255, were probably not read as they were meant."""
DARK_SAMPLES = 100
"""How many images are looked at for that."""


def import_data(
    study: Study,
    data: Path | None,
    out: Path,
    progress: Progress,
    split: str | None = None,
    shard: Shard | None = None,
    **simulated: int,
) -> Store:
    """Make the store ``out`` from the study's source; ``data`` is the folder of images, masks and table."""
    check_data(study, data)
    if not isinstance(study.data, SimulatedData):
        assert data is not None
        return import_folder(study, data, out, split=split, shard=shard, progress=progress)
    return import_simulated(study, out, split=split, shard=shard, progress=progress, **simulated)


def check_data(study: Study, data: Path | None) -> None:
    """Check that ``data`` is given where the study reads files.

    Raises:
        DataError: it is missing.
    """
    if not isinstance(study.data, SimulatedData) and data is None:
        raise DataError(Code.MISSING, "--data", f"say in which folder the images of study {study.name!r} are")


def import_samples(run: Run, data: Path | None, progress: Progress) -> bool:
    """Bring the run's store up to date: from its shards if there are any, else from the study's source.

    Returns:
        whether there was anything to do.

    Raises:
        DataError: shards are missing or were made from something else, or what :func:`import_data` raises.
    """
    source = _source(run.study, data)
    record = import_record(run)
    run.write_study()
    recover(run.folder / "store")
    if _is_imported(run, source):
        return False
    shards = _complete_shards(run, source)
    if (run.folder / "store").is_dir():
        progress.note("import: made anew, since the study or its files changed")
    with ExitStack() as locks:
        for shard in shards:  # none is imported again meanwhile
            locks.enter_context(_shard_lock(shard))
        if shards:
            store = join(run.study, shards, run.folder / "store", progress)
        else:
            store = import_data(run.study, data, run.folder / "store", progress)
        if run.study.splits.fold is not None:
            store = _folded(store, run)
        write_text(record, json.dumps({**source, "fingerprint": store.fingerprint}))
        if shards:  # the store holds it all now
            for shard in shards:  # first, so that what a kill leaves is nobody's
                shard.with_suffix(".json").unlink()
            shutil.rmtree(shards[0].parent)
    progress.note(f"  {describe(store)}")
    return True


def take_samples(run: Run, data: Path | None, others: Iterable[Run]) -> bool:
    """Have the run share the store of one of ``others`` that was made from the same, unless its own is up to date.

    Returns:
        whether it does now; if not, :func:`import_samples` imports or keeps its own.
    """
    source = _source(run.study, data)
    recover(run.folder / "store")
    other = next((other for other in others if _is_imported(other, source)), None)
    if other is None or _is_imported(run, source):
        return False
    with replaced_folder(run.folder / "store") as partial:
        shutil.copytree(other.folder / "store", partial, copy_function=link, dirs_exist_ok=True)
    link(import_record(other), import_record(run))
    return True


def take_fold(run: Run, whole: Run) -> Store | None:
    """Have the run of a fold share the images of ``whole``, the run of all folds, split as the fold's study says.

    Returns:
        its samples; None where it has them already.

    Raises:
        DataError: the whole has no samples, or too few patients.
    """
    samples = whole.store()
    shared = {"files": read_json(import_record(whole)).get("files"), "whole": samples.fingerprint}
    source = _source(run.study, None) | shared
    recover(run.folder / "store")
    if _is_imported(run, source) and read_json(import_record(run)).get("whole") == samples.fingerprint:
        return None
    store = _folded(samples, run)
    write_text(import_record(run), json.dumps({**source, "fingerprint": store.fingerprint}))
    return store


def _folded(samples: Store, run: Run) -> Store:
    """The store of a fold's run: all ``samples``, split as its study says."""
    return resplit(samples, parts_of(samples.table["patient"], run.study.splits), run.folder / "store")


def import_shard(run: Run, data: Path | None, shard: Shard, progress: Progress) -> None:
    """Import one shard into ``RUN/shards``; once all are there, :func:`import_samples` joins them.

    Raises:
        DataError: files changed meanwhile, or what :func:`import_data` raises.
    """
    place = run.folder / "shards" / str(shard)
    record, source = place.with_suffix(".json"), _source(run.study, data)
    with _shard_lock(place):  # other shards of the run may be imported meanwhile
        record.unlink(missing_ok=True)  # it is of the shard that this one replaces
        store = import_data(run.study, data, place, progress, shard=shard)
        if _source(run.study, data) != source:
            raise DataError(Code.OTHER, data, "files changed during the import; import this shard again")
        write_text(record, json.dumps(source))
    progress.note(f"  shard {shard}: {len(store)} samples, {len(store.rejected)} rejected")


def new_samples(
    study: Study, data: Path | None, seed: int | None, out: Path, progress: Progress, people: int | None = None
) -> Store:
    """Samples that no run has seen, all of them of the test part.

    ``data`` is a folder like the study's, or a store; for a simulated study ``seed`` draws new ones instead, so many
    ``people`` (default: as many as the study evaluates on).

    Raises:
        DataError: neither fits the study.
    """
    if data is not None and seed is not None:
        raise DataError(Code.CONFLICT, "--seed", "give --data or --seed, not both: they are different samples")
    if data is not None and (data / "store.json").is_file():
        store = Store(data, verify=True)
        store.require(study)
        store.table["split"] = "test"  # in this copy of the table: all are to be judged
        return store
    if not isinstance(study.data, SimulatedData):
        if seed is not None:
            raise DataError(Code.CONFLICT, "--seed", f"study {study.name!r} is not simulated; give --data DIR")
        return import_data(study, data, out, progress, split="test")
    if data is not None:
        raise DataError(Code.MISSING, data, f"no store (store.json); study {study.name!r} is simulated: give --seed N")
    assert seed is not None
    if seed == study.data.seed:
        raise DataError(Code.LEAK, "--seed", f"{seed} is that of the study's own samples; give another seed")
    people = people or study.evaluation.people or study.data.people
    return import_data(study, None, out, progress, split="test", seed=seed, people=people)


def check_values(study: Study, store: Store) -> None:
    """Check, before hours of other trainings, that the attributes' mechanisms can learn from the samples.

    Raises:
        DataError: a variable has no variance, or no training sample has all attributes.
    """
    values = store.values()[store.indices("train", complete=True)]
    if len(values) == 0:
        raise DataError(
            Code.EMPTY, store.folder, "no training sample has all attributes; see table.parquet and rejected.csv"
        )
    try:
        ParentEncoder(study.variables).set_statistics(torch.from_numpy(values))
    except DataError as error:
        raise DataError(error.code, f"{store.folder}: {error.field}", error.text) from None


def shared_images(store: Store, rows: Iterable[int], other: Store, others: Iterable[int]) -> int:
    """How many images, of these rows of ``store``, are pixel for pixel among those rows of ``other``."""
    known = {hashlib.sha256(other.images[row]).digest() for row in others}
    return sum(hashlib.sha256(store.images[row]).digest() in known for row in rows)


def import_record(run: Run) -> Path:
    """The file that says what the run's store was made from."""
    return run.folder / "import.json"


def _shard_lock(place: Path) -> Lock:
    """Of the shard in the folder ``place``."""
    return Lock(place.parent, f".{place.name}.lock")


def _is_imported(run: Run, source: dict[str, Any]) -> bool:
    made_from, store = _read(import_record(run)), read_json(run.folder / "store" / "store.json")
    # A store that was put in place just before the process was killed is not what the record is of.
    own = made_from is not None and made_from.get("fingerprint") in (None, store.get("fingerprint"))
    return own and bool(store) and _same(made_from, source)


def _source(study: Study, data: Path | None) -> dict[str, Any]:
    """What the samples are made from; ``files`` is None where it is not given."""
    settings = study.model_dump(mode="json")
    # Their order is that of the channels. Left out where there are none, as in studies from before there were any.
    masks = [list(settings["masks"].items())] if study.masks else []
    return {
        "study": key_of(*(settings[k] for k in ("image", "variables", "structures", "data", "splits")), *masks),
        "files": _listing(data) if not isinstance(study.data, SimulatedData) and data else None,
    }


def _same(made_from: dict[str, Any] | None, source: dict[str, Any]) -> bool:
    # Without --data the samples that were imported once are what the run is about.
    return (
        made_from is not None
        and made_from["study"] == source["study"]
        and source["files"] in (None, made_from["files"])
    )


def _read(record: Path) -> dict[str, Any] | None:
    made_from = read_json(record)
    return made_from if {"study", "files"} <= made_from.keys() else None


def _complete_shards(run: Run, source: dict[str, Any]) -> list[Path]:
    """The folders of all shards in order; [] where the run has none."""
    records = sorted((run.folder / "shards").glob("*-of-*.json"))
    found = {Shard.parse(record.stem.replace("-of-", "/")): record for record in records}
    counts = {shard.count for shard in found}
    if not found:
        return []
    folder = run.folder / "shards"
    if len(counts) > 1:
        raise DataError(
            Code.CONFLICT,
            folder,
            f"it holds shards of {' and of '.join(map(str, sorted(counts)))}; remove the wrong ones",
        )
    everything = [Shard(i, counts.copy().pop()) for i in range(1, max(counts) + 1)]
    missing = [f"{shard.index}/{shard.count}" for shard in everything if shard not in found]
    if missing:
        raise DataError(
            Code.MISSING,
            folder,
            f"shards {', '.join(missing)} are missing: import them with --shard, or remove this folder",
        )
    made_from = [_read(found[shard]) for shard in everything]
    for shard, one in zip(everything, made_from, strict=True):
        if not _same(one, source) or one != made_from[0]:
            raise DataError(Code.OTHER, found[shard], "this shard has other settings or other files; import it again")
    return [found[shard].with_suffix("") for shard in everything]


def _listing(folder: Path) -> str:
    """A digest of which files a folder holds, their sizes and times: changes when the data do, and not with a lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    stats = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return key_of(stats)


def describe(store: Store) -> str:
    """What a store holds, in a line, and what may be wrong with it."""
    parts = parts_in_words(store)
    complete = len(store.indices(complete=True))
    missing = f"; {len(store) - complete} lack an attribute" if complete < len(store) else ""
    rejected = f"; {len(store.rejected)} rejected, see rejected.csv" if len(store.rejected) else ""
    warnings = "".join(find(store) for find in (_dark, duplicates, _missing_categories, _remarks))
    return f"{counted(len(store), store.table['patient'].nunique())} ({parts}){missing}{rejected}{warnings}"


def parts_in_words(store: Store) -> str:
    """How many samples each part has."""
    return ", ".join(f"{count} {part}" for part, count in store.samples.items())


def _remarks(store: Store) -> str:
    """The remarks of the import, and what is odd about masks and pictures as a whole."""
    found = [*check_masks(store), *check_copies(store)]
    remarks = [*store.remarks.itertuples(index=False, name=None), *(("", *remark) for remark in found)]
    return "".join(f"\n  {line}" for line in summarise(remarks))


def _dark(store: Store) -> str:
    """A warning where the images use little of their grey scale, as 12 bits in a file of 16 do; else ""."""
    brightest = int(store.images[:DARK_SAMPLES].max(initial=0))
    if len(store) == 0 or brightest > DARK:
        return ""
    return (
        f"\n  warning: no grey level of the first {min(len(store), DARK_SAMPLES)} images is over {brightest} of 255; "
        "do they use all bits of their files? See data.grey_range and data.window"
    )


def duplicates(store: Store) -> str:
    """A warning where a test image is one of training, under another name; else ""."""
    earlier = np.flatnonzero(store.table["split"] != "test")
    twins = shared_images(store, store.indices("test"), store, earlier)
    if not twins:
        return ""
    return (
        f"\n  warning: {twins} test images are, pixel for pixel, images of another part; has one subject two "
        "names? See data.patient"
    )


def _missing_categories(store: Store) -> str:
    """A warning for each category that no training sample is of; else ""."""
    training = store.table.iloc[store.indices("train")]
    return "".join(
        f"\n  warning: {name}: no training sample is {category!r}"
        for name, categories in store.variables.items()
        for category in categories
        if len(training) and category not in set(training[name])
    )
