"""What of one kind there is, by name: a new one is one file, in the package or outside of it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from segcft.errors import Code, SegcftError

T = TypeVar("T")

Check = Callable[[Any], str]
"""What is wrong with a thing, and what was expected; "" where nothing is."""


def instance_of(base: type) -> Check:
    """The check that a thing is an instance of ``base``, and not the class itself."""
    return lambda thing: "" if isinstance(thing, base) else f"expected an instance of {base.__name__}, not {thing!r}"


def subclass_of(base: type) -> Check:
    """The check that a thing is a class derived from ``base``, and not an instance of one."""

    def wrong(thing: Any) -> str:
        fits = isinstance(thing, type) and issubclass(thing, base)
        return "" if fits else f"expected a class derived from {base.__name__}, not {thing!r}"

    return wrong


class Registry(Mapping[str, T], Generic[T]):
    """Name -> thing: those of the package in the order of its modules, then others in the order of :meth:`add`.

    The first look-up of an unknown name imports the modules of ``package``, which add theirs. So do other installed
    packages, by an entry point of the group ``segcft``, and scripts, which call :meth:`add`.

    Args:
        kind: what they are, for errors: "measure".
        package: whose modules add them.
        field: where a study or command names one, for errors: "structures.NAME.measure".
        check: says what is wrong with a thing that is added.
    """

    def __init__(self, kind: str, package: str, field: str = "", check: Check = lambda thing: "") -> None:
        self.kind, self.package, self.field, self.check = kind, package, field, check
        self._things: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, thing: T) -> T:
        """Make ``thing`` known as ``name``.

        Raises:
            SegcftError: another one has this name; it is not what is expected, or calls itself otherwise.
        """
        field, known, own = f"{self.kind} {name!r}", self._things.get(name, thing), getattr(thing, "name", name)
        if known is not thing:
            raise SegcftError(Code.DUPLICATE, field, f"there is one of this name already, {known!r}")
        if wrong := self.check(thing):
            raise SegcftError(Code.INVALID, field, wrong)
        if isinstance(own, str) and own != name:
            raise SegcftError(Code.CONFLICT, field, f"its own name is {own!r}; expected the same")
        self._things[name] = thing
        return thing

    def find(self, name: str) -> T:
        """The one of this name.

        Raises:
            SegcftError: there is none.
        """
        if name not in self:
            raise SegcftError(Code.UNKNOWN, self.field or self.kind, f"{name!r} is none of {', '.join(self)}")
        return self[name]

    def __getitem__(self, name: str) -> T:
        return self._things[name] if name in self._things else self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, T]:
        if not self._loaded:
            self._loaded = True
            package = importlib.import_module(self.package)
            modules = [f"{self.package}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
            for module in modules:
                importlib.import_module(module)
            for plugin in entry_points(group="segcft"):
                plugin.load()
            place = {module: k for k, module in enumerate(modules)}
            # Whoever imports a module first does not change the order.
            names = sorted(self._things, key=lambda name: place.get(self._things[name].__module__, len(place)))
            self._things = {name: self._things[name] for name in names}
        return self._things
