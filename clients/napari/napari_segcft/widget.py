"""The dock widget. magicgui and napari are imported when it is made, as the rest of the plug-in needs neither."""

from __future__ import annotations

from typing import Any

from napari_segcft.layers import layers_of, scan_of
from segcft_client import Client, Control, ServerError, change, controls, read
from segcft_client.client import ADDRESS
from segcft_client.controls import summary

UNCHANGED = "as it is"
"""The choice of a category that asks for nothing."""
STEPS = 200


def ask_widget() -> Any:
    """The widget: a server, a model, a layer, its sliders, and a button that asks."""
    from magicgui import widgets
    from napari.layers import Image

    return _Panel(widgets, Image).container


class _Panel:
    def __init__(self, widgets: Any, image: type) -> None:
        self.widgets = widgets
        self.client: Client | None = None
        self.inputs: dict[str, Any] = {}
        self.start: dict[str, float | str] = {}
        self.address = widgets.LineEdit(label="Server", value=ADDRESS)
        self.connect = widgets.PushButton(text="Connect")
        self.model = widgets.ComboBox(label="Model", choices=[])
        self.layer = widgets.create_widget(label="Image", annotation=image)
        self.millimetres = widgets.CheckBox(label="Scale is in mm", value=False)
        self.look = widgets.PushButton(text="Read the image")
        self.sliders = widgets.Container()
        self.ask = widgets.PushButton(text="Ask", enabled=False)
        self.said = widgets.Label(value="Synthetic images. For research only, not for clinical use.")
        parts = [self.address, self.connect, self.model, self.layer, self.millimetres, self.look, self.sliders]
        self.container = widgets.Container(widgets=[*parts, self.ask, self.said])
        self.connect.changed.connect(lambda: self._try(self._connect))
        self.look.changed.connect(lambda: self._try(self._look))
        self.ask.changed.connect(lambda: self._try(self._ask))
        self.model.changed.connect(lambda: self._forget())
        self.layer.changed.connect(lambda: self._forget())

    def _try(self, act: Any) -> None:
        """Do it, and say what went wrong."""
        try:
            act()
        except (ServerError, ValueError) as error:
            self.said.value = str(error)

    def _forget(self) -> None:
        """What was read is of another image or model."""
        self.sliders.clear()
        self.inputs.clear()
        self.ask.enabled = False

    def _connect(self) -> None:
        self.client = Client(self.address.value)
        self.model.choices = [model["name"] for model in self.client.models()]
        self.said.value = "Choose a model and an image."

    def _asked(self) -> tuple[Client, str, Any]:
        if self.client is None or not self.model.value:
            raise ValueError("Connect first.")
        if self.layer.value is None:
            raise ValueError("Open an image first.")
        return self.client, self.model.value, scan_of(self.layer.value, self.millimetres.value)

    def _look(self) -> None:
        client, model, scan = self._asked()
        record = read(client, model, scan)
        self._forget()
        for control in controls(client.model(model)):
            self.inputs[control.variable] = one = self._input(control, control.start(record))
            self.start[control.variable] = one.value  # as the slider has it: it may have rounded
            self.sliders.append(one)
        self.ask.enabled = True
        self.said.value = "\n".join(summary(record))

    def _input(self, control: Control, value: float | str) -> Any:
        if control.categories:
            choices = [UNCHANGED, *control.categories]
            return self.widgets.ComboBox(label=control.title, choices=choices, value=UNCHANGED)
        low, high = min(control.low, float(value)), max(control.high, float(value))
        return self.widgets.FloatSlider(
            label=control.title, min=low, max=high, step=(high - low) / STEPS or 1.0, value=float(value)
        )

    def _do(self) -> dict[str, float | str]:
        """What was moved from where it stood."""
        moved = {name: one.value for name, one in self.inputs.items()}
        return {name: value for name, value in moved.items() if value != self.start[name]}

    def _ask(self) -> None:
        client, model, scan = self._asked()
        do = self._do()
        if not do:
            raise ValueError("Move a slider first.")
        changed = change(client, model, scan, do)
        self.said.value = "\n".join(summary(changed.record))
        from napari import current_viewer
        from napari.layers import Layer

        viewer = current_viewer()
        for data in layers_of(self.layer.value, changed, do):
            viewer.add_layer(Layer.create(*data))
