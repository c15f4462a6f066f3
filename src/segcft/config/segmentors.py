"""The settings of segmentors: the sections ``segmentor`` and ``judge`` of a study.

An architecture has a class of settings here (:data:`SEGMENTOR_SPECS`) and a network of the same name
(:data:`segcft.readers.segmentor.SEGMENTORS`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PlainValidator, PositiveInt, SerializeAsAny

from segcft.config.architecture import by_architecture
from segcft.config.section import Training
from segcft.utils.registry import Registry, subclass_of

DEFAULT = "unet"
"""The architecture of a section that names none."""


class SegmentorSpec(Training):
    """Training of a segmentor; ``architecture`` is its name in :data:`SEGMENTOR_SPECS`.

    ``loss`` is cross-entropy, the Dice loss, as in the paper, or both. Cross-entropy alone is a proper scoring rule, so
    that probabilities, and their sum, are calibrated; the Dice loss rewards masks that are surer than the segmentor is.
    A probability below ``faint`` counts as none: in volumes a thousandth of all that is background is as much as a
    twentieth of a small structure.
    """

    LATER = frozenset({"loss", "faint"})

    architecture: str
    loss: Literal["dice+cross-entropy", "cross-entropy", "dice"] = "dice+cross-entropy"
    faint: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


SEGMENTOR_SPECS: Registry[type[SegmentorSpec]] = Registry(
    "segmentor", "segcft.readers", check=subclass_of(SegmentorSpec)
)
"""Architecture -> the class of its settings."""


SegmentorSection = Annotated[
    SerializeAsAny[SegmentorSpec], PlainValidator(by_architecture(SEGMENTOR_SPECS, SegmentorSpec, DEFAULT))
]
"""The sections ``segmentor`` and ``judge``, read by the class of settings that their ``architecture`` names."""


class UNetSpec(SegmentorSpec):
    """A U-Net (Ronneberger 2015, as in MONAI): one width a level, each level half the size of the last."""

    LATER = SegmentorSpec.LATER | {"architecture"}

    architecture: Literal["unet"] = "unet"
    widths: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    residual_units: NonNegativeInt = 1


class SegResNetSpec(SegmentorSpec):
    """The decoder is a light one, and what it has of the encoder is added (Myronenko 2018, as in MONAI).

    ``width`` is that of the first level; each level is half the size of the last and twice as wide. ``blocks`` are
    residual blocks of the encoder, a number a level; the decoder has one a level.
    """

    architecture: Literal["segresnet"] = "segresnet"
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 16
    blocks: tuple[PositiveInt, ...] = (1, 1, 1, 1)


SEGMENTOR_SPECS.add(DEFAULT, UNetSpec)
SEGMENTOR_SPECS.add("segresnet", SegResNetSpec)
