"""What makes, of data in their own format, a folder that a study reads: an importer, known by its name.

An importer is a frozen dataclass, whose fields are its options, with one method. This is a whole one::

    @dataclass(frozen=True, kw_only=True)
    class Toy(Importer):
        name = "toy"
        summary = "make a folder of toy scans"

        table: Path = option(TABLE, "a row a scan: id, file and age")
        size: tuple[int, int] = option(SIZE, "of the images, in pixels", (32, 32))

        def convert(self, out: Path, progress: Progress | None = None) -> Summary:
            ...  # lists items and calls segcft.importers.convert.convert

    IMPORTERS.add(Toy.name, Toy)

``segcft import toy --table scans.csv --out FOLDER`` runs it, ``Toy(table=..., size=...).convert(folder)`` as well.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from segcft.errors import Code, DataError
from segcft.importers.options import COUNT, SIZE, SPLITS, Option, option
from segcft.utils.progress import Progress
from segcft.utils.registry import Registry, subclass_of

if TYPE_CHECKING:
    import torch

    from segcft.config.sources import Splits
    from segcft.importers.convert import Summary
    from segcft.importers.masks import Plausibility, Segmenter


@dataclass(frozen=True, kw_only=True)
class Importer(ABC):
    """Converts a data set in its own format. Fields that are made by :func:`~segcft.importers.options.option` are
    options of the command line; Python alone gives the others.

    Attributes:
        name: of the format, as in ``segcft import NAME``.
        summary: what the command does, for help.
        needs: modules of other packages that must be installed.

    Raises:
        DataError: an option cannot be what it is, or a module is missing; the message names it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    splits: Splits | None = option(SPLITS, "of the split by patient", None, flag="--seed", shown="0", setting="")
    workers: int | None = option(COUNT, "threads", None, shown="one a core, at most 16", setting="")

    def __post_init__(self) -> None:
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                raise DataError(Code.NOT_INSTALLED, f"import {self.name}", f"needs {module}, which is not installed")
        for declared, found in options(type(self)):
            value = getattr(self, declared.name)
            if value is None and declared.default is None:
                continue
            try:
                found.check(value)
            except FileNotFoundError as error:
                raise DataError(Code.MISSING, flag(declared, found), f"{error}") from None
            except (TypeError, ValueError) as error:
                raise DataError(Code.INVALID, flag(declared, found), f"{error}") from None

    @abstractmethod
    def convert(self, out: Path, progress: Progress | None = None) -> Summary:
        """Convert to the folder ``out``; an interrupted conversion goes on.

        Args:
            out: folder to write; an existing one must be of a conversion with the same :attr:`settings`.
            progress: wraps loops over samples.

        Raises:
            DataError: the source cannot be read or contradicts itself, ``out`` holds something else, or no image is
                usable.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """The options that the result depends on, in JSON's types."""
        found: dict[str, Any] = {"format": self.name}
        for declared, about in options(type(self)):
            *sections, name = (declared.name if about.setting is None else about.setting).split(".")
            section = found
            for key in sections:
                section = section.setdefault(key, {})
            if name:
                section[name] = getattr(self, declared.name)
        return found


@dataclass(frozen=True, kw_only=True)
class RadiographImporter(Importer):
    """Converts radiographs, with the masks of :data:`segcft.importers.masks.BITS`.

    Attributes:
        plausibility: which masks to believe.
    """

    size: tuple[int, int] = option(SIZE, "of the images, in pixels", (256, 256))
    plausibility: Plausibility | None = None


@dataclass(frozen=True, kw_only=True)
class MaskedImporter(RadiographImporter):
    """Converts radiographs that come without masks.

    Attributes:
        otherwise: where masks come from by default, for help; "": there are none.
        segmenter: gives the masks; the command line makes it of a folder of masks or of a trained run.
    """

    otherwise: ClassVar[str] = ""

    segmenter: Segmenter | None = None
    batch_size: int = option(COUNT, "images segmented at once", 16, setting="")

    def default_segmenter(self, device: torch.device | str = "cpu") -> Segmenter | None:
        """What gives the masks where there is no :attr:`segmenter`."""
        return None


def options(importer: type[Importer]) -> list[tuple[Field[Any], Option]]:
    """The options of an importer, required ones first."""
    found = [(one, one.metadata["option"]) for one in fields(importer) if "option" in one.metadata]
    return sorted(found, key=lambda pair: pair[0].default is not MISSING)


def flag(declared: Field[Any], about: Option) -> str:
    """What the command line calls an option."""
    if about.flag is None:
        return "--" + declared.name.replace("_", "-")
    return about.flag or about.kind.metavar


IMPORTERS: Registry[type[Importer]] = Registry("importer", "segcft.importers.formats", check=subclass_of(Importer))
"""Name -> importer, as ``segcft import NAME``."""
