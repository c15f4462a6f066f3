"""Reading and validating YAML files, whose errors name the file and the key."""

from __future__ import annotations

import difflib
import itertools
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from segcft.config.section import Section
from segcft.config.study import Study
from segcft.errors import Code, StudyError

S = TypeVar("S", bound=Section)

MOST_SHOWN = 200
"""Characters of a wrong value that an error shows."""
MOST_CHARACTERS = 1 << 18
"""Of a YAML file; the largest study has some 10,000."""
MOST_VALUES = 1 << 16
"""In a YAML file, with what its aliases stand for."""

UNION_TAGS = (
    "folder",
    "chest-simulator",
    "coronary-simulator",
    "pendulum-simulator",
    "retina-simulator",
    "volume-simulator",
)
"""Which variant of a section an error is about, in pydantic's path to it: no key of the file."""


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
    """:func:`read_yaml` without top-level keys that begin with ``_``: places for YAML anchors and for notes."""
    return {key: value for key, value in read_yaml(path, kind).items() if not str(key).startswith("_")}


def read_yaml(path: Path, kind: str = "study file") -> dict[str, Any]:
    """The YAML file at ``path``, of a ``kind`` that errors name.

    Raises:
        StudyError: the file is missing, is not YAML or not a mapping, or gives a key twice.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        raise StudyError(Code.UNREADABLE, path, f"cannot read this {kind} ({error})") from None
    if len(text) > MOST_CHARACTERS:
        raise StudyError(Code.TOO_LARGE, path, f"more than {MOST_CHARACTERS} characters, which is no {kind}")
    try:
        raw = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise StudyError(Code.INVALID, path, f"not valid YAML: {error}") from None
    except RecursionError:
        raise StudyError(Code.INVALID, path, "not valid YAML: nested too deeply") from None
    except Exception as error:  # a value that is not of the type it says, e.g. a date that is none
        raise StudyError(Code.INVALID, path, f"not valid YAML: a value cannot be read ({error})") from None
    if not isinstance(raw, dict):
        raise StudyError(Code.INVALID, path, f"this {kind} is a mapping of keys to values, not {type(raw).__name__}")
    return raw


def validate(section: type[S], raw: dict[str, Any], source: str) -> S:
    """``raw`` as a ``section``; ``source`` is the name that errors carry.

    Raises:
        StudyError: it breaks a rule; the message lists every offending key.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors()]
        (field, text), *others = [(f"{source}: {key}" if key else source, text) for key, text in problems]
        text = "\n".join([text, *(f"{where}: {what}" for where, what in others)])
        raise StudyError(Code.INVALID, field, text, problems) from None


def _explain(error: Any) -> tuple[str, str]:
    """Of one pydantic error the dotted key, and what is wrong, with the nearest known key."""
    keys = [str(part) for part in error["loc"] if part not in UNION_TAGS]
    message = error["msg"].removeprefix("Value error, ")
    if found := re.fullmatch(
        r"(\w\S*): (.*)", message, re.DOTALL
    ):  # a rule on several keys names the one that is wrong
        keys, message = [*keys, found[1]], found[2]
    key = ".".join(keys)
    if error["type"] == "extra_forbidden":
        written = key.rsplit(".", 1)[-1]
        # What another section knows under this very name is no help here.
        known = [one for one in _known_keys(Section) if one != written]
        near = difflib.get_close_matches(written, known, n=1)
        message = "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    elif error["type"] == "missing":
        message = "this key is required"
    elif not isinstance(error["input"], dict) and error["type"] != "value_error":
        message += f", got {_short(error['input'])}"
    return key, message


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
