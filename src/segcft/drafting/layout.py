"""Which files of a folder are images, which are masks, and of which sample each is.

Folders differ: images beside masks, a folder for each, one for each structure, or one for each subject; names that have
words before or after what names the sample. Files that belong together are called alike but for that name. So a way to
call files is a template, like ``masks/{id}_heart.png``, and the ids are what makes most files of all templates match.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segcft.errors import Code, DataError
from segcft.io.imagefile import LOSSLESS, SUFFIXES, called, strip_suffix
from segcft.io.scan import is_series, walked
from segcft.io.series import is_one_series

MASKS = re.compile(r"masks?|labels?(?:tr)?|segs?|segmentations?|annotations?|groundtruth|gt|contours?|manual|outlines?")
"""Words, without anything but letters, by which folders and files of masks are called."""
IMAGES = re.compile(r"images?(?:tr)?|imgs?|scans?|volumes?|pictures?|radiographs?|x?rays?|cxr|dicoms?|png|nifti|data")
"""The same of images."""
TABLES = (".csv", ".tsv")

FEW = 12
"""Templates of images in folders of subjects, above which the folders are something else."""
MOST = 0.5
"""Share of subjects that have an image, of those that most of them have."""
SOME = 0.05
"""Share of samples that have a mask, below which the files are no masks of a structure."""


class Way(NamedTuple):
    """How files are called."""

    folder: str
    """Below the data, ``.`` for that itself."""
    template: str
    """Of the paths in it without suffix, like ``{id}_heart``."""
    suffixes: tuple[str, ...]
    """That they have, the usual one first; "" of folders with a series."""

    @property
    def pattern(self) -> str | None:
        """What a study has for ``file``; None where the files are called as the samples."""
        known = all(one == "" or one.lower() in SUFFIXES for one in self.suffixes)
        return None if self.template == "{id}" and known else self.name

    @property
    def name(self) -> str:
        """How the files are called; without a suffix, where they have several."""
        return self.template + (self.suffixes[0] if len(self.suffixes) == 1 else "")

    def path(self, data: Path, id: str) -> Path:
        """The file of a sample, which may not be there."""
        stem = data / self.folder / self.template.replace("{id}", id)
        paths = [stem.with_name(stem.name + suffix) for suffix in self.suffixes]
        return next((path for path in paths if path.exists()), paths[0])


class Layout(NamedTuple):
    """What is in a folder."""

    images: Way
    masks: dict[str, Way]
    """By what they are called beside the id and words for masks; of one file for all structures ``""``."""
    ids: tuple[str, ...]
    """Of all images."""
    masked: int
    """Images that have a mask, at least one."""
    tables: tuple[Path, ...]
    others: tuple[str, ...]
    """Further images, which are not used: how they are called, or where they are."""


class _File(NamedTuple):
    """An image, mask or series below the data."""

    place: PurePosixPath
    """Without its suffix."""
    suffix: str


def find_layout(data: Path) -> Layout:
    """What the files below a folder are.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not data.is_dir():
        raise DataError(Code.MISSING, data, "no such folder")
    files, tables = _files(data)
    masks = [file for file in files if _is_mask(file.place)]
    images = [file for file in files if not _is_mask(file.place)]
    if not images:
        why = f"no image is in it (looked for {', '.join(SUFFIXES)})"
        raise DataError(Code.EMPTY, data, why if not masks else f"{why}, beside {len(masks)} masks")
    folder, own, others = _folder_of(images)
    by_subject = _by_subject(own)
    if by_subject is not None:
        template, more = by_subject
        others += more
        ids = {id for file in own if (id := _matched(template, str(file.place))) is not None}
    else:
        template = max(_affixes(own), key=lambda one: len(_share(masks, _named(own, one))))
        ids = _named(own, template)
    kept = [file for file in own if _matched(template, str(file.place)) is not None]
    if by_subject is None and len(kept) < len(own):
        others.append(f"{len(own) - len(kept)} images in {folder} that are called otherwise")
    found = _masks(masks, ids)
    masked = {id for ids_of in found.values() for id in ids_of[1]}
    way = Way(folder, template, _usual(file.suffix for file in kept))
    ways = _without_plain_words({template: way for template, (way, _) in found.items()})
    return Layout(way, ways, tuple(sorted(ids)), len(masked), tuple(tables), tuple(others))


def _files(data: Path) -> tuple[list[_File], list[Path]]:
    files, tables, series = list[_File](), list[Path](), set[Path]()
    for path in walked(data):
        place = path.relative_to(data)
        if path.parent in series:
            continue
        if path.is_dir():
            if is_series(path) and is_one_series(path):
                series.add(path)
                files.append(_File(PurePosixPath(place.as_posix()), ""))
        elif path.name.lower().endswith(TABLES):
            tables.append(path)
        elif path.name.lower().endswith(SUFFIXES):
            stem = strip_suffix(place.as_posix())
            files.append(_File(PurePosixPath(stem), place.as_posix().removeprefix(stem)))
    return files, tables


def _letters(word: str) -> str:
    return re.sub(r"[^a-z]", "", word.lower())


def _is_mask(place: PurePosixPath) -> bool:
    """Whether a folder on the way to a file is one of masks, or the file's first or last word is."""
    words = re.split(r"[_\-. ]", place.name)
    named = (*place.parts[:-1], words[0], words[-1])
    return any(MASKS.fullmatch(_letters(word)) for part in named for word in (part, *re.split(r"[_\-. ]", part)[-1:]))


def _folder_of(images: Sequence[_File]) -> tuple[str, list[_File], list[str]]:
    """The folder of the images, called so or with most of them; they, by their places in it; and where others are."""
    homes: dict[str, list[_File]] = defaultdict(list)
    for file in images:
        parents = [parent for parent in file.place.parents if IMAGES.fullmatch(_letters(parent.name))]
        home = parents[-1] if parents else PurePosixPath()
        homes[str(home)].append(file._replace(place=file.place.relative_to(home)))
    called = {home: files for home, files in homes.items() if home != "."}
    folder, files = max((called or homes).items(), key=lambda one: len(one[1]))
    others = [f"{len(some)} images in {home}" for home, some in homes.items() if home != folder]
    tops = Counter(file.place.parts[0] if len(file.place.parts) > 1 else "" for file in files)
    top = next(iter(tops))
    if folder == "." and len(tops) == 1 and top:  # all are in one folder that is called otherwise
        return top, [file._replace(place=file.place.relative_to(top)) for file in files], others
    return folder, files, others


def _by_subject(images: Sequence[_File]) -> tuple[str, list[str]] | None:
    """Where each subject has a folder in which files are called alike: how the image is, and how others are."""
    templates: dict[str, set[str]] = defaultdict(set)
    for file in images:
        if len(file.place.parts) < 2:
            return None
        subject = file.place.parts[0]
        templates[_template(str(file.place), subject)].add(subject)
    subjects = {file.place.parts[0] for file in images}
    usual = [one for one, own in templates.items() if len(own) >= MOST * len(subjects)]
    if len(subjects) < 3 or not usual or len(templates) > FEW:
        return None
    called = [one for one in usual if IMAGES.fullmatch(_letters(one.rpartition("/")[2]))]
    first = max(called or usual, key=lambda one: len(templates[one]))
    return first, [one for one in templates if one != first]


def _template(place: str, id: str) -> str:
    """A place with ``{id}`` for the id, wherever it is a word of its own."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(id)}(?![A-Za-z0-9])", "{id}", place)


def _matched(template: str, place: str) -> str | None:
    """The id of the sample whose file is at ``place``, if it is called so."""
    found = called(template).fullmatch(place)
    return found["id"] if found else None


def _affixes(images: Sequence[_File]) -> list[str]:
    """Ways in which images may be called, by what all names begin or end with; the plain one first."""
    names = [str(file.place) for file in images]
    if len(names) < 2:
        return ["{id}"]
    before = re.match(r"(?:.*[_\-. ])?", _common(names))
    after = re.match(r"(?:.*[_\-. ])?", _common([name[::-1] for name in names]))
    assert before is not None
    assert after is not None
    ends = (("", ""), ("", after[0][::-1]), (before[0], ""), (before[0], after[0][::-1]))
    return list(dict.fromkeys(f"{first}{{id}}{last}" for first, last in ends))


def _common(names: Sequence[str]) -> str:
    """What all of some names begin with."""
    low, high = min(names), max(names)
    same = next((k for k, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    return low[:same]


def _named(images: Sequence[_File], template: str) -> set[str]:
    return {id for file in images if (id := _matched(template, str(file.place))) is not None}


def _share(masks: Sequence[_File], ids: Collection[str]) -> set[str]:
    """The ids that have masks."""
    return {id for _, own in _masks(masks, ids).values() for id in own}


def _masks(masks: Sequence[_File], ids: Collection[str]) -> dict[str, tuple[Way, set[str]]]:
    """Ways in which masks of samples are called, by template from the data on, and the ids that have one."""
    samples: dict[str, set[str]] = defaultdict(set)
    suffixes: dict[str, list[str]] = defaultdict(list)
    for file in masks:
        id = _id_in(str(file.place), ids)
        if id is not None:
            template = _template(str(file.place), id)
            samples[template].add(id)
            suffixes[template].append(file.suffix)
    found = {}
    for template, own in samples.items():
        usual = _usual(suffix for suffix in suffixes[template] if suffix.lower() in LOSSLESS)
        if len(own) >= SOME * len(ids) and usual:
            folder = _folder_in(template)
            found[template] = Way(folder or ".", template.removeprefix(f"{folder}/"), usual), own
    return found


def _folder_in(template: str) -> str:
    """The folders of a template before the first that names a sample."""
    parts = template.split("/")
    first = next(k for k, part in enumerate(parts) if "{id}" in part)
    return "/".join(parts[:first])


def _id_in(place: str, ids: Collection[str]) -> str | None:
    """The longest of the ids that are in a place from one of its words to another."""
    begins = [0, *(match.end() for match in re.finditer(r"[^A-Za-z0-9]", place))]
    ends = [*(match.start() for match in re.finditer(r"[^A-Za-z0-9]", place)), len(place)]
    found = [place[begin:end] for begin in begins for end in ends if begin < end and place[begin:end] in ids]
    return max(found, key=len, default=None)


def _without_plain_words(ways: dict[str, Way]) -> dict[str, Way]:
    """Ways by the words that tell them apart, all in the folder that they share."""
    if len(ways) == 1:
        return {"": next(iter(ways.values()))}
    shared = _shared_folder([way.folder for way in ways.values()])
    named = {}
    for template, way in ways.items():
        words = [word for word in re.split(r"[/_\-. ]+|\{id\}", template) if word]
        told = [word for word in words if not MASKS.fullmatch(_letters(word))] or words
        place = f"{way.folder}/{way.template}".removeprefix("./").removeprefix(f"{shared}/")
        named["_".join(told).lower()] = Way(shared or ".", place, way.suffixes)
    return named


def _shared_folder(folders: Iterable[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return "/".join(shared).removeprefix(".")


def _usual(suffixes: Iterable[str]) -> tuple[str, ...]:
    """All suffixes, the most frequent first."""
    return tuple(suffix for suffix, _ in Counter(suffixes).most_common())
