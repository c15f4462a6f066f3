"""Mechanisms of the image: networks that abduct, sample and predict."""
