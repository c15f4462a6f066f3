"""A segmentor from elsewhere, as a file describes it that lies beside its network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from segcft.config.section import Section


class ForeignReader(Section):
    """What a network expects of images, and what it says of them.

    ``network`` is its file, from this one's folder: ONNX (``.onnx``) or TorchScript (``.pt``). It takes one array
    (B, C, height, width), of so many ``channels`` and of this ``size``, by default those of the study, whose black and
    white are ``range``. It gives one (B, outputs, height, width): ``logits`` of masks, ``probabilities``, or logits of
    ``classes`` that exclude each other. Of volumes both have a depth before the height. ``structures`` are all masks of
    the study, each with the outputs that make it up, counted from 0.
    """

    network: str = Field(pattern=r"\.(onnx|pt)$")
    structures: dict[str, tuple[NonNegativeInt, ...]] = Field(min_length=1)
    gives: Literal["logits", "probabilities", "classes"] = "logits"
    range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    size: tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    channels: PositiveInt | None = None

    @model_validator(mode="after")
    def _greys_and_outputs(self) -> ForeignReader:
        if self.range[0] == self.range[1]:
            raise ValueError("range: black and white are two numbers")
        for name, outputs in self.structures.items():
            if not outputs or len(set(outputs)) < len(outputs):
                raise ValueError(f"structures.{name}: name outputs of the network, each once")
        return self
