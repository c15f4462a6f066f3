"""A draft of a study file from a folder of images: what can be seen in the files, and what only its user knows."""
