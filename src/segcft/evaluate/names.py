"""What the evaluation calls methods, in the rows and to a reader."""

from __future__ import annotations

from collections.abc import Iterable

NO_CHANGE = "no change"
"""The reference that answers every question with the image as it is."""
MEAN_CHANGE = "mean change"
"""The reference that adds to an image what changes on average in training subjects, of whom both images are known."""
JUDGE = "judge"
"""The judge on real images: its own reading error."""
TRUTH = "truth"
"""The simulator's true counterfactual, where there is one."""
KNOWN = "known"
"""Images in which one structure was deformed by a known amount: what the judge reads of a change that is there."""
PEOPLE = "people"
"""What training people show: of real ones nobody knows the truth."""
_LESS = " - "


def less(method: str, other: str) -> str:
    """In place of a method: what is found of it less that of another one, sample by sample."""
    return f"{method}{_LESS}{other}"


def is_difference(method: str) -> bool:
    """Whether :func:`less` gave this."""
    return _LESS in method


SEG_LESS_REG = less("segmentor", "regressor")
"""What is found of Seg-CFT less that of Reg-CFT: their intervals overlap long before they tie."""

METHODS = {
    NO_CHANGE: "No change",
    MEAN_CHANGE: "Mean change",
    "none": "No CFT",
    "regressor": "Reg-CFT",
    "segmentor": "Seg-CFT",
    "predictor": "Pred-CFT",
    SEG_LESS_REG: "Seg less Reg",
    TRUTH: "Truth",
    KNOWN: "Known",
    PEOPLE: "People",
    JUDGE: "Judge",
}
"""Method -> its name in tables and figures, in the order of the tables."""

_GUIDE = "guide: "


def guide(part: str) -> str:
    """In place of a method: the guide ``part`` on real images, its own reading error."""
    return _GUIDE + part


def guided_by(method: str) -> str:
    """The part of which :func:`guide` gives this, "" if it is none."""
    return method.removeprefix(_GUIDE) if method.startswith(_GUIDE) else ""


_HELD = ", measures held"


def directly(variable: str) -> str:
    """In place of an intervention: on ``variable``, while all measures are set to what they are."""
    return variable + _HELD


def method_name(method: str) -> str:
    """The method as a reader knows it."""
    if method not in METHODS and is_difference(method):
        return " less ".join(map(method_name, method.split(_LESS)))
    return METHODS.get(method, method)


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods as tables have them, each once: those that are known first; guides are none."""
    given = dict.fromkeys(methods)
    return [m for m in METHODS if m in given] + [m for m in given if m not in METHODS and not guided_by(m)]


def plain(name: str) -> str:
    """A structure or variable in words: ``left_lung`` is "left lung"."""
    return name.replace("_", " ")


def with_article(noun: str) -> str:
    """ "an area", "a width"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def counted(samples: int, subjects: int, of: str = "samples") -> str:
    """How many samples there are, and of how many subjects where that is another number."""
    several = "person" if subjects == 1 else "people"
    return f"{samples} {of}" + (f" of {subjects} {several}" if subjects < samples else "")
