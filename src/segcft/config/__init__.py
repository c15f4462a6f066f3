"""The typed description of a study: its graph, structures, image, and the settings of every stage."""
