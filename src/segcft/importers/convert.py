"""Conversion of a public data set, in its own format, to the folder of images, masks and table that studies read.

A converted data set is a folder::

    images/ID.png   8-bit grey; a study brings each to its own grid; volumes are ID.nii.gz, as are their masks
    masks/ID.png    bit flags, e.g. 1 left lung, 2 right lung, 4 heart; none where the format has no masks
    metadata.csv    a row an image: id, patient, split and the format's attributes
    rejected.csv    id, kind and reason of everything that was left out
    warnings.csv    id, kind and text of what the user should know of images that were taken
    summary.txt     how many were left out for which kind of reason, and warnings
    journal.jsonl   what is done already, so that an interrupted conversion goes on

A format brings two things: its *items*, in a fixed order, and a function that reads one of them. Everything else,
parallel reading, writing whole files only, going on after an interruption, the split and the counts, is here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from PIL import Image

from segcft.config.sources import Splits
from segcft.data.splits import PARTS, assign, listed
from segcft.errors import Code, DataError
from segcft.importers.converted import Converted, check, plain
from segcft.io.imagefile import check_id, strip_suffix
from segcft.io.reject import REMARK_COLUMNS, WARNINGS, Excluded, Rejected, Remark, Unreadable, bare, summarise
from segcft.io.volumeout import VOLUME
from segcft.utils.atomic import write_bytes, written
from segcft.utils.journal import PICTURE, Journal, Table
from segcft.utils.loop import ahead
from segcft.utils.progress import Progress

UNREADABLE = "image or mask unreadable"
"""The kind of a reason that has none of its own."""

DUPLICATE = "listed twice"

FEW = 20
"""Below this number of images one patient may well have most of them."""


class Item(Protocol):
    """What a format lists: anything with an ``id``, that of the sample that it becomes.

    It may have a ``stamp``, a text: a sample that was made of an item with another one is made again.
    """

    @property
    def id(self) -> str: ...


AnyItem = TypeVar("AnyItem", bound=Item)
Read = Callable[[AnyItem], "Converted | Rejected"]
Finish = Callable[[Sequence[Converted]], Sequence["Converted | Rejected"]]


class Outcome(NamedTuple):
    """What became of an item: its sample, why there is none, or None where it is done already."""

    id: str
    stamp: str | None
    sample: Converted | Rejected | None


@dataclass(frozen=True)
class Summary:
    """What a conversion took and left out.

    Attributes:
        items: how many the data set lists.
        samples: how many images were converted, by part.
        patients: of how many patients they are, by part.
        left_out: how many were not, by kind of reason.
        warning: what is odd about the result and what to do about it, or "".
        files: how many images have which further file.
    """

    items: int
    samples: Mapping[str, int]
    patients: Mapping[str, int]
    left_out: Mapping[str, int]
    warning: str = ""
    files: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        total = sum(self.samples.values())
        lines = [(self.items, "images listed")]
        lines += [(-count, kind) for kind, count in sorted(self.left_out.items(), key=lambda one: (-one[1], one[0]))]
        lines += [(total, f"images converted, of {sum(self.patients.values())} people")]
        lines += [
            (count, f"{part}, of {self.patients.get(part, 0)} people") for part, count in listed(self.samples).items()
        ]
        lines += [(count, f"files in {name.partition('/')[0]}") for name, count in self.files.items()]
        return "\n".join(f"{number:>8}  {text}" for number, text in lines)


def convert(
    items: Iterable[AnyItem],
    total: int,
    read: Read[AnyItem],
    out: Path,
    *,
    settings: Mapping[str, Any],
    finish: Finish | None = None,
    batch_size: int = 16,
    splits: Splits | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    files: Sequence[str] = (),
) -> Summary:
    """Convert a data set to the folder ``out``; the same call goes on where an interrupted one was.

    Samples that are done are not read again; those that were left out are, since their files may have arrived
    meanwhile. Memory holds the ids, the items whose id was there before, and a few images per worker.

    Args:
        items: the data set's samples in a fixed order. Of several with one id the first that can be read is taken.
        total: how many there are.
        read: makes the sample of an item, or says why there is none; raising :class:`Rejected` is as good. It is
            called from several threads at once.
        out: folder to write; an existing one must be of a conversion with the same ``settings``.
        settings: everything that the result depends on, in JSON's types.
        finish: completes up to ``batch_size`` samples at once, e.g. by masks from a network, or rejects them; it
            answers in order, one for one, and is called from one thread.
        batch_size: of ``finish``.
        splits: shares of the parts, by patient, where samples have no ``split`` of their own (default: 72 / 8 / 20 %).
        workers: threads that read and write (default: one for each core, at most 16).
        progress: wraps the loop over items.
        files: further files that samples may have (:attr:`Converted.files`), which the summary counts.

    Raises:
        DataError: ``out`` is something else or cannot be written, or nothing could be converted.
        TypeError: ``read`` or ``finish`` gave no sample, or one of other types; the message names the item.
        ValueError: a sample is another item's, or a value in it cannot be; the message names the item.
    """
    workers, splits, progress = workers or min(16, os.cpu_count() or 1), splits or Splits(), progress or Progress()
    done = _Done()
    journal = Journal(out, {**settings, "splits": splits.model_dump(mode="json")}, done.note)
    work = _Conversion(out, journal, done, read, finish, batch_size if finish else 1, splits, workers)
    try:
        # The journal comes first, since a folder without one is not a conversion's.
        with journal:
            with Table(out / "rejected.csv", ["id", "kind", "reason"]) as rejected:
                work.convert(work.first_of_each(progress(items, total, "Converting images")), 1, rejected)
                if copies := work.copies:  # only now it is known which of the first are readable
                    work.convert(progress(copies.values(), len(copies), "Looking at further copies"), 2, rejected)
            images = done.write_metadata(out / "metadata.csv", journal, work.kept)
            remarks = done.write_remarks(out / WARNINGS, work.kept)
            summary = _summarize(total, images, work.left_out, remarks)
            summary = replace(summary, files={name: done.files[name] for name in files})
            with written(out / "summary.txt") as partial:
                warning = f"\n{summary.warning}\n" if summary.warning else ""
                partial.write_text(f"{summary}\n{warning}", encoding="utf-8")
    except OSError as error:
        raise DataError(Code.NOT_WRITABLE, out, f"the conversion stopped ({error})") from None
    if not sum(summary.samples.values()):
        raise DataError(Code.EMPTY, out, f"no image could be converted; rejected.csv there says why\n{summary}")
    return summary


class _Done:
    """What the journal has. Of several entries of one id the latest counts: files that were lost are made again."""

    def __init__(self) -> None:
        self._columns: dict[str, None] = {}
        self._latest: dict[str, int] = {}  # id -> number of its entry
        self._remarks: dict[str, list[Remark]] = {}
        self._entries = 0
        self.files: Counter[str] = Counter()

    def note(self, entry: Mapping[str, Any]) -> None:
        """Count an entry in, or raise, as :class:`Journal` wants it, where no conversion wrote it."""
        row, remarks = entry["row"], [Remark(*remark) for remark in entry.get("remarks", ())]
        _part_and_patient(row)
        for remark in remarks:
            if not all(isinstance(part, str) for part in remark):
                raise ValueError(f"a remark is {remark!r}")
        self._columns |= dict.fromkeys(row)
        self._latest[row["id"]] = self._entries
        self._remarks[row["id"]] = remarks
        self._entries += 1

    def write_metadata(self, path: Path, journal: Journal, ids: Container[str]) -> Counter[tuple[str, str]]:
        """Write the rows of ``ids``; returns the number of images by part and patient, and counts their files."""
        images: Counter[tuple[str, str]] = Counter()
        with Table(path, list(self._columns)) as table:
            for number, entry in enumerate(journal.entries()):
                row = entry["row"]
                if row["id"] in ids and self._latest[row["id"]] == number:
                    table.write([row.get(name) for name in self._columns])
                    images[_part_and_patient(row)] += 1
                    self.files.update(entry.get("files", ()))
        return images

    def write_remarks(self, path: Path, ids: Container[str]) -> list[tuple[str, str, str]]:
        """Write the remarks on the images of ``ids``; returns them: id, kind and text."""
        remarks = [(id, *remark) for id, found in self._remarks.items() if id in ids for remark in found]
        with Table(path, REMARK_COLUMNS) as table:
            for line in remarks:
                table.write(line)
        return remarks


@dataclass
class _Conversion(Generic[AnyItem]):
    """The loop over items; the arguments of :func:`convert`, and what has become of the items.

    Attributes:
        copies: id -> its second item and those after it.
        unreadable: ids of which no item could be read so far.
        kept: ids whose samples are there.
        left_out: how many items were left out, by kind of reason.
    """

    out: Path
    journal: Journal
    done: _Done
    read: Read[AnyItem]
    finish: Finish | None
    batch_size: int
    splits: Splits
    workers: int
    copies: dict[str, list[AnyItem]] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)

    def first_of_each(self, listed: Iterable[AnyItem]) -> Iterator[list[AnyItem]]:
        """The first item of each id; the others become :attr:`copies`."""
        seen: set[str] = set()
        for item in listed:
            if item.id in seen:
                self.copies.setdefault(item.id, []).append(item)
            else:
                seen.add(item.id)
                yield [item]

    def convert(self, groups: Iterable[list[AnyItem]], first: int, rejected: Table) -> None:
        """Convert groups of items of one id, of which the ``first`` and those after it are there."""
        with ExitStack() as stack:
            reading = ahead(lambda items: self._outcomes(items, first), groups, self.workers, 2 * self.workers)
            read_ahead = chain.from_iterable(stack.enter_context(closing(reading)))
            finished = stack.enter_context(closing(_batched(self._completed, read_ahead, self.batch_size)))
            writing = ahead(self._written, finished, self.workers, 2 * self.workers)
            for one, entry in stack.enter_context(closing(writing)):
                if isinstance(one.sample, Rejected):
                    kind = one.sample.kind if isinstance(one.sample, Excluded) else UNREADABLE
                    rejected.write([one.id, kind, str(one.sample)])
                    self.left_out[kind] += 1
                    if _is_unreadable(one.sample):
                        self.unreadable.add(one.id)
                    continue
                if entry is not None:
                    self.journal.add(entry)
                    self.done.note(entry)
                self.kept.add(one.id)

    def _outcomes(self, items: Sequence[AnyItem], first: int) -> list[Outcome]:
        """Of the items of one id, up to the first that can be read."""
        found: list[Outcome] = []
        wanted = first == 1 or items[0].id in self.unreadable
        for number, item in enumerate(items, first):
            listed = Outcome(item.id, None, Excluded(DUPLICATE, f"id {item.id!r} is listed before"))
            found.append(self._outcome(item, number) if wanted else listed)
            wanted = wanted and _is_unreadable(found[-1].sample)
        return found

    def _outcome(self, item: AnyItem, number: int) -> Outcome:
        stamp = getattr(item, "stamp", None)
        if number > 1:  # so that a sample is known for that of another item of its id
            stamp = f"{stamp or ''}#{number}"
        try:
            check_id(item.id)
            if self.journal.has(item.id, stamp):
                return Outcome(item.id, stamp, None)
            sample = self.read(item)
            check(sample, item.id)
            if isinstance(sample, Converted) and strip_suffix(item.id) != item.id:
                why = f"id {item.id!r}: ends like an image file, whose other name it would be"
                raise Excluded("unusable name", why)
            return Outcome(item.id, stamp, sample)
        except Rejected as reason:
            return Outcome(item.id, stamp, bare(reason))

    def _completed(self, batch: Sequence[Outcome]) -> list[Outcome]:
        samples = [one.sample for one in batch if isinstance(one.sample, Converted)]
        answers = self.finish(samples) if self.finish and samples else samples
        if len(answers) != len(samples):
            whose = f"of {len(samples)} samples, the first of which is {samples[0].id!r}"
            raise ValueError(f"{len(answers)} results {whose}; expected one for one")
        for sample, answer in zip(samples, answers, strict=True):
            check(answer, sample.id)
        rest = iter(answers)
        return [one._replace(sample=next(rest)) if isinstance(one.sample, Converted) else one for one in batch]

    def _written(self, one: Outcome) -> tuple[Outcome, dict[str, Any] | None]:
        if not isinstance(one.sample, Converted):
            return one, None
        entry = _write(self.out, one.sample, one.sample.split or assign(one.sample.patient, self.splits))
        return one, entry | ({} if one.stamp is None else {"stamp": one.stamp})


def _batched(
    function: Callable[[Sequence[Outcome]], list[Outcome]], outcomes: Iterable[Outcome], size: int
) -> Generator[Outcome, None, None]:
    """``function`` over runs of outcomes that hold up to ``size`` samples; what is rejected comes along."""
    batch: list[Outcome] = []
    held = 0
    for one in outcomes:
        batch.append(one)
        held += isinstance(one.sample, Converted)
        if held == size or held == 0:
            yield from function(batch)
            batch, held = [], 0
    yield from function(batch)


def _write(out: Path, sample: Converted, split: str) -> dict[str, Any]:
    """Write a sample's files; returns its line of the journal."""
    suffix = VOLUME if isinstance(sample.image, bytes) else PICTURE
    for name, pixels in (("images", sample.image), ("masks", sample.mask)):
        if pixels is None:
            continue
        with written(out / name / f"{sample.id}{suffix}") as partial:
            if isinstance(pixels, bytes):
                partial.write_bytes(pixels)
            else:
                Image.fromarray(pixels).save(partial, format="PNG")
    for name, content in sample.files.items():
        write_bytes(out / name.replace("{id}", sample.id), content)
    attributes = {name: plain(value) for name, value in sample.attributes.items()}
    row = {"id": sample.id, "patient": sample.patient, "split": split, **attributes}
    entry = {"row": row, "mask": sample.mask is not None} | ({} if suffix == PICTURE else {"suffix": suffix})
    entry |= {"files": list(sample.files)} if sample.files else {}
    return entry | ({"remarks": sample.remarks} if sample.remarks else {})


def _is_unreadable(sample: Converted | Rejected | None) -> bool:
    """Whether a file was at fault, so that another one of the same id may give the sample."""
    return isinstance(sample, Unreadable) or (isinstance(sample, Rejected) and not isinstance(sample, Excluded))


def _part_and_patient(row: Mapping[str, Any]) -> tuple[str, str]:
    """Of a row of the journal."""
    part, patient = row["split"], row["patient"]
    if part not in PARTS or not isinstance(patient, str):
        raise ValueError(f"a row has the part {part!r} and the patient {patient!r}")
    return part, patient


def _summarize(
    items: int,
    images: Counter[tuple[str, str]],
    left_out: Mapping[str, int],
    remarks: Sequence[tuple[str, str, str]],
) -> Summary:
    """What was taken; ``images`` counts by part and patient. It warns of one patient with most and of an empty part."""
    samples: Counter[str] = Counter()
    for (part, _), count in images.items():
        samples[part] += count
    patients = Counter(part for part, _ in images)
    total, warning = images.total(), ""
    for (part, _), most in images.most_common(1):
        if total >= FEW and most > total / 2:
            warning = (
                f"warning: {most} of {total} images are of one patient, and so in one part ({part}). If "
                "they are of several patients, give each an id of their own in the source and convert it to another "
                "folder, or correct 'patient' and 'split' in metadata.csv"
            )
    if empty := [part for part, count in listed(samples).items() if not count]:
        warning = warning or (
            f"warning: no image is in {' and '.join(empty)}: bring more patients, or another --seed of the split"
        )
    return Summary(items, samples, patients, left_out, "\n".join(filter(None, (warning, *summarise(remarks)))))
