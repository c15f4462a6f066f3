"""The Python interface: a model, questions about images, and answers."""
