"""Grey values: what becomes black and white, and colour as grey."""

from __future__ import annotations

import numpy as np

PERCENTILES = (0.5, 99.5)
"""What becomes black and white where nobody says otherwise."""


LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601: red, green, blue
