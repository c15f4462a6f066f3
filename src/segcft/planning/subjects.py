"""Which shares of the subjects train, validate and judge."""

from __future__ import annotations

import math

from segcft.config.outline import Outline
from segcft.config.sources import Splits
from segcft.planning.fingerprint import Fingerprint
from segcft.planning.planned import Keys, Planned

MANY = 2000
"""Training subjects from which on more would teach the image mechanism and the guides little."""
FEWEST_VALIDATION, MOST_VALIDATION = 16, 0.15
"""Subjects that validation needs to tell better from worse, and the largest share that it takes for them."""
JUDGES = 0.2
"""Share of all that trains the judge alone, where :data:`MANY` are left."""


def splits(outline: Outline, fingerprint: Fingerprint) -> Keys:
    """Enough validation subjects that trainings can be judged by them; and subjects of the judge's own, if there are
    enough. None where the study has a section ``splits`` or the table says who trains."""
    usual = Splits()
    if outline.section("splits"):
        return {}
    if fingerprint.parts:
        none = "the table has no validation subjects"
        given = {"train": Planned(1 - usual.test, none), "validation": Planned(0.0, none)}
        return {} if "validation" in fingerprint.parts else given
    left = round(usual.train - JUDGES, 2)
    if left * fingerprint.subjects >= MANY:
        return {
            "train": Planned(left, f"{left * fingerprint.subjects:.0f} subjects, which are enough"),
            "judge": Planned(JUDGES, "subjects that the guide has not seen, so that their errors are less alike"),
        }
    share = min(MOST_VALIDATION, FEWEST_VALIDATION / fingerprint.subjects)
    if share <= usual.validation:
        return {}
    share = math.ceil(share * 100) / 100
    why = f"{FEWEST_VALIDATION} of {fingerprint.subjects} subjects, or as many as can be spared"
    return {"train": Planned(round(1 - share - usual.test, 2), "what is left"), "validation": Planned(share, why)}
