"""The typed description of one study: graph, structures, image, model sizes and the budget of each stage.

A study is a YAML file; everything that differs from one study to another is in it and nowhere in the code.
:func:`load_study` reads and validates it, and every error names the file and the key.
"""

from __future__ import annotations

import difflib
import itertools
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from segcft.config.causal_gen import CausalGenSpec as CausalGenSpec
from segcft.config.mechanisms import HVAESpec as HVAESpec
from segcft.config.mechanisms import ImageSpec
from segcft.config.section import Augment as Augment
from segcft.config.section import Fraction, Section, Training
from segcft.errors import StudyError

MOST_SHOWN = 200
"""Characters of a wrong value that an error shows."""

S = TypeVar("S", bound=Section)

Percent = Annotated[float, Field(ge=0, le=100)]

FEWEST_DRAWS = 40
"""Bootstrap draws of which one lies beyond each end of a 95 % interval."""
MOST_CHARACTERS = 1 << 18
"""Of a YAML file; the largest study has some 10,000."""
MOST_VALUES = 1 << 16
"""In a YAML file, with what its aliases stand for."""

UNION_TAGS = ("folder", "chest-simulator", "coronary-simulator")
"""Which variant of a section an error is about, in pydantic's path to it: no key of the file."""


class Variable(Section):
    """A scalar of the causal graph.

    ``scale: log`` models a positive variable through its logarithm. With ``zero_inflated`` it may also be exactly 0,
    as the area of an absent structure is, and the scale is that of its positive values. ``parents`` are direct causes.
    ``range`` are the values that are believed where a table has them; of an age it is 0 to 130 years by default.
    """

    LATER = frozenset({"zero_inflated", "range"})

    kind: Literal["continuous", "categorical"]
    parents: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    scale: Literal["linear", "log"] = "linear"
    zero_inflated: bool = False
    unit: str = ""
    range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _categories_fit_kind(self) -> Variable:
        if self.kind == "categorical" and len(set(self.categories)) < 2:
            raise ValueError("a categorical variable needs at least two different 'categories'")
        if self.kind == "continuous" and self.categories:
            raise ValueError("only a categorical variable has 'categories'")
        if self.range is not None and (self.kind != "continuous" or not self.range[0] < self.range[1]):
            raise ValueError("'range' is of a continuous variable and goes from a smaller to a larger number")
        if self.zero_inflated and (self.kind != "continuous" or self.scale != "log"):
            # On a linear scale nothing would keep the values that are not 0 above it.
            raise ValueError("'zero_inflated' is of a continuous variable with 'scale: log'")
        return self

    def allows(self, number: float) -> bool:
        """Whether a continuous variable can be this number."""
        return self.scale == "linear" or number > 0 or (self.zero_inflated and number == 0)


class Structure(Section):
    """A structure in the image, the variable that is a ``measure`` of it, and how a mask file shows it.

    Exactly one of ``bit`` (flag in a bit mask, e.g. 4), ``label`` (value in a label map) or ``file`` (one file
    a structure, e.g. ``"{id}_heart.png"`` below the masks folder) is given where masks come from files.
    """

    LATER = frozenset({"measure"})

    variable: str
    measure: str = "area"
    bit: PositiveInt | None = None
    label: PositiveInt | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _one_way_to_read(self) -> Structure:
        if sum(way is not None for way in (self.bit, self.label, self.file)) > 1:
            raise ValueError("give one of 'bit', 'label' and 'file', not several")
        if self.bit is not None and self.bit & (self.bit - 1):
            raise ValueError(f"'bit' is a flag, so a power of two (1, 2, 4, ...), not {self.bit}")
        if self.file is not None and "{id}" not in self.file:
            raise ValueError("'file' must contain '{id}', e.g. '{id}_heart.png'")
        return self


class Image(Section):
    """Pixel grid of the study and its physical extent.

    ``size`` is (height, width) in pixels, or (depth, height, width) in voxels. With ``field_of_view`` (each axis, in
    ``length_unit``) areas are in the square of ``length_unit`` and volumes in its cube, whatever the grid; without it
    they count elements of the grid.
    """

    size: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]
    channels: PositiveInt = 1
    field_of_view: tuple[PositiveFloat, ...] | None = None
    length_unit: str = "px"

    @model_validator(mode="after")
    def _same_axes(self) -> Image:
        if self.field_of_view is not None and len(self.field_of_view) != len(self.size):
            raise ValueError(f"'field_of_view' has {len(self.field_of_view)} axes, and 'size' {len(self.size)}")
        return self

    @property
    def cell_size(self) -> float:
        """Area of one pixel, or volume of one voxel, in :attr:`cell_unit`."""
        if self.field_of_view is None:
            return 1.0
        return math.prod(self.field_of_view) / math.prod(self.size)

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Size of an element along each axis in mm, if the length unit is that."""
        if self.field_of_view is None or self.length_unit != "mm":
            return None
        return tuple(extent / count for extent, count in zip(self.field_of_view, self.size, strict=True))

    @property
    def cell_unit(self) -> str:
        """Elements of the grid, or the square or cube of ``length_unit``."""
        power = {2: "\N{SUPERSCRIPT TWO}", 3: "\N{SUPERSCRIPT THREE}"}[len(self.size)]
        return "px" if self.field_of_view is None else f"{self.length_unit}{power}"


class FolderData(Section):
    """Images and masks in folders, attributes in a CSV table; all paths are relative to ``--data DIR``.

    ``columns`` maps a variable to its column where the names differ. ``patient`` names the column that groups
    images of one person (default: every image is a person). ``split`` names a column with
    train/validation/test where the split is given.

    Grey values are scaled by the whole range of the file's type, or from ``grey_range`` (e.g. [0, 4095] for 12
    bits in a 16-bit file), or between two percentiles of each image (``window``, e.g. [0.5, 99.5]). A sample
    with an empty mask is left out, unless ``may_be_absent`` lists the structure or its area is ``zero_inflated``.

    ``nifti_axes`` says how arrays in NIfTI files lie where their headers do not say it, or are wrong: ``header``, as
    they say or by NIfTI's default; ``xy``, the first axis goes to the right of the picture and the second down;
    ``yx``, the first goes down and the second to the right. ``thin_structures``: structures may be a pixel wide, so
    label maps are not searched for values that interpolation made. ``ignore_spacing``: images whose headers contradict
    ``image.field_of_view`` are taken none the less.
    """

    LATER = frozenset({"nifti_axes", "thin_structures", "ignore_spacing"})

    source: Literal["folder"]
    images: str = "images"
    masks: str = "masks"
    table: str = "metadata.csv"
    id: str = "id"
    patient: str | None = None
    split: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    grey_range: tuple[float, float] | None = None
    window: tuple[Percent, Percent] | None = None
    may_be_absent: tuple[str, ...] = ()
    nifti_axes: Literal["header", "xy", "yx"] | None = None
    thin_structures: bool = False
    ignore_spacing: bool = False

    @model_validator(mode="after")
    def _one_grey_scale(self) -> FolderData:
        if self.grey_range is not None and self.window is not None:
            raise ValueError("give one of 'grey_range' and 'window', not both")
        for key, limits in (("grey_range", self.grey_range), ("window", self.window)):
            if limits is not None and not limits[0] < limits[1]:
                raise ValueError(f"'{key}' goes from a smaller to a larger number, not {list(limits)}")
        return self


class SimulatedData(Section):
    """People drawn from a simulator that ships with the package."""

    source: Literal["chest-simulator", "coronary-simulator"]
    people: PositiveInt
    seed: NonNegativeInt = 0


class Splits(Section):
    """Shares of the people in each part; who is where depends on ``seed`` and the patient's id alone."""

    train: Fraction = 0.72
    validation: Fraction = 0.08
    test: Fraction = 0.2
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _sums_to_one(self) -> Splits:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1, not {total:g}")
        if min(self.train, self.test) == 0:
            raise ValueError("train and test must not be empty")
        return self


class SegmentorSpec(Training):
    """A U-Net (Ronneberger 2015, as in MONAI): one width a level, each level half the size of the last."""

    widths: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    residual_units: NonNegativeInt = 1


class RegressorSpec(Training):
    """A ResNet (He 2016, as in MONAI) from the image to all structure areas."""

    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 128)
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1, 1)


class SCMSpec(Training):
    """Conditional neural spline flows (Durkan 2019) and categorical mechanisms of the attributes."""

    hidden: tuple[PositiveInt, ...] = (32, 32)
    bins: PositiveInt = 8
    transforms: PositiveInt = 1


class FinetuneSpec(Training):
    """Counterfactual fine-tuning with each of the ``guides``, under a constraint on the ELBO.

    ``intervene`` lists the variables of which one, per sample, is set to a value from the training marginal
    (default: all); each of the others is set as well with probability ``also``. ``abduction`` takes a sample of the
    posterior or its mean, for the counterfactual and for the ELBO alike. The negative ELBO (nats per
    pixel) may pass that of the pre-trained model, measured on ``bound_batches`` training batches, by ``slack``;
    ``multiplier`` starts at this value, rises with ``multiplier_learning_rate`` while it is passed and falls while it
    is not; ``damping`` acts at once. ``area_scale`` makes structures weigh alike: areas are divided by their standard
    deviation or their mean; ``guide_loss`` is of the difference that remains, ``absolute`` being rounded at the bottom
    (below ``rounding``). ``least_change`` weighs the share of pixels that change, where a change d (image in
    [-1, 1]) counts as ``|d| / (|d| + change_scale)``.
    """

    guides: tuple[Literal["regressor", "segmentor"], ...] = ("regressor", "segmentor")
    intervene: tuple[str, ...] = ()
    also: Fraction = 0.0
    abduction: Literal["sample", "mean"] = "sample"
    slack: NonNegativeFloat = 0.0
    bound_batches: PositiveInt = 16
    multiplier: NonNegativeFloat = 1.0
    multiplier_learning_rate: PositiveFloat = 1e-2
    damping: NonNegativeFloat = 10.0
    area_scale: Literal["std", "mean"] = "std"
    guide_loss: Literal["squared", "absolute"] = "squared"
    rounding: PositiveFloat = 0.1
    least_change: NonNegativeFloat = 0.0
    change_scale: PositiveFloat = 0.03


class EvaluationSpec(Section):
    """How counterfactuals are judged: people at most, bootstrap draws, and the pictures' extent.

    ``metric`` of effectiveness: ``mape`` in %, or ``mae`` in the study's area unit (where areas may be zero).
    ``interventions`` lists the variables to intervene on, one at a time (default: the structures' areas).
    ``dilation`` of the structures for locality and ``figure_changes`` (relative) are shares of 1. ``progression``
    lists variables that rise together in a figure of their own, through ``progression_quantiles`` of the training
    people's.
    """

    metric: Literal["mape", "mae"] = "mape"
    interventions: tuple[str, ...] = ()
    people: PositiveInt | None = None
    batch_size: PositiveInt = 64
    bootstrap: Annotated[int, Field(ge=FEWEST_DRAWS)] = 1000
    dilation: Fraction = 0.04
    figure_people: PositiveInt = 3
    figure_changes: tuple[float, ...] = (-0.3, -0.15, 0.15, 0.3)
    progression: tuple[str, ...] = ()
    progression_quantiles: tuple[Fraction, ...] = (0.05, 0.5, 0.75, 0.9, 0.98)
    seed: NonNegativeInt = 0


class Study(Section):
    """One study, whole. See the files in ``configs/`` for worked examples.

    The ``regressor`` may be left out where ``finetune.guides`` does not name it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    image: Image
    variables: dict[str, Variable] = Field(min_length=1)
    structures: dict[str, Structure] = Field(min_length=1)
    data: Annotated[FolderData | SimulatedData, Field(discriminator="source")]
    splits: Splits = Splits()
    segmentor: SegmentorSpec
    judge: SegmentorSpec
    regressor: RegressorSpec | None = None
    scm: SCMSpec
    hvae: ImageSpec
    finetune: FinetuneSpec
    evaluation: EvaluationSpec = EvaluationSpec()

    @model_validator(mode="after")
    def _parts_agree(self) -> Study:
        if len(self.image.size) != 2:
            raise ValueError("image.size: give (height, width); volumes are not supported yet")
        self._check_graph()
        self._check_structures()
        self.hvae.check_image(self.image.size, self.image.channels)
        if self.regressor is None and "regressor" in self.finetune.guides:
            raise ValueError("regressor: this key is required, as finetune.guides names the regressor")
        if self.judge.seed == self.segmentor.seed:
            raise ValueError("judge.seed: must differ from segmentor.seed; a judge equal to the guide proves nothing")
        absent = [name for name in self.measured if self.variables[name].zero_inflated]
        if absent and self.evaluation.metric == "mape":
            raise ValueError(f"evaluation.metric: a percentage of nothing is none, and {absent[0]} may be 0; use 'mae'")
        for key, names in (
            ("finetune.intervene", self.finetune.intervene),
            ("evaluation.interventions", self.evaluation.interventions),
            ("evaluation.progression", self.evaluation.progression),
        ):
            for name in names:
                if name not in self.variables:
                    raise ValueError(f"{key}: {name!r} is not a variable ({', '.join(self.variables)})")
        for name in self.evaluation.progression:
            if self.variables[name].kind != "continuous":
                raise ValueError(f"evaluation.progression: {name!r} is categorical, so nothing rises")
        return self

    def _check_graph(self) -> None:
        for name, variable in self.variables.items():
            for parent in variable.parents:
                if parent not in self.variables:
                    raise ValueError(
                        f"variables.{name}.parents: {parent!r} is not a variable ({', '.join(self.variables)})"
                    )
        # Imported here: the graph is plain Python, but the causal package imports torch.
        from segcft.config.graph import CycleError, Graph

        try:
            Graph({name: variable.parents for name, variable in self.variables.items()})
        except CycleError as error:
            raise ValueError(f"variables: {error}") from None

    def _check_structures(self) -> None:
        taken: dict[str, str] = {}
        for name, structure in self.structures.items():
            variable = self.variables.get(structure.variable)
            if variable is None or variable.kind != "continuous":
                raise ValueError(
                    f"structures.{name}.variable: {structure.variable!r} is not a continuous variable of the study"
                )
            if structure.variable in taken:
                raise ValueError(
                    f"structures.{name}.variable: {structure.variable!r} is already that of "
                    f"{taken[structure.variable]!r}"
                )
            taken[structure.variable] = name
            if isinstance(self.data, FolderData) and not (structure.bit or structure.label or structure.file):
                raise ValueError(f"structures.{name}: say how masks show it: one of 'bit', 'label' and 'file'")

    @property
    def measured(self) -> tuple[str, ...]:
        """The structures' variables, in the order of the structures."""
        return tuple(structure.variable for structure in self.structures.values())

    @property
    def measured_columns(self) -> list[int]:
        """Where :attr:`measured` are among the variables: columns of a (B, V) batch of values."""
        names = list(self.variables)
        return [names.index(name) for name in self.measured]


def load_study(path: str | Path) -> Study:
    """Read and validate a study file.

    Raises:
        StudyError: the file is missing, is not YAML or breaks a rule; the message lists every offending key.
    """
    return parse_study(read_mapping(Path(path)), source=str(path))


def parse_study(raw: dict[str, Any], source: str = "study") -> Study:
    """Validate a study that is already a mapping; ``source`` is the name that errors carry."""
    return validate(Study, raw, source)


def read_mapping(path: Path, kind: str = "study file") -> dict[str, Any]:
    """The YAML file at ``path``, of a ``kind`` that errors name, without top-level keys that begin with ``_``.

    Raises:
        StudyError: the file is missing, is not YAML or not a mapping, or gives a key twice.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: cannot read this {kind} ({error})") from None
    if len(text) > MOST_CHARACTERS:
        raise StudyError(f"{path}: more than {MOST_CHARACTERS} characters, which is no {kind}")
    try:
        raw = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise StudyError(f"{path}: not valid YAML: nested too deeply") from None
    except Exception as error:  # a value that is not of the type it says, e.g. a date that is none
        raise StudyError(f"{path}: not valid YAML: a value cannot be read ({error})") from None
    if not isinstance(raw, dict):
        raise StudyError(f"{path}: this {kind} is a mapping of keys to values, not {type(raw).__name__}")
    return {key: value for key, value in raw.items() if not str(key).startswith("_")}  # places for YAML anchors


def validate(section: type[S], raw: dict[str, Any], source: str) -> S:
    """``raw`` as a ``section``; ``source`` is the name that errors carry.

    Raises:
        StudyError: it breaks a rule; the message lists every offending key.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise StudyError("\n".join(f"{source}: {line}" for line in lines)) from None


def _explain(error: Any) -> str:
    """One line for one pydantic error: the dotted key, what is wrong, and the nearest known key."""
    key = ".".join(str(part) for part in error["loc"] if part not in UNION_TAGS)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key.rsplit(".", 1)[-1], _known_keys(Section), n=1)
        message = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    elif error["type"] == "missing":
        message = "this key is required"
    elif not isinstance(error["input"], dict) and error["type"] != "value_error":
        message += f", got {_short(error['input'])}"
    return f"{key}: {message}" if key else message


def _short(value: Any) -> str:
    """A value as text of which an error can hold a few."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes out
        return "a number of thousands of digits"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _known_keys(section: type[BaseModel]) -> list[str]:
    """The keys of a section and of all kinds of it."""
    return sorted({*section.model_fields, *(key for kind in section.__subclasses__() for key in _known_keys(kind))})


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which plain YAML silently keeps the last, and aliases that stand
    for so much that the whole would not fit into memory (billion laughs)."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and self._size(node, {}) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases stand for more than {MOST_VALUES} values", node.start_mark
            )
        return node

    def _size(self, node: yaml.Node, known: dict[int, int | None]) -> int:
        """How many values a node is, with aliases written out."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in known:
            known[id(node)] = None
            inner = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
            known[id(node)] = 1 + sum(self._size(one, known) for one in inner)
        size = known[id(node)]
        if size is None:
            raise yaml.constructor.ConstructorError(None, None, "an anchor contains itself", node.start_mark)
        return size

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


OLDEST = 130
"""Ages above this, in years, are not believed; nobody has been older than 122."""
