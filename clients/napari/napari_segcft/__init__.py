"""A napari plug-in that asks segcft's server. napari finds it by ``napari.yaml``, and imports it when it is opened."""
