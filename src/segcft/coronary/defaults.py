"""How CT angiographies are straightened where nobody says otherwise; plain numbers, so that help is instant."""

from __future__ import annotations

SIZE = (64, 384)
"""(H, W) of the images in pixels, across the vessel and along it."""

SPACING = 0.25
"""Of their pixels, in mm."""

WINDOW = (-200.0, 800.0)
"""HU that become black and white. Fat around the vessel (-100), its wall (50) and the lumen with contrast agent (300 to
500, rarely more than 700) are all within, at 4 HU a grey level, far below the noise. Lung is black, and calcium, which
masks tell apart, mostly white."""

CALCIUM_FLOOR = 350.0
"""HU that calcified plaque has at least."""

CALCIUM_DEVIATIONS = 3.0
"""By how many standard deviations of the lumen it is brighter than this."""
