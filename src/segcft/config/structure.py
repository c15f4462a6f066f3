"""What of an image has a mask, and which measures of it are variables, as a study file describes it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from segcft.config.section import Fraction, Section


class Zone(Section):
    """A part of the frame or of a structure: from ``begin`` to ``end``, shares of its length along an ``axis``.

    ``x`` runs to the right, ``y`` down, and in volumes ``z`` from the first slice to the last. Along a vessel that is
    straightened to lie along x, the thirds of the frame are its proximal, middle and distal part.
    """

    axis: Literal["x", "y", "z"]
    begin: Fraction = 0
    end: Fraction = 1
    of: Literal["frame", "structure"] = "frame"

    @model_validator(mode="after")
    def _has_a_length(self) -> Zone:
        if not self.begin < self.end:
            raise ValueError(f"'end' is a share behind 'begin', {self.begin:g}, not {self.end:g}")
        return self

    def within(self, other: Zone | None) -> bool:
        """Whether all of it is in another one; None is the whole."""
        if other is None:
            return True
        same = (self.axis, self.of) == (other.axis, other.of)
        return same and other.begin <= self.begin and self.end <= other.end

    def apart(self, other: Zone) -> bool:
        """Whether nothing of it is in another one."""
        same = (self.axis, self.of) == (other.axis, other.of)
        return same and (self.end <= other.begin or other.end <= self.begin)


class Mask(Section):
    """How mask files show a structure: by a ``bit`` (flag in a bit mask, e.g. 4) or a ``label`` (value in a label map)
    of the file that is called as the sample, or by a file of its own.

    ``file`` says how that one is called below the masks folder, e.g. ``"{id}_heart.png"``; or, beside a bit or a label,
    how the file is called that has them, e.g. ``"{id}_seg.nii.gz"``.
    """

    bit: PositiveInt | None = None
    label: PositiveInt | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _one_way_to_read(self) -> Self:
        if self.bit is not None and self.label is not None:
            raise ValueError("give one of 'bit' and 'label', not both")
        if self.bit is not None and self.bit & (self.bit - 1):
            raise ValueError(f"'bit' is a flag, so a power of two (1, 2, 4, ...), not {self.bit}")
        if self.file is not None and "{id}" not in self.file:
            raise ValueError("'file' must contain '{id}', e.g. '{id}_heart.png'")
        return self

    @property
    def has_own_file(self) -> bool:
        """Whether a file shows it and nothing else."""
        return self.file is not None and self.bit is None and self.label is None


class Structure(Mask):
    """A structure in the image, the variable that is a ``measure`` of it, and how a mask file shows it.

    With ``of`` it has no mask of its own: it is another measure of the structure that ``of`` names, or a measure of
    several of them together, or of what of them lies in a ``zone``. ``quantile`` is the share of it that is beyond a
    border, where the measure is of borders; ``reference`` the structure whose grey level is taken off, where it is of
    greys. Of all others one way to read them is given where masks come from files.
    """

    LATER = frozenset({"measure", "of", "zone", "quantile", "reference"})

    variable: str
    measure: str = "area"
    of: tuple[str, ...] = ()
    zone: Zone | None = None
    quantile: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    reference: str | None = None

    @model_validator(mode="after")
    def _one_mask(self) -> Structure:
        if self.of and (self.bit or self.label or self.file):
            raise ValueError("'of' says whose mask it is, so leave out 'bit', 'label' and 'file'")
        if self.zone is not None and not self.of:
            raise ValueError("'zone' is a part of another structure, which 'of' names")
        return self
