"""The settings of the stages of a study, but for the segmentors' and the image mechanism's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from segcft.config.section import Augment, Fraction, Section, Training

FEWEST_DRAWS = 40
"""Bootstrap draws of which one lies beyond each end of a 95 % interval."""


class RegressorSpec(Training):
    """A ResNet (He 2016, as in MONAI) from the image to all structure areas, or to what it shows of attributes."""

    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 128)
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1, 1)


class SCMSpec(Training):
    """Conditional neural spline flows (Durkan 2019) and categorical mechanisms of the attributes."""

    hidden: tuple[PositiveInt, ...] = (32, 32)
    bins: PositiveInt = 8
    transforms: PositiveInt = 1


class FinetuneSpec(Training):
    """Counterfactual fine-tuning with each of the ``guides``, under a constraint on the ELBO. Without structures the
    one guide is the ``predictor``; with them it guides beside each of the others.

    ``intervene`` lists the variables of which one, per sample, is set to a value from the training marginal
    (default: all); each of the others is set as well with probability ``also``. ``abduction`` takes a sample of the
    posterior or its mean, for the counterfactual and for the ELBO alike. The negative ELBO (nats per
    pixel) may pass that of the pre-trained model, measured on ``bound_batches`` training batches, by ``slack``;
    ``multiplier`` starts at this value, rises with ``multiplier_learning_rate`` while it is passed and falls while it
    is not; ``damping`` acts at once. ``area_scale`` makes structures weigh alike: measures are divided by their
    standard deviation, by that which the other variables leave unexplained, or by their mean; ``guide_loss`` is of the
    difference that remains, ``absolute`` being rounded at the bottom (below ``rounding``).

    ``least_change`` weighs the share of pixels that change, where a change d (image in [-1, 1]) counts as
    ``|d| / (|d| + change_scale)``, if the ``price`` is ``fixed``. With ``floor`` there is no weight to choose: pixels
    are free for the share ``price_from`` of the steps, then as dear as they can be while the guide's error is within
    ``price_slack`` (relative) of the least that it has been.

    The guide sees counterfactuals through a random ``view`` each, so that textures which please it as they are do not
    help: only what it reads from every side counts. A view may turn, shift and change grey values, and no more.
    """

    LATER = frozenset({"price", "price_from", "price_slack", "view"})

    guides: tuple[Literal["regressor", "segmentor", "predictor"], ...] = ("regressor", "segmentor")
    intervene: tuple[str, ...] = ()
    also: Fraction = 0.0
    abduction: Literal["sample", "mean"] = "sample"
    slack: NonNegativeFloat = 0.0
    bound_batches: PositiveInt = 16
    multiplier: NonNegativeFloat = 1.0
    multiplier_learning_rate: PositiveFloat = 1e-2
    damping: NonNegativeFloat = 10.0
    area_scale: Literal["std", "mean", "given others"] = "std"
    guide_loss: Literal["squared", "absolute"] = "squared"
    rounding: PositiveFloat = 0.1
    least_change: NonNegativeFloat = 0.0
    change_scale: PositiveFloat = 0.03
    price: Literal["fixed", "floor"] = "fixed"
    price_from: Fraction = 0.2
    price_slack: PositiveFloat = 0.05
    view: Augment = Augment()

    @model_validator(mode="after")
    def _one_price(self) -> FinetuneSpec:
        if self.price == "floor" and self.least_change:
            raise ValueError("least_change: with 'price: floor' pixels have no fixed price; leave this key out")
        return self

    @model_validator(mode="after")
    def _views_keep_measures(self) -> FinetuneSpec:
        changes = {key: getattr(self.view, key) for key in ("scale", "stretch", "elastic", "hide")}
        for key, amount in (changes | {"deform": self.view.deform.share}).items():
            if amount:
                raise ValueError(f"view: {key!r} would change what the guide is asked for; leave it out")
        return self


class PairsSpec(Section):
    """Which images of a subject are of the same thing under two conditions: the one is the truth about the other.

    ``condition`` is the categorical variable that differs, e.g. the phase of the heartbeat. ``place`` lists what is the
    same in both, beside the subject: categorical variables, or columns that ``data.keep`` has.
    """

    condition: str
    place: tuple[str, ...] = ()


class EvaluationSpec(Section):
    """How counterfactuals are judged: subjects at most, bootstrap draws, and the pictures' extent.

    ``seed`` chooses the values that are asked for, and the subjects where ``people`` are fewer than there are, unless
    these have a ``people_seed`` of their own.
    ``metric`` of effectiveness: ``mape`` in %, or ``mae`` in the study's area unit (where areas may be zero).
    ``interventions`` lists the variables to intervene on, one at a time (default: the structures' areas).
    ``dilation`` of the structures for locality and ``figure_changes`` (relative) are shares of 1. ``progression``
    lists variables that rise together in a figure of their own, through ``progression_quantiles`` of the training
    subjects'. ``pairs`` says which images are each other's true counterfactual. ``groups`` are variables, or columns
    that the samples keep: of the subjects who have the same value, or half of the numbers, there are tables of their
    own.
    """

    LATER = frozenset({"pairs", "groups", "people_seed"})

    metric: Literal["mape", "mae"] = "mape"
    interventions: tuple[str, ...] = ()
    people: PositiveInt | None = None
    people_seed: NonNegativeInt | None = None
    batch_size: PositiveInt = 64
    bootstrap: Annotated[int, Field(ge=FEWEST_DRAWS)] = 1000
    dilation: Fraction = 0.04
    figure_people: PositiveInt = 3
    figure_changes: tuple[float, ...] = (-0.3, -0.15, 0.15, 0.3)
    progression: tuple[str, ...] = ()
    progression_quantiles: tuple[Fraction, ...] = (0.05, 0.5, 0.75, 0.9, 0.98)
    pairs: PairsSpec | None = None
    groups: tuple[str, ...] = ()
    seed: NonNegativeInt = 0
