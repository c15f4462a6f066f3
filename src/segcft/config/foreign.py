"""Networks from elsewhere, as a file describes them that lies beside them: segmentors, classifiers, regressors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from segcft.config.section import Section

CODE = r"^([\w./-]+\.py|\w+(\.\w+)*):\w+$"


class Expected(Section):
    """What a network expects of images: so many ``channels`` and this ``size``, by default those of the study, whose
    black and white are ``range``."""

    range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    size: tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    channels: PositiveInt | None = None

    @model_validator(mode="after")
    def _greys(self) -> Expected:
        if self.range[0] == self.range[1]:
            raise ValueError("range: black and white are two numbers")
        return self


class ForeignReader(Expected):
    """What a segmentor expects of images, and what it says of them.

    ``network`` is its file, from this one's folder: ONNX (``.onnx``) or TorchScript (``.pt``). It takes one array
    (B, C, height, width). It gives one (B, outputs, height, width): ``logits`` of masks, ``probabilities``, or logits
    of ``classes`` that exclude each other. ``structures`` are all masks of the study, each with the outputs that make
    it up, counted from 0.
    """

    network: str = Field(pattern=r"\.(onnx|pt)$")
    structures: dict[str, tuple[NonNegativeInt, ...]] = Field(min_length=1)
    gives: Literal["logits", "probabilities", "classes"] = "logits"

    @model_validator(mode="after")
    def _outputs(self) -> ForeignReader:
        for name, outputs in self.structures.items():
            if not outputs or len(set(outputs)) < len(outputs):
                raise ValueError(f"structures.{name}: name outputs of the network, each once")
        return self


class Outputs(Expected):
    """What a classifier or regressor says of an image.

    ``outputs`` are those that are looked at, by names of your own, counted from 0. The network gives (B, all outputs):
    ``logits``, ``probabilities``, logits of ``classes`` that exclude each other, or ``numbers``.
    """

    outputs: dict[str, NonNegativeInt] = Field(min_length=1)
    gives: Literal["logits", "probabilities", "classes", "numbers"] = "logits"


class ForeignClassifier(Outputs):
    """A classifier or regressor from elsewhere.

    ``network`` is its file, from this one's folder: ONNX (``.onnx``), TorchScript (``.pt``) or weights
    (``.safetensors``). ``code`` is Python, ``FILE.py:NAME`` from this one's folder or ``package.module:NAME``: of
    weights the class of their network, which is called with ``arguments``; without a ``network`` any callable from
    images (B, C, height, width), or volumes (B, C, depth, height, width), to (B, outputs).
    """

    network: str = Field(default="", pattern=r"^$|\.(onnx|pt|safetensors)$")
    code: str = Field(default="", pattern=rf"^$|{CODE}")
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _what_runs(self) -> ForeignClassifier:
        weights = self.network.endswith(".safetensors")
        if not self.network and not self.code:
            raise ValueError("network: name its file, or the Python 'code' that is to be called")
        if weights and not self.code:
            raise ValueError("code: weights need the class of their network, e.g. theirs.py:Net")
        if self.code and self.network and not weights:
            raise ValueError("code: ONNX and TorchScript hold their own; leave it out")
        if self.arguments and not weights:
            raise ValueError("arguments: they are those of the class of weights in .safetensors")
        return self
