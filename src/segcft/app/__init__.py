"""The web page: ask a model about an image by moving sliders. It keeps no image and asks nothing of the internet."""
