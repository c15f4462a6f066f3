"""What the module in ``clients/slicer`` calls of 3D Slicer between nodes and questions, as Slicer documents it.

It shows that the module's logic asks and puts back rightly. That Slicer itself takes part, only Slicer can show.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


@dataclass
class Display:
    """Of a volume: which values are black and white."""

    low: float
    high: float

    def GetWindow(self) -> float:  # noqa: N802
        return self.high - self.low

    def GetLevel(self) -> float:  # noqa: N802
        return (self.high + self.low) / 2

    def AutoWindowLevelOff(self) -> None:  # noqa: N802
        pass

    def SetWindowLevel(self, window: float, level: float) -> None:  # noqa: N802
        self.low, self.high = level - window / 2, level + window / 2


@dataclass
class Node:
    """A volume node: values (K, J, I), and the matrix from indices (i, j, k) to RAS."""

    name: str
    array: np.ndarray
    matrix: np.ndarray
    display: Display = field(default_factory=lambda: Display(0, 255))
    transform: str = "transform"
    attributes: dict[str, str] = field(default_factory=dict)

    def GetName(self) -> str:  # noqa: N802
        return self.name

    def GetDisplayNode(self) -> Display:  # noqa: N802
        return self.display

    def GetSpacing(self) -> tuple[float, ...]:  # noqa: N802
        return tuple(np.linalg.norm(self.matrix[:3, :3], axis=0).tolist())

    def GetIJKToRASMatrix(self, matrix: Any) -> None:  # noqa: N802
        for row in range(4):
            for column in range(4):
                matrix.SetElement(row, column, self.matrix[row, column])

    def GetTransformNodeID(self) -> str:  # noqa: N802
        return self.transform

    def SetAndObserveTransformNodeID(self, transform: str) -> None:  # noqa: N802
        self.transform = transform

    def SetAttribute(self, name: str, value: str) -> None:  # noqa: N802
        self.attributes[name] = value

    def SetDescription(self, text: str) -> None:  # noqa: N802
        self.attributes["description"] = text


class _Volumes:
    def CloneVolume(self, scene: object, node: Node, name: str) -> Node:  # noqa: N802
        return replace(node, name=name, display=replace(node.display), transform="", attributes={})


def _matrix(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def stand_ins() -> dict[str, ModuleType]:
    """Modules by their names."""
    slicer, base, qt, ctk = (ModuleType(name) for name in ("slicer", "slicer.ScriptedLoadableModule", "qt", "ctk"))
    for kind in ("", "Logic", "Test", "Widget"):
        name = f"ScriptedLoadableModule{kind}"
        setattr(base, name, type(name, (), {}))
    told: dict[str, Any] = {
        "mrmlScene": object(),
        "modules": SimpleNamespace(volumes=SimpleNamespace(logic=_Volumes)),
        "util": SimpleNamespace(
            arrayFromVolume=lambda node: node.array,
            arrayFromVTKMatrix=_matrix,
            updateVolumeFromArray=lambda node, values: setattr(node, "array", values),
            setSliceViewerLayers=lambda **_: None,
        ),
    }
    for name, value in told.items():
        setattr(slicer, name, value)
    return {"slicer": slicer, "slicer.ScriptedLoadableModule": base, "qt": qt, "ctk": ctk}
