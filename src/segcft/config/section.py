"""What the sections of a study file have in common: strict reading, and the budget of a stage that trains."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a study file: unknown keys are errors, values do not change after reading.

    ``LATER`` names keys that came after version 0.1.0. They are written only where they are not at their default, so
    that what was imported and trained before has the same digest. A subclass names its own; those of its bases hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = serialise(self)
        later = frozenset[str]().union(*(vars(base).get("LATER", ()) for base in type(self).__mro__))
        fields = type(self).model_fields
        default = {name for name in later if getattr(self, name) == fields[name].get_default(call_default_factory=True)}
        return {name: value for name, value in written.items() if name not in default}


class LocalDeformation(Section):
    """Self-supervised interventions: of a ``share`` of the samples one structure, drawn at random, is scaled along its
    axes by factors of up to about ``exp(spread)`` or its inverse, while what is far from it stays."""

    share: Fraction = 0.0
    spread: Annotated[float, Field(ge=0, le=0.4)] = 0.3


class Film(Section):
    """What other hospitals do to radiographs: each of the following, by itself, to a ``share`` of the samples.

    ``window``: black and white are grey levels below and above which up to this share of the pixels lie. ``gamma``: an
    exponent between exp(-``gamma``) and exp(``gamma``). ``exposure``: a smooth field of brightness with this standard
    deviation, the image being in [-1, 1]. ``blur``: up to so many pixels. ``marks`` and ``tubes``: up to so many
    letters and bright lines. ``border``: a collimator covers up to this share of each side; masks end there.
    ``invert``: whether the image may be a negative.
    """

    share: Fraction = 0
    window: Annotated[float, Field(ge=0, le=0.25)] = 0.1
    gamma: NonNegativeFloat = 1.0
    exposure: NonNegativeFloat = 0.3
    blur: NonNegativeFloat = 1.5
    marks: NonNegativeInt = 3
    tubes: NonNegativeInt = 2
    border: Annotated[float, Field(ge=0, le=0.4)] = 0.12
    invert: bool = False


class Augment(Section):
    """Random deformation of image and masks together, then of grey values; 0 turns a part off.

    ``rotate`` in degrees; ``shift``, ``scale`` and ``elastic`` (amplitude of a smooth displacement with
    ``elastic_nodes`` nodes a side) as shares of the image; ``stretch`` is an extra scale of one axis;
    ``gamma`` and ``contrast`` as relative ranges; ``brightness`` and ``noise`` (a standard deviation), image in
    [-1, 1]. All are half-widths of uniform ranges except ``elastic`` and ``noise``. ``hide`` covers a rectangle, whose
    sides are up to this share of the image's, with its mean grey. With ``deform`` one structure alone becomes larger or
    smaller, before all else. ``film`` is what other hospitals do to radiographs.
    """

    LATER = frozenset({"hide", "deform", "film"})

    rotate: NonNegativeFloat = 0
    shift: NonNegativeFloat = 0
    scale: NonNegativeFloat = 0
    stretch: NonNegativeFloat = 0
    elastic: NonNegativeFloat = 0
    elastic_nodes: PositiveInt = 4
    gamma: NonNegativeFloat = 0
    contrast: NonNegativeFloat = 0
    brightness: NonNegativeFloat = 0
    noise: NonNegativeFloat = 0
    hide: Fraction = 0
    deform: LocalDeformation = LocalDeformation()
    film: Film = Film()

    @property
    def warps(self) -> bool:
        """Whether the whole frame is deformed."""
        return any((self.rotate, self.shift, self.scale, self.stretch, self.elastic))

    @property
    def deforms(self) -> bool:
        """Whether measures change."""
        return self.warps or self.deform.share > 0 or (self.film.share > 0 and self.film.border > 0)

    @property
    def changes_greys(self) -> bool:
        return any((self.gamma, self.contrast, self.brightness, self.noise, self.hide, self.film.share))


class Training(Section):
    """Budget and optimiser (AdamW) of one stage; the global batch size is shared by all devices.

    ``ema`` is the decay of the exponential moving average of the weights, which is what is kept (0: none).
    ``precision: bf16`` runs the networks under bfloat16 autocast; weights and losses stay in float32.
    The learning rate rises linearly over ``warmup_steps`` and then falls along a cosine to
    ``final_learning_rate`` (a share of it). Steps with a gradient norm over ``gradient_skip`` are skipped.
    ``accumulate`` works each device's share of a batch off in so many parts, which takes less memory: a part is what
    one of so many more devices would have.

    With ``patience`` the training ends when validation stops improving, and ``steps`` is the most that it takes: the
    learning rate stays at its peak until then, and falls at the end. Validation is every ``validate_steps`` steps, and
    ``patience`` counts validations. See :mod:`segcft.training.schedule`.
    """

    LATER = frozenset({"patience", "validate_steps"})

    steps: PositiveInt
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 1e-3
    final_learning_rate: Fraction = 0.0
    weight_decay: NonNegativeFloat = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    warmup_steps: NonNegativeInt = 50
    gradient_clip: PositiveFloat | None = None
    gradient_skip: PositiveFloat | None = None
    ema: Fraction = 0.0
    precision: Literal["32", "bf16"] = "32"
    accumulate: PositiveInt = 1
    checkpoint_steps: PositiveInt = 200
    seed: NonNegativeInt = 0
    augment: Augment = Augment()
    patience: PositiveInt | None = None
    validate_steps: PositiveInt = 50

    @model_validator(mode="after")
    def _validation_serves_patience(self) -> Self:
        if self.patience is None and self.validate_steps != type(self).model_fields["validate_steps"].default:
            raise ValueError("validate_steps: nothing is validated in the training without 'patience'; give both")
        return self

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate: the {self.batch_size} samples of batch_size cannot be worked off in {self.accumulate} "
                "equal parts"
            )
        return self
