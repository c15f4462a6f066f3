"""Sections of a study whose ``architecture`` says which keys they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from segcft.config.section import Section
from segcft.utils.registry import Registry

S = TypeVar("S", bound=Section)


def by_architecture(specs: Registry[type[S]], base: type[S], default: str) -> Callable[[Any], S]:
    """What reads such a section, for pydantic: by the class of settings that its ``architecture`` names in ``specs``.

    Args:
        specs: architecture -> the class of its settings.
        base: of all these classes; an instance of it is taken as it is.
        default: the architecture of a section that names none.
    """

    def read(section: Any) -> S:
        if isinstance(section, base):
            return section
        name = section.get("architecture", default) if isinstance(section, dict) else default
        if not isinstance(name, str) or name not in specs:
            kind = PydanticCustomError("architecture", f"no {specs.kind} ({', '.join(specs)})")
            raise ValidationError.from_exception_data(
                specs.kind, [InitErrorDetails(type=kind, loc=("architecture",), input=name)]
            )
        return specs[name].model_validate(section)

    return read
