"""A module of 3D Slicer that asks segcft's server what the image of a volume node would have looked like.

``SegCftLogic`` is between nodes and questions, and ``SegCftWidget`` has the panel. All else is in ``segcft_client``,
which needs no Slicer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import ctk
import numpy as np
import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

try:
    import segcft_client
except ImportError:  # in the repository it is not beside this file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "client"))
    import segcft_client

from segcft_client import Changed, Client, Control, Scan, ServerError
from segcft_client.client import ADDRESS
from segcft_client.controls import summary

UNCHANGED = "as it is"
"""The choice of a category that asks for nothing."""
STEPS = 200
"""Of a slider."""
WIDEST = 40.0
"""Grey levels at which a difference is black or white, of the 255 that an image is shown in."""
SYNTHETIC = "Synthetic. For research only, not for clinical use."
ADDRESS_SETTING = "SegCft/address"


class SegCft(ScriptedLoadableModule):
    """What Slicer tells of the module."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title = "Counterfactuals (segcft)"
        parent.categories = ["Quantification"]
        parent.contributors = ["The authors of segcft"]
        parent.helpText = (
            "What would this image have looked like, had the heart been larger? Start a server (segcft app), choose a "
            f"model and a volume, move a slider. {SYNTHETIC}"
        )


class SegCftLogic(ScriptedLoadableModuleLogic):
    """Between volume nodes and questions."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Client(ADDRESS)

    def connect(self, address: str) -> list[str]:
        """The names of a server's models.

        Raises:
            ServerError: none answers there.
        """
        self.client = Client(address)
        return [model["name"] for model in self.client.models()]

    def controls(self, model: str) -> list[Control]:
        """See :func:`segcft_client.controls`."""
        return segcft_client.controls(self.client.model(model))

    def scan_of(self, node: Any) -> Scan:
        """What a scalar volume node shows: with one slice an image, in its window, else a volume, where it lies.

        Raises:
            ValueError: the node has no array of one channel.
        """
        values = slicer.util.arrayFromVolume(node)
        if values is None or values.ndim != 3:
            raise ValueError("Choose a volume of one channel.")
        matrix = slicer.util.arrayFromVTKMatrix(self._matrix(node))
        if len(values) > 1:
            return Scan(np.array(values), matrix)
        display = node.GetDisplayNode()
        window = None
        if display is not None:
            middle, half = display.GetLevel(), display.GetWindow() / 2
            window = (middle - half, middle + half)
        across, down, _ = node.GetSpacing()
        return Scan(np.array(values[0]), matrix, window, (down, across))

    def read(self, node: Any, model: str) -> dict[str, Any]:
        """See :func:`segcft_client.read`."""
        return segcft_client.read(self.client, model, self.scan_of(node))

    def ask(self, node: Any, model: str, do: Mapping[str, float | str]) -> tuple[Changed, Any, Any]:
        """The answer, and the nodes that it was loaded as: the counterfactual and the difference.

        Both have the geometry of ``node``, its matrix, its spacing and the transform that it is under.
        """
        changed = segcft_client.change(self.client, model, self.scan_of(node), do)
        asked = ", ".join(f"{name}={value}" for name, value in do.items())
        after = self._add(node, changed.values, f"{node.GetName()} synthetic {asked}")
        difference = self._add(node, changed.difference, f"{node.GetName()} difference {asked}")
        widest = WIDEST / 255 * self._width(node)
        display = difference.GetDisplayNode()
        display.AutoWindowLevelOff()
        display.SetWindowLevel(2 * widest, 0)
        for made in (after, difference):
            made.SetAttribute("segcft.synthetic", SYNTHETIC)
            made.SetDescription(SYNTHETIC)
        slicer.util.setSliceViewerLayers(background=after, foreground=difference, foregroundOpacity=0)
        return changed, after, difference

    def _add(self, node: Any, values: np.ndarray, name: str) -> Any:
        made = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, node, name)
        slicer.util.updateVolumeFromArray(made, values if values.ndim == 3 else values[None])
        made.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        return made

    @staticmethod
    def _matrix(node: Any) -> Any:
        import vtk

        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        return matrix

    @staticmethod
    def _width(node: Any) -> float:
        display = node.GetDisplayNode()
        low, high = slicer.util.arrayFromVolume(node).min(), slicer.util.arrayFromVolume(node).max()
        return float(display.GetWindow()) if display is not None else float(high) - float(low)


class SegCftWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self) -> None:
        """Make it."""
        super().setup()
        self.logic = SegCftLogic()
        self.inputs: dict[str, Any] = {}
        self.start: dict[str, float | str] = {}
        self.address = qt.QLineEdit(qt.QSettings().value(ADDRESS_SETTING, ADDRESS))
        self.model = qt.QComboBox()
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.ask = qt.QPushButton("Ask")
        self.said = qt.QLabel(SYNTHETIC)
        self.said.wordWrap = True
        self.sliders = qt.QFormLayout()
        form = qt.QFormLayout()
        form.addRow("Server", self.address)
        form.addRow(self._button("Connect", self._connect))
        form.addRow("Model", self.model)
        form.addRow("Volume", self.volume)
        form.addRow(self._button("Read the image", self._look))
        form.addRow(self.sliders)
        form.addRow(self.ask)
        form.addRow(self.said)
        self.layout.addLayout(form)
        self.layout.addStretch(1)
        self.ask.connect("clicked()", lambda: self._try(self._ask))
        self.model.connect("currentIndexChanged(int)", lambda _: self._forget())
        self.volume.connect("currentNodeChanged(vtkMRMLNode*)", lambda _: self._forget())
        self._forget()

    def _button(self, text: str, act: Callable[[], None]) -> Any:
        button = qt.QPushButton(text)
        button.connect("clicked()", lambda: self._try(act))
        return button

    def _try(self, act: Callable[[], None]) -> None:
        """Do it, and say what went wrong."""
        try:
            with slicer.util.WaitCursor():
                act()
        except (ServerError, ValueError) as error:
            slicer.util.errorDisplay(str(error))

    def _connect(self) -> None:
        names = self.logic.connect(self.address.text)
        qt.QSettings().setValue(ADDRESS_SETTING, self.address.text)
        self.model.clear()
        self.model.addItems(names)

    def _chosen(self) -> tuple[Any, str]:
        node, model = self.volume.currentNode(), self.model.currentText
        if node is None or not model:
            raise ValueError("Connect, and choose a model and a volume.")
        return node, model

    def _forget(self) -> None:
        """What was read is of another image or model."""
        while self.sliders.rowCount():
            self.sliders.removeRow(0)
        self.inputs.clear()
        self.ask.enabled = False

    def _look(self) -> None:
        node, model = self._chosen()
        record = self.logic.read(node, model)
        self._forget()
        for control in self.logic.controls(model):
            self.inputs[control.variable] = one = self._input(control, control.start(record))
            self.start[control.variable] = self._value(one)  # as the slider has it: it may have rounded
            self.sliders.addRow(control.title, one)
        self.ask.enabled = True
        self.said.text = "\n".join(summary(record))

    def _input(self, control: Control, value: float | str) -> Any:
        if control.categories:
            choice = qt.QComboBox()
            choice.addItems([UNCHANGED, *control.categories])
            return choice
        slider = ctk.ctkSliderWidget()
        slider.minimum, slider.maximum = min(control.low, float(value)), max(control.high, float(value))
        slider.singleStep = (slider.maximum - slider.minimum) / STEPS or 1.0
        slider.value = float(value)
        return slider

    @staticmethod
    def _value(one: Any) -> float | str:
        return str(one.currentText) if isinstance(one, qt.QComboBox) else float(one.value)

    def _ask(self) -> None:
        node, model = self._chosen()
        values = {name: self._value(one) for name, one in self.inputs.items()}
        do = {name: value for name, value in values.items() if value != self.start[name]}
        if not do:
            raise ValueError("Move a slider first.")
        changed, _, _ = self.logic.ask(node, model, do)
        self.said.text = "\n".join([SYNTHETIC, *summary(changed.record)])


class SegCftTest(ScriptedLoadableModuleTest):
    """To be run inside Slicer, with a server at the module's address whose first model is of images."""

    def runTest(self) -> None:  # noqa: N802  # Slicer's name
        """Ask about the first example of the first model."""
        logic = SegCftLogic()
        model = logic.connect(ADDRESS)[0]
        pixels, _ = logic.client.examples(model)[0]
        node = slicer.util.addVolumeFromArray(pixels[None, :, :, 0])
        slider = next(one for one in logic.controls(model) if not one.categories)
        changed, after, _ = logic.ask(node, model, {slider.variable: (slider.low + slider.high) / 2})
        assert after.GetImageData().GetDimensions() == node.GetImageData().GetDimensions()
        assert np.any(changed.difference)
