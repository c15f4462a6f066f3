"""The typed description of one study: graph, structures, image, model sizes and the budget of each stage.

A study is a YAML file; everything that differs from one study to another is in it and nowhere in the code.
:func:`segcft.config.loader.load_study` reads it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from segcft.config.graph import CycleError, Graph
from segcft.config.image import Image
from segcft.config.mechanisms import ImageSpec
from segcft.config.section import Section, Training
from segcft.config.segmentors import SegmentorSection
from segcft.config.sources import FolderData, SeveralFolders, SimulatedData, Splits
from segcft.config.stages import EvaluationSpec, FinetuneSpec, RegressorSpec, SCMSpec
from segcft.config.structure import Mask, Structure
from segcft.config.variable import Variable

COLUMNS = ("id", "patient", "split")
"""What samples have beside their variables."""


class Study(Section):
    """One study, whole. See the files in ``configs/`` for worked examples.

    The ``regressor`` may be left out where ``finetune.guides`` does not name it. ``confounded`` are pairs of variables
    that something causes which is no variable, as how deeply one has breathed in causes the areas of both lungs.

    With a ``predictor`` fine-tuning is guided by what the image shows of the other variables too; ``predictor_judge``
    judges that. Studies without them guide and judge measures only. A study may have no ``structures``, and then it has
    neither ``segmentor`` nor ``judge``: predictors alone guide and judge.

    ``masks`` are of what is no variable as a whole, but is that which structures are ``of``: a vessel whose thirds are
    variables.
    """

    LATER = frozenset({"confounded", "masks", "predictor", "predictor_judge"})

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    image: Image
    variables: dict[str, Variable] = Field(min_length=1)
    confounded: tuple[tuple[str, str], ...] = ()
    masks: dict[str, Mask] = Field(default_factory=dict)
    structures: dict[str, Structure] = Field(default_factory=dict)
    data: Annotated[FolderData | SeveralFolders | SimulatedData, Field(discriminator="source")]
    splits: Splits = Splits()
    segmentor: SegmentorSection | None
    judge: SegmentorSection | None
    regressor: RegressorSpec | None = None
    predictor: RegressorSpec | None = None
    predictor_judge: RegressorSpec | None = None
    scm: SCMSpec
    hvae: ImageSpec
    finetune: FinetuneSpec
    evaluation: EvaluationSpec = EvaluationSpec()

    @model_validator(mode="before")
    @classmethod
    def _no_structures_need_no_masks(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("structures"):
            return given
        alone: dict[str, Any] = {"segmentor": None, "judge": None} | given | {"structures": {}}
        if isinstance(given.get("finetune"), dict):
            alone["finetune"] = {"guides": ["predictor"]} | given["finetune"]
        return alone

    @model_validator(mode="after")
    def _parts_agree(self) -> Study:
        self._check_axes()
        self._check_graph()
        self._check_structures()
        self._check_masks()
        if self.splits.folds is not None and self._has_split:
            raise ValueError(
                "data.split: the table gives the split, so there are no folds to draw; leave out one of them"
            )
        if isinstance(self.data, SeveralFolders):
            self.data.check(self.variables, {*self.measured, *self.derived})
        self._check_pairs()
        self.hvae.check_image(self.image.size, self.image.channels)
        self._check_readers()
        self._check_confounding()
        self._check_predictors()
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
        for name in self.evaluation.groups:
            if name not in self.variables and name not in self.data.keep:
                known = ", ".join([*self.variables, *self.data.keep])
                raise ValueError(f"evaluation.groups: {name!r} is no variable and no column of data.keep ({known})")
        for name in self.finetune.intervene:
            if self.variables[name].derived:
                raise ValueError(f"finetune.intervene: {name!r} is derived; name what it is derived from")
        for name, spec in self:
            if isinstance(spec, Training) and spec.patience and not self.splits.validation:
                raise ValueError(
                    f"{name}.patience: without validation samples (splits.validation) nothing says when to end"
                )
        for name in self.evaluation.progression:
            if self.variables[name].kind != "continuous":
                raise ValueError(f"evaluation.progression: {name!r} is categorical, so nothing rises")
            if (part := self.variables[name].solve_for) in self.evaluation.progression:
                raise ValueError(
                    f"evaluation.progression: {name!r} sets {part!r}, which rises too; leave out one of them"
                )
        return self

    def _check_graph(self) -> None:
        for name, variable in self.variables.items():
            for parent in variable.parents:
                if parent not in self.variables:
                    known = ", ".join(self.variables)
                    raise ValueError(f"variables.{name}.parents: {parent!r} is not a variable ({known})")
        try:
            graph = Graph.of(self.variables)
        except CycleError as error:
            raise ValueError(f"variables: {error}") from None
        self._check_confounded(graph)
        self._check_derived(graph)

    def _check_derived(self, graph: Graph) -> None:
        for name, variable in self.variables.items():
            where = f"variables.{name}"
            for parent in variable.parents:
                if self.variables[parent].derived:
                    why = f"{parent!r} is derived and causes nothing by itself; name what it is derived from"
                    raise ValueError(f"{where}.parents: {why}")
            if not variable.derived:
                continue
            if any(self.variables[parent].categories for parent in variable.parents):
                raise ValueError(f"{where}.formula: a category is no number")
            others = [parent for parent in variable.parents if parent != variable.solve_for]
            if moved := graph.descendants([variable.solve_for]) & set(others):
                why = f"{variable.solve_for!r} is a cause of {min(moved)!r}, so nothing says how far to move it"
                raise ValueError(f"{where}.solve_for: {why}")

    def _check_confounded(self, graph: Graph) -> None:
        seen: set[frozenset[str]] = set()
        for pair in self.confounded:
            shown = f"confounded: {' and '.join(map(repr, pair))}"
            for name in pair:
                variable = self.variables.get(name)
                odd = variable is None or variable.kind != "continuous" or variable.zero_inflated or variable.derived
                if odd:
                    raise ValueError(f"{shown}: {name!r} is no continuous variable that is never absent, nor derived")
            if len(set(pair)) < 2 or frozenset(pair) in seen:
                raise ValueError(f"{shown}: name two variables, and each pair once")
            seen.add(frozenset(pair))
            if any(one in graph.descendants([other]) for one, other in (pair, pair[::-1])):
                raise ValueError(
                    f"{shown}: one is a cause of the other, and no data tell that apart from what confounds them"
                )

    def _check_axes(self) -> None:
        axes = len(self.image.size)
        if isinstance(self.data, SimulatedData) and axes != self.data.axes:
            wanted = "(depth, height, width)" if self.data.axes == 3 else "(height, width)"
            raise ValueError(f"image.size: of data.source: {self.data.source} give {wanted}")
        if axes == 2:
            return
        for key, spec in self.data.every.items():
            if spec.spacing is not None or spec.nifti_axes is not None:
                why = "files of volumes say how large voxels are, and how they lie"
                raise ValueError(f"{key}: {why}; leave out 'spacing' and 'nifti_axes'")
        views = {f"{name}.augment": spec.augment for name, spec in self if isinstance(spec, Training)}
        for key, augment in (*views.items(), ("finetune.view", self.finetune.view)):
            if augment.film.share:
                raise ValueError(f"{key}.film: it is of radiographs, and these are volumes; leave that out")

    def _check_masks(self) -> None:
        for name in self.masks:
            if name in self.structures:
                raise ValueError(f"masks.{name}: a structure has this name, and a mask of its own; leave out one")
            if not any(name in structure.of for structure in self.structures.values()):
                raise ValueError(f"masks.{name}: no structure is 'of' it, so nothing is measured of it; leave it out")
        if isinstance(self.data, SimulatedData):
            return
        for name, mask in self.masked.items():
            if not (mask.bit or mask.label or mask.file):
                key, of = ("masks", "") if name in self.masks else ("structures", ", 'of'")
                raise ValueError(f"{key}.{name}: say how masks show it: one of 'bit', 'label', 'file'{of}")

    def _check_structures(self) -> None:
        taken: dict[str, str] = {}
        for name, structure in self.structures.items():
            variable, where = self.variables.get(structure.variable), f"structures.{name}.variable"
            if variable is None or variable.kind != "continuous" or variable.derived:
                raise ValueError(f"{where}: {structure.variable!r} is not a continuous variable, or is derived")
            if (owner := taken.setdefault(structure.variable, name)) != name:
                raise ValueError(f"{where}: {structure.variable!r} is already that of {owner!r}")
            if len(set(structure.of)) < len(structure.of):
                raise ValueError(f"structures.{name}.of: names one twice")
            for other in structure.of:
                if other not in self.masked:
                    known = ", ".join(self.masked)
                    raise ValueError(f"structures.{name}.of: {other!r} is no structure with its own mask ({known})")
            if structure.reference is not None and structure.reference not in self.masked:
                known = ", ".join(self.masked)
                why = f"{structure.reference!r} is no structure with its own mask ({known})"
                raise ValueError(f"structures.{name}.reference: {why}")
            if structure.zone is not None and structure.zone.axis == "z" and len(self.image.size) < 3:
                raise ValueError(f"structures.{name}.zone.axis: an image has the axes x and y, not 'z'")

    def _check_confounding(self) -> None:
        if not isinstance(self.data, SimulatedData) or self.data.confounding is None:
            return
        if self.splits.folds is not None:
            raise ValueError("data.confounding: in folds everybody is tested, and so confounded nowhere; leave out one")
        if self.structures and not self.splits.judge:
            why = "the judge would learn the shortcut as well; give it people of its own"
            raise ValueError(f"data.confounding: {why} (splits.judge)")

    def _check_readers(self) -> None:
        if self.regressor is None and "regressor" in self.finetune.guides:
            raise ValueError("regressor: this key is required, as finetune.guides names the regressor")
        for name, spec in (("segmentor", self.segmentor), ("judge", self.judge)):
            if spec is None and self.structures:
                raise ValueError(f"{name}: this key is required, as there are structures")
            if spec is not None and not self.structures:
                raise ValueError(f"{name}: without structures there are no masks to read; leave this key out")
        if self.segmentor is not None and self.judge is not None and self.judge.seed == self.segmentor.seed:
            raise ValueError("judge.seed: must differ from segmentor.seed; a judge equal to the guide proves nothing")
        deformed = {
            "hvae.deform": self.hvae.deform,
            "hvae.augment.deform": self.hvae.augment.deform,
            "finetune.augment.deform": self.finetune.augment.deform,
        }
        for key, deform in deformed.items():
            if not self.structures and deform.share:
                raise ValueError(f"{key}: there is no structure to deform; leave this key out")
        alone = self.finetune.guides == ("predictor",)
        if "predictor" in self.finetune.guides and self.structures:
            why = "beside structures the predictor guides with the others, once 'predictor' is a section of the study"
            raise ValueError(f"finetune.guides: {why}; leave it out here")
        if self.finetune.guides and not self.structures and not alone:
            raise ValueError("finetune.guides: without structures there is one guide; give [predictor]")

    def _check_predictors(self) -> None:
        for name, spec in (("predictor", self.predictor), ("predictor_judge", self.predictor_judge)):
            if spec is not None and spec.augment.deform.share:
                raise ValueError(f"{name}.augment.deform: who reads attributes sees no masks; leave this key out")
            if spec is not None and (same := set(self.attributes) & self.structures.keys()):
                raise ValueError(
                    f"structures: {min(same)!r} is a variable of its own, too; tables need another name for one"
                )
            if spec is not None and not self.attributes:
                raise ValueError(f"{name}: every variable is measured or derived, so there is nothing to predict")
            if spec is not None and not self.splits.validation and not self._has_split:
                why = "validation samples say how much of an attribute is to be seen, and there are none"
                raise ValueError(f"{name}: {why} (splits.validation)")
        if self.predictor is None:
            if "predictor" in self.finetune.guides:
                raise ValueError("predictor: this key is required, as finetune.guides names the predictor")
            return
        if self.predictor_judge is None:
            raise ValueError("predictor_judge: this key is required, as the predictor cannot judge what it has guided")
        if self.predictor.seed == self.predictor_judge.seed:
            raise ValueError("predictor_judge.seed: must differ from predictor.seed; a judge must not be the guide")

    def _check_pairs(self) -> None:
        kept = self.data.keep
        for name in kept:
            if name in self.variables or name in COLUMNS:
                raise ValueError(f"data.keep: {name!r} is kept anyway")
        pairs = self.evaluation.pairs
        if self.hvae.pairs and self.hvae.missing == "draw":
            raise ValueError("hvae.missing: of a pair, one subject's images would be drawn apart; say 'leave out'")
        if pairs is None:
            if self.hvae.pairs:
                raise ValueError("hvae.pairs: 'evaluation.pairs' must say which images are pairs, and is missing")
            return
        if not self.data.patient:
            raise ValueError("evaluation.pairs: images of one subject are told by data.patient, which is missing")
        categorical = [name for name, variable in self.variables.items() if variable.kind == "categorical"]
        if pairs.condition not in categorical:
            known = ", ".join(categorical)
            raise ValueError(f"evaluation.pairs.condition: {pairs.condition!r} is no categorical variable ({known})")
        places = [name for name in (*categorical, *kept) if name != pairs.condition]
        for name in pairs.place:
            if name not in places:
                where, known = "evaluation.pairs.place", ", ".join(places) or "none"
                raise ValueError(f"{where}: {name!r} is no other categorical variable or column of data.keep ({known})")

    @property
    def _has_split(self) -> bool:
        return self.data.split is not None

    @property
    def attributes(self) -> tuple[str, ...]:
        """The variables that are neither measured nor derived: what masks do not tell."""
        return tuple(name for name in self.variables if name not in {*self.measured, *self.derived})

    @property
    def derived(self) -> tuple[str, ...]:
        """The variables that follow from others by a formula."""
        return tuple(name for name, variable in self.variables.items() if variable.derived)

    @property
    def asked(self) -> tuple[str, ...]:
        """The variables that an evaluation intervenes on: those that it names, else all measures, else all."""
        return self.evaluation.interventions or self.measured or self.attributes

    @property
    def own(self) -> dict[str, Structure]:
        """The structures that have masks of their own."""
        return {name: structure for name, structure in self.structures.items() if not structure.of}

    @property
    def masked(self) -> dict[str, Mask]:
        """All that has a mask, in the order of the masks' channels: structures, and then ``masks``."""
        return {**self.own, **self.masks}

    def may_be_absent(self, name: str) -> bool:
        """Whether a sample's mask ``name`` may be empty."""
        structure = self.own.get(name)
        zero = structure is not None and self.variables[structure.variable].zero_inflated
        return zero or name in self.data.may_be_absent

    def channels(self, structure: str) -> tuple[int, ...]:
        """The channels of masks that show a structure: its own, or those that it is ``of``."""
        names = list(self.masked)
        return tuple(names.index(name) for name in self.structures[structure].of or (structure,))

    @property
    def measured(self) -> tuple[str, ...]:
        """The structures' variables, in the order of the structures."""
        return tuple(structure.variable for structure in self.structures.values())

    @property
    def measured_columns(self) -> list[int]:
        """Where :attr:`measured` are among the variables: columns of a (B, V) batch of values."""
        names = list(self.variables)
        return [names.index(name) for name in self.measured]
