"""The rules: from a fingerprint and a machine to the keys of a study, a function for each section.

Thresholds of subjects, skewness and the like are here, each with its reason; sizes, rates and weights that are the same
for all data are in :mod:`segcft.planning.recipe`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from segcft.config.mechanisms import DEFAULT, SPECS, MechanismSpec
from segcft.config.section import Training
from segcft.config.segmentors import DEFAULT as DEFAULT_SEGMENTOR
from segcft.config.segmentors import SEGMENTOR_SPECS
from segcft.config.sources import Splits
from segcft.config.structure import Structure
from segcft.measures.measure import MEASURES, ImageMeasure, Measure
from segcft.planning import budget, recipe, subjects
from segcft.planning.basis import Basis
from segcft.planning.grid import levels_of
from segcft.planning.planned import Keys, Planned
from segcft.planning.subjects import MANY

AREA = Structure.model_fields["measure"].default
"""The measure of a structure that names none."""
FEW = 500
"""Training subjects below which all that deforms is on; from ``MANY`` on nothing is, between them half."""
SMALL_SET = 1000
"""Training subjects below which the attributes' mechanisms are small and decay more."""
ABSENT = 0.02
"""Share of images without a structure above which it counts as one that may be absent; fewer are taken for mistakes."""
SKEWED = 1.0
"""Skewness of a positive variable above which its logarithm is modelled: a log-normal with deviation 0.31 has it."""
MOST_JUDGED = 500
"""Subjects that are evaluated: intervals are then narrow, and more costs only time."""
DILATION, LEAST_DILATION = 0.04, 2
"""Near a structure: share of the shorter side, and pixels at least."""
ENDS = 8.0
"""Degrees of a turn that moves the ends of a square image by 7 %: a longer one is turned less."""
MEMORY_PER_PIXEL = 6000
"""Bytes that training the image mechanism takes for each pixel of a batch, with a margin."""
BETA_GROWS = "by the pixels: at twice the side an outline is a quarter of the rate"
MEMORY_SHARE = 0.6
"""Share of the memory that trainings side by side may take."""


def image(basis: Basis) -> Keys:
    """Grid and extent."""
    fingerprint, given = basis.fingerprint, basis.outline.section("image")
    keys = {"size": Planned(list(basis.size), basis.why_size)}
    units = [basis.outline.variable(name).get("unit") for name in basis.outline.measured]
    if fingerprint.extent is not None and "size" not in given and "px" not in units:
        height, width = fingerprint.extent  # the size of volumes is given
        # The canvas has the grid's aspect; what it adds is filled up.
        ratio = basis.size[1] / basis.size[0]
        field = [max(height, width / ratio), max(width, height * ratio)]
        keys["field_of_view"] = Planned([round(length, 3) for length in field], "the files' headers agree")
        keys["length_unit"] = Planned("mm", "of the field of view")
    return keys


def splits(basis: Basis) -> Keys:
    """Who trains, validates and judges."""
    return subjects.splits(basis.outline, basis.fingerprint)


def segmentor(basis: Basis) -> Keys:
    """The guide of Seg-CFT."""
    widths = _levels_read(basis.size, recipe.SEGMENTOR_WIDTHS)
    return _training(basis, "segmentor") | recipe.SEGMENTOR | {"widths": widths, "augment": _augment(basis, guide=True)}


def judge(basis: Basis) -> Keys:
    """Who judges: of another kind than the guide, and on greys as they are where there are many subjects."""
    keys = _training(basis, "judge") | recipe.JUDGE | _another_seed(basis, "judge", "segmentor")
    side, given = basis.side, basis.outline.section("judge")
    usual, planned = SEGMENTOR_SPECS[DEFAULT_SEGMENTOR].model_fields, keys["architecture"].value
    if any(key in usual and key not in SEGMENTOR_SPECS[planned].model_fields for key in given):
        keys["architecture"] = Planned(DEFAULT_SEGMENTOR, "the keys that are given are of it")
    width = recipe.LARGE_WIDTH if side > recipe.LARGE_SIDE or basis.volumes else recipe.JUDGE_WIDTH
    levels = len(_levels_read(basis.size, (1,) * recipe.JUDGE_LEVELS).value)
    keys["width"] = Planned(width, f"its first level has all {side:.0f} pixels a side")
    keys["blocks"] = Planned([1] * levels, "one a level, down to what still has a shape")
    keys["augment"] = _augment(basis, basis.judging)
    return _known(keys, SEGMENTOR_SPECS, given.get("architecture", keys["architecture"].value))


def regressor(basis: Basis) -> Keys:
    """The guide of Reg-CFT."""
    return _training(basis, "regressor") | recipe.REGRESSOR | {"augment": _augment(basis, guide=True)}


def predictor(basis: Basis) -> Keys:
    """The guide of what images show of attributes."""
    return _training(basis, "predictor") | recipe.REGRESSOR | {"augment": _hiding(_augment(basis, guide=True))}


def predictor_judge(basis: Basis) -> Keys:
    """Who judges that."""
    keys = _training(basis, "predictor_judge") | recipe.PREDICTOR_JUDGE
    seed = _another_seed(basis, "predictor_judge", "predictor")
    return keys | seed | {"augment": _hiding(_augment(basis, basis.judging))}


def _hiding(augment: Planned) -> Planned:
    seen = {key: value for key, value in augment.value.items() if key != "deform"}  # it sees no masks
    return Planned(seen | {"hide": recipe.HIDDEN}, f"{augment.reason}; parts hidden: no single one is to do")


def scm(basis: Basis) -> Keys:
    """The attributes' mechanisms: small for few subjects."""
    keys = _training(basis, "scm")
    batch = min(512, 2 ** max(4, math.ceil(math.log2(basis.training))))
    keys["batch_size"] = Planned(batch, "as many as train, of numbers that cost nothing")
    if basis.training >= SMALL_SET:
        return keys | {"learning_rate": Planned(5.0e-3, "enough subjects for flows of the default size")}
    few = f"{basis.training} training subjects"
    return keys | {
        "learning_rate": Planned(3.0e-3, few),
        "weight_decay": Planned(0.1, few),
        "hidden": Planned([16], few),
        "bins": Planned(4, few),
    }


def hvae(basis: Basis) -> Keys:
    """The image mechanism; of another architecture what all have."""
    given = basis.outline.section("hvae")
    side = basis.side
    # What follows from these follows from the given ones, where there are.
    patch = int(_number(given, "patch", recipe.SMALL_PATCH if side < recipe.SMALL_SIDE else recipe.PATCH))
    usual = recipe.VOLUME_BETA if basis.volumes else _two_digits(recipe.BETA * basis.pixels / recipe.BETA_PIXELS)
    beta = _number(given, "beta", usual)
    warmup = round(recipe.BETA_WARMUP * _number(given, "steps", _steps(basis, "hvae").value))
    keys = _training(basis, "hvae") | recipe.MECHANISM
    keys |= {
        "patch": Planned(patch, f"patches a side of {side:.0f} pixels: {side / patch:.0f}"),
        "warp": Planned(recipe.NODES * patch, f"a node of the displacement every {recipe.NODES} patches"),
        "levels": Planned(_levels(basis, patch), "halved down to what the whole frame has in common"),
        "beta": Planned(beta, "of volumes" if basis.volumes else BETA_GROWS),
        "beta_start": Planned(
            _two_digits(recipe.BETA_START * beta), "at first outlines come from the parents, which are free"
        ),
        "beta_warmup_steps": Planned(warmup, "half of the steps"),
        "accumulate": _parts(basis, "hvae"),
    }
    if basis.training < MANY:
        keys["augment"] = _augment(basis, gentle=True)
    if _further(basis) or basis.volumes:
        keys["diffeomorphic"] = Planned(True, "borders are asked for, and where the frame folds none is in its place")
        keys["steepest"] = Planned(recipe.STEEPEST, "a border moves alone, as far as pixels can show without a fold")
    if not basis.outline.structures:
        del keys["deform"]  # there is nothing to deform
    if basis.outline.section("evaluation").get("pairs"):
        keys["pairs"] = recipe.PAIRS
    return _known(keys, SPECS, given.get("architecture", DEFAULT))


def mechanism(given: Mapping[str, Any]) -> type[MechanismSpec] | None:
    """The settings of the image mechanism that is given, or of the usual one; None if there is no such mechanism."""
    name = given.get("architecture", DEFAULT)
    return SPECS.get(name) if isinstance(name, str) else None


def finetune(basis: Basis) -> Keys:
    """Fine-tuning."""
    steps = _number(basis.outline.section("finetune"), "steps", _steps(basis, "finetune").value)
    rate = Planned(_two_digits(recipe.MULTIPLIER / max(1, steps)), "rises as far whatever the steps, and not quickly")
    keys = _training(basis, "finetune") | recipe.FINETUNE | {"accumulate": _parts(basis, "finetune")}
    keys["multiplier_learning_rate"] = rate
    variables = basis.outline.section("finetune").get("intervene") or basis.outline.given["variables"]
    also = min(recipe.ALSO, recipe.OTHERS / max(1, len(variables) - 1))
    why = "several variables are asked for at once, so that each is heard among others, and none is lost among many"
    keys["also"] = Planned(_two_digits(also), why)
    if basis.outline.section("finetune").get("least_change"):
        del keys["price"]  # there is a fixed one
    if not basis.outline.structures:
        keys["guides"] = Planned(["predictor"], "there are no structures, so attributes alone can be read")
    if _further(basis):
        keys["area_scale"] = Planned("given others", "a border must not get away with pleasing the area")
    if basis.training < MANY:
        keys["augment"] = _augment(basis, gentle=True)
    guide = basis.outline.section("segmentor").get("augment", _augment(basis, guide=True).value)
    if isinstance(guide, dict):  # else the study says what is wrong
        changes = (*(recipe.MOVES if _moves(basis) else ()), *(recipe.GREYS if _shades(basis) else ()))
        seen = {key: value for key, value in guide.items() if key in recipe.VIEW and key not in changes}
        keys["view"] = Planned(seen, "as the guide has learnt to read, but for what would change measures")
    return keys


def evaluation(basis: Basis) -> Keys:
    """How counterfactuals are judged."""
    shorter, longer = min(basis.size), max(basis.size)
    near = max(LEAST_DILATION, DILATION * shorter)
    keys = {
        "bootstrap": Planned(2000, "intervals to two digits"),
        "dilation": Planned(round(near / longer, 4), f"{near:.0f} pixels, a share of the longer side"),
    }
    if basis.fingerprint.images * Splits().test > MOST_JUDGED:
        keys["people"] = Planned(MOST_JUDGED, "intervals are narrow enough")
    absent = [name for name in basis.outline.measured if _may_be_absent(basis, name)]
    places = [one.word for one in _measures(basis) if not one.ratio]
    if absent:
        keys["metric"] = Planned("mae", f"{absent[0]} may be 0, of which there is no percentage")
    elif places:
        keys["metric"] = Planned("mae", f"of a {places[0]} there is no percentage")
    else:
        keys["metric"] = Planned("mape", "no structure is absent, so errors can be compared as percentages")
    return keys


def variable(basis: Basis, name: str) -> Keys:
    """How a continuous variable is modelled."""
    given, keys = basis.outline.variable(name), Keys()
    if given.get("kind") != "continuous" or "scale" in given or "zero_inflated" in given or given.get("formula"):
        return keys
    structure = _structure_of(basis, name)
    structure = structure or ""
    one = (basis.fingerprint.structures | basis.fingerprint.zones).get(structure)
    if one is not None and basis.outline.structures[structure].get("measure", AREA) != AREA:
        return keys  # the fingerprint knows areas
    skewness = one.skew if one is not None else basis.fingerprint.skews.get(name, 0.0)
    if one is not None and ABSENT < one.absent < 1 and structure not in _allowed(basis):
        why = f"{one.absent:.0%} of the images do not show it"
        keys = {"scale": Planned("log", "its positive values are"), "zero_inflated": Planned(True, why)}
    elif skewness > SKEWED and structure not in _allowed(basis):
        keys = {"scale": Planned("log", f"positive, and skewed ({skewness:.1f})")}
    return keys


def _measures(basis: Basis) -> list[Measure]:
    """Those of all structures that there are; of another name the study says what is wrong."""
    named = (str(one.get("measure", AREA)) for one in basis.outline.structures.values())
    return [MEASURES[name] for name in named if name in MEASURES]


def _further(basis: Basis) -> bool:
    """Whether structures have more measures than one."""
    return any(one.get("of") for one in basis.outline.structures.values())


def _shades(basis: Basis) -> bool:
    """Whether a measure is of grey levels."""
    return any(isinstance(one, ImageMeasure) for one in _measures(basis))


def _moves(basis: Basis) -> bool:
    """Whether a variable changes where an image is shifted or turned."""
    zones = any(one.get("zone") for one in basis.outline.structures.values())
    return zones or any(one.placed for one in _measures(basis))


def _structure_of(basis: Basis, name: str) -> str | None:
    """The structure that a variable is the measure of."""
    structures = basis.outline.structures
    return next((structure for structure, one in structures.items() if one["variable"] == name), None)


def _allowed(basis: Basis) -> tuple[str, ...]:
    """The structures that the user lets be absent."""
    data = basis.outline.given["data"]
    sources = data.get("folders", {"": data}).values()
    return tuple(name for source in sources for name in source.get("may_be_absent", ()))


def _may_be_absent(basis: Basis, name: str) -> bool:
    said = basis.outline.variable(name) | {key: one.value for key, one in variable(basis, name).items()}
    return bool(said.get("zero_inflated")) or _structure_of(basis, name) in _allowed(basis)


def _training(basis: Basis, section: str) -> Keys:
    """What every section that trains has."""
    return {
        "steps": _steps(basis, section),
        "batch_size": recipe.VOLUMES if basis.volumes else recipe.BATCH,
        "seed": Planned(recipe.SEEDS[section], "one for each stage"),
        **_stopping(basis, section),
    }


def _another_seed(basis: Basis, judge: str, guide: str) -> Keys:
    """That of who judges, where the usual one was given to the guide."""
    given = basis.outline.section(guide).get("seed", recipe.SEEDS[guide])
    taken = recipe.SEEDS[judge] == given
    return {"seed": Planned(given + 1, "another one than the guide's")} if taken else {}


def _stopping(basis: Basis, section: str) -> Keys:
    """What ends a training before its steps are done, where there are subjects to tell."""
    parts, given = basis.fingerprint.parts, basis.outline.section(section)
    share = basis.outline.section("splits").get("validation", Splits().validation)
    nobody = share == 0 or (parts and "validation" not in parts)
    if section in recipe.WHOLE or nobody or given.get("patience", recipe.PATIENCE) is None:
        return {}
    steps = int(_number(given, "steps", _steps(basis, section).value))
    often = Planned(max(1, steps // recipe.VALIDATIONS), f"{recipe.VALIDATIONS} validations in all steps")
    return {"patience": recipe.PATIENCE, "validate_steps": often}


def _known(keys: Keys, specs: Mapping[str, type[Training]], architecture: Any) -> Keys:
    """Those of ``keys`` that an architecture has; none if there is no such architecture, of which the study says so."""
    spec = specs.get(architecture) if isinstance(architecture, str) else None
    return {key: one for key, one in keys.items() if spec is not None and key in spec.model_fields}


def _steps(basis: Basis, section: str) -> Planned:
    return basis.steps.get(section) or Planned(budget.NEEDS[section].steps, "not timed yet")


def _levels(basis: Basis, patch: int) -> list[dict[str, int]]:
    first, second, third, last = recipe.VOLUME_LEVELS if basis.volumes else recipe.LEVELS
    count = levels_of(basis.size, patch)
    if basis.volumes:  # their grid is given, and each level halves it
        divided = (n for n in range(count, 2, -1) if all(side % (patch * 2 ** (n - 1)) == 0 for side in basis.size))
        count = next(divided, 2)
    between = [second, *[third] * (count - 3)] if count > 3 else [third] * (count - 2)
    return [dict(level) for level in (first, *between, last)]


def _levels_read(size: tuple[int, ...], widths: tuple[int, ...]) -> Planned:
    """As many levels of a U-Net as leave structures a shape."""
    side = math.pow(math.prod(size), 1 / len(size))
    count = max(2, min(len(widths), 1 + math.floor(math.log2(side / recipe.SMALLEST_READ))))
    return Planned(list(widths[:count]), f"the smallest level has {side / 2 ** (count - 1):.0f} pixels a side")


def _augment(basis: Basis, subjects: int = 0, guide: bool = False, gentle: bool = False) -> Planned:
    """Deformation as far as ``subjects`` (default: those that train) are few; greys by how much images differ, for
    guides in any case."""
    subjects = subjects or basis.training
    strength = 1.0 if subjects < FEW else 0.5 if subjects < MANY else 0.0
    found: dict[str, Any] = {}
    if strength:
        shape = recipe.GENTLE if gentle else recipe.DEFORMATION
        found = {key: _two_digits(strength * value) for key, value in shape.items()}
        # The ends of a long image would leave the frame.
        found["rotate"] = _two_digits(found["rotate"] * min(basis.size) / max(basis.size))
        found["elastic_nodes"] = recipe.ELASTIC_NODES
        if basis.outline.structures and not gentle:
            found["deform"] = recipe.ONE_BY_ONE | {"share": _two_digits(strength * recipe.ONE_BY_ONE["share"])}
    brightness = _within(basis.fingerprint.exposure, recipe.EVEN_BRIGHTNESS, recipe.UNEVEN_BRIGHTNESS)
    contrast = _within(basis.fingerprint.contrast, recipe.EVEN_CONTRAST, recipe.UNEVEN_CONTRAST)
    if gentle:
        found |= recipe.GENTLE_GREYS
    elif guide or strength:
        found |= {"gamma": _two_digits(2 * brightness), "contrast": contrast, "brightness": brightness}
        found |= {"noise": recipe.NOISE}
    training = f"{subjects} training subjects"
    degree = {1.0: "few, so all deforms", 0.5: "some, so half deforms", 0.0: "many, so nothing deforms"}[strength]
    return Planned(found, f"{training} are {degree}; never mirrored, as left is not right")


def _parts(basis: Basis, section: str) -> Planned:
    """Into how many parts a batch is split, so that trainings side by side fit the memory."""
    usual = recipe.VOLUMES if basis.volumes else recipe.BATCH
    batch = int(_number(basis.outline.section(section), "batch_size", usual.value))
    room = MEMORY_SHARE * basis.machine.memory / basis.machine.jobs
    needed = MEMORY_PER_PIXEL * batch * basis.pixels
    parts = next((count for count in range(1, batch) if batch % count == 0 and needed <= count * room), batch)
    return Planned(parts, f"{needed / 2**30:.1f} GiB of {basis.machine.memory / 2**30:.0f} for a batch")


def _number(given: Mapping[str, Any], key: str, planned: float) -> float:
    """A positive number that is given, else the planned one; of what is wrong the study says so."""
    number = given.get(key, planned)
    return number if isinstance(number, int | float) and 0 < number < math.inf else planned


def _within(value: float, low: float, high: float) -> float:
    return _two_digits(min(max(value, low), high))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


SECTIONS: dict[str, Callable[[Basis], Keys]] = {
    "image": image,
    "splits": splits,
    "segmentor": segmentor,
    "judge": judge,
    "regressor": regressor,
    "predictor": predictor,
    "predictor_judge": predictor_judge,
    "scm": scm,
    "hvae": hvae,
    "finetune": finetune,
    "evaluation": evaluation,
}
"""Section of a study -> what plans its keys; variables have :func:`variable`."""
