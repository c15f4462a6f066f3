"""Where a study's samples come from, and into which parts subjects are split."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, StrictFloat, StrictInt, model_validator

from segcft.config.section import Fraction, Section
from segcft.config.variable import Variable

Percent = Annotated[float, Field(ge=0, le=100)]


class FolderKeys(Section):
    """Images and masks in folders, attributes in a CSV table.

    ``file`` says how images are called where they are not called as the samples, e.g. ``"{id}_0000.nii.gz"`` below the
    folder of ``images``. ``table: null`` says that there is none: every image is a sample, and there are no attributes.
    ``columns`` maps a variable to its column where the names differ. ``patient`` names the column that groups
    images of one subject (default: every image is a subject). ``split`` names a column with
    train/validation/test where the split is given.

    Grey values are scaled by the whole range of the file's type, or from ``grey_range`` (e.g. [0, 4095] for 12
    bits in a 16-bit file), or between two percentiles of each image (``window``, e.g. [0.5, 99.5]). A sample
    with an empty mask is left out, unless ``may_be_absent`` lists the structure or its area is ``zero_inflated``.

    ``nifti_axes`` says how arrays in NIfTI files lie where their headers do not say it, or are wrong: ``header``, as
    they say or by NIfTI's default; ``xy``, the first axis goes to the right of the picture and the second down;
    ``yx``, the first goes down and the second to the right. ``thin_structures``: structures may be a pixel wide, so
    label maps are not searched for values that interpolation made. ``ignore_spacing``: images whose headers contradict
    ``image.field_of_view`` are taken none the less. ``spacing`` is the height and the width of a pixel of the files in
    mm, each a number or the column that has it for each image; headers say it by default. ``keep`` lists further
    columns of the table that the samples keep, as text, for ``evaluation.pairs``.
    """

    LATER = frozenset({"nifti_axes", "thin_structures", "ignore_spacing", "spacing", "keep", "file"})

    images: str = "images"
    file: str | None = None
    masks: str = "masks"
    table: str | None = "metadata.csv"
    id: str = "id"
    patient: str | None = None
    split: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    grey_range: tuple[float, float] | None = None
    window: tuple[Percent, Percent] | None = None
    may_be_absent: tuple[str, ...] = ()
    nifti_axes: Literal["header", "xy", "yx"] | None = None
    thin_structures: bool = False
    ignore_spacing: bool = False
    spacing: tuple[PositiveFloat | str, PositiveFloat | str] | None = None
    keep: tuple[str, ...] = ()

    @property
    def stated(self) -> tuple[float, float] | None:
        """Height and width in mm of a pixel of every file, if they are numbers."""
        if self.spacing is None or isinstance(self.spacing[0], str) or isinstance(self.spacing[1], str):
            return None
        return self.spacing[0], self.spacing[1]

    @model_validator(mode="after")
    def _names_images(self) -> Self:
        if self.file is not None and "{id}" not in self.file:
            raise ValueError("'file' must contain '{id}', e.g. '{id}_0000.nii.gz'")
        return self

    @model_validator(mode="after")
    def _columns_are_of_a_table(self) -> Self:
        columns = [one for one in self.spacing or () if isinstance(one, str)]
        named = {"patient": self.patient, "split": self.split, "columns": self.columns, "keep": self.keep}
        said = [key for key, value in (named | {"spacing": columns}).items() if value]
        if self.table is None and said:
            raise ValueError(f"'{said[0]}' names columns of a table, and there is none (table: null)")
        return self

    @model_validator(mode="after")
    def _one_grey_scale(self) -> Self:
        if self.grey_range is not None and self.window is not None:
            raise ValueError("give one of 'grey_range' and 'window', not both")
        for key, limits in (("grey_range", self.grey_range), ("window", self.window)):
            if limits is not None and not limits[0] < limits[1]:
                raise ValueError(f"'{key}' goes from a smaller to a larger number, not {list(limits)}")
        return self


class FolderData(FolderKeys):
    """One folder of images and masks; paths are relative to ``--data DIR``. See :class:`FolderKeys`."""

    source: Literal["folder"]

    @property
    def common(self) -> FolderKeys:
        """How an image of another folder is read."""
        return self

    @property
    def every(self) -> dict[str, FolderKeys]:
        """All folders, by where the study has them."""
        return {"data": self}


class SourceFolder(FolderKeys):
    """One of several sources, as one hospital's images are; see :class:`FolderKeys`.

    ``folder`` is inside ``--data DIR``, by default called as the source is; all other paths are relative to it.
    ``values`` are those of variables that are the same for all its samples, as the hospital is. ``lacks`` names
    variables that its table does not have: of its samples they are missing. ``masked: false`` says that its images have
    no masks, so nothing measured is known of them.
    """

    folder: Annotated[str, Field(min_length=1)] | None = None
    values: dict[str, str | StrictInt | StrictFloat] = Field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    masked: bool = True

    @model_validator(mode="after")
    def _is_inside(self) -> Self:
        if self.folder is not None and (PurePath(self.folder).is_absolute() or ".." in PurePath(self.folder).parts):
            raise ValueError(f"'folder' is inside --data DIR, and {self.folder!r} is not")
        return self


class SeveralFolders(Section):
    """Several folders, each a source of its own: they differ in files, columns, masks, and in what they lack."""

    source: Literal["folders"]
    folders: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], SourceFolder] = Field(min_length=1)

    @model_validator(mode="after")
    def _keep_the_same(self) -> Self:
        kept = {name: set(folder.keep) for name, folder in self.folders.items()}
        first = next(iter(kept))
        for name, columns in kept.items():
            if columns != kept[first]:
                raise ValueError(f"folders.{name}.keep: all sources keep the same columns, and {first!r} keeps others")
        places = [(folder.folder or name, folder.images) for name, folder in self.folders.items()]
        for name, place in zip(self.folders, places, strict=True):
            if places.count(place) > 1:
                raise ValueError(f"folders.{name}.folder: another source has these images, too: {'/'.join(place)}")
        return self

    @property
    def common(self) -> FolderKeys:
        """What all sources say alike, and the default of what they do not: how an image of none of them is read."""
        first, *others = self.folders.values()
        said = {key: getattr(first, key) for key in FolderKeys.model_fields}
        return FolderKeys(**{k: v for k, v in said.items() if all(getattr(one, k) == v for one in others)})

    @property
    def every(self) -> dict[str, FolderKeys]:
        """All folders, by where the study has them."""
        return {f"data.folders.{name}": folder for name, folder in self.folders.items()}

    @property
    def may_be_absent(self) -> tuple[str, ...]:
        """The structures whose masks may be empty in a source."""
        return tuple(dict.fromkeys(name for folder in self.folders.values() for name in folder.may_be_absent))

    @property
    def keep(self) -> tuple[str, ...]:
        """The further columns of every source's table that samples keep."""
        return next(iter(self.folders.values())).keep

    @property
    def patient(self) -> str | None:
        """The column of patients of one source, if every one has one."""
        named = [folder.patient for folder in self.folders.values()]
        return named[0] if all(named) else None

    @property
    def split(self) -> str | None:
        """The column that gives the split, of the first source that has one."""
        return next((folder.split for folder in self.folders.values() if folder.split is not None), None)

    def check(self, variables: Mapping[str, Variable], told: Collection[str]) -> None:
        """Check what is said of the variables of a study, ``told`` by masks or by a formula or not.

        Raises:
            ValueError: a variable is unknown, follows from others or from masks, or cannot have the value.
        """
        for source, folder in self.folders.items():
            for key, names in (("values", folder.values), ("lacks", folder.lacks)):
                for name in names:
                    if name not in variables or name in told:
                        known = ", ".join(one for one in variables if one not in told)
                        raise ValueError(f"data.folders.{source}.{key}: {name!r} is no attribute ({known})")
            for name, value in folder.values.items():
                where, categories = f"data.folders.{source}.values.{name}", variables[name].categories
                if name in folder.lacks or name in folder.columns:
                    raise ValueError(f"{where}: its samples have one value, so leave it out of 'lacks' and 'columns'")
                if categories and str(value) not in categories:
                    raise ValueError(f"{where}: {value!r} is not one of {', '.join(categories)}")
                if not categories and (isinstance(value, str) or not math.isfinite(value)):
                    raise ValueError(f"{where}: {value!r} is not a number")
                if not categories and not variables[name].allows(float(value)):
                    raise ValueError(f"{where}: {value!r} is not what {name} can be, which is on a log scale")
            for name in folder.lacks:
                if name in folder.columns:
                    raise ValueError(f"data.folders.{source}.lacks: {name!r} has a column in 'columns'; leave out one")


Files = FolderData | SeveralFolders
"""Data that are read from files."""


class Confounding(Section):
    """How people look goes with one of their areas, among those who train and in validation alone; see
    :class:`segcft.simulate.shortcut.Shortcut`."""

    variable: str
    quality: Literal["exposure", "body"] = "exposure"
    rho: Annotated[float, Field(ge=-1, le=1)]


class SimulatedData(Section):
    """Subjects drawn from a simulator that ships with the package. No table says anything of them, and an image of
    another source is read by the defaults."""

    LATER = frozenset({"confounding"})

    common: ClassVar[FolderKeys] = FolderKeys()
    every: ClassVar[dict[str, FolderKeys]] = {}
    keep: ClassVar[tuple[str, ...]] = ()
    may_be_absent: ClassVar[tuple[str, ...]] = ()
    patient: ClassVar[None] = None
    split: ClassVar[None] = None

    VOLUMES: ClassVar[tuple[str, ...]] = ("volume-simulator",)

    source: Literal[
        "chest-simulator", "coronary-simulator", "pendulum-simulator", "retina-simulator", "volume-simulator"
    ]
    people: PositiveInt
    seed: NonNegativeInt = 0
    confounding: Confounding | None = None

    @property
    def axes(self) -> int:
        """Axes of space of what is drawn."""
        return 3 if self.source in self.VOLUMES else 2


class Splits(Section):
    """Shares of the subjects in each part; which part depends on ``seed`` and the patient's id alone.

    Subjects of the part ``judge`` train the judge and nothing else; without any it is trained on those of ``train``.
    With ``folds`` every subject is tested once, in one of so many runs: ``fold``, from 1, says which of them the
    study is of; without it the study is of all. In a fold, the other parts divide by their shares who is not tested.
    """

    LATER = frozenset({"judge", "folds", "fold"})

    train: Fraction = 0.72
    judge: Fraction = 0.0
    validation: Fraction = 0.08
    test: Fraction = 0.2
    seed: NonNegativeInt = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: PositiveInt | None = None

    @property
    def in_folds(self) -> bool:
        """Whether the study is that of all folds, each of which has parts of its own."""
        return self.folds is not None and self.fold is None

    @model_validator(mode="after")
    def _is_a_fold(self) -> Splits:
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ValueError("'fold' is one of 'folds', from 1")
        return self

    @model_validator(mode="after")
    def _sums_to_one(self) -> Splits:
        total = self.train + self.judge + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, judge, validation and test must add up to 1, not {total:g}")
        if min(self.train, self.test) == 0:
            raise ValueError("train and test must not be empty")
        return self
