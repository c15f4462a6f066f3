"""What of one kind there is, by name: a new one is one file, in the package or outside of it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from segcft.errors import Code, SegcftError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name -> thing: those of the package in the order of its modules, then others in the order of :meth:`add`.

    The modules of ``package`` add theirs when they are imported, which the first look-up of a name that is not known
    yet does. So do modules of other
    installed packages that have an entry point of the group ``segcft``, and scripts, which call :meth:`add`.

    Args:
        kind: what they are, for errors: "measure".
        package: whose modules add them.
        field: where a study or command names one, for errors: "structures.NAME.measure".
    """

    def __init__(self, kind: str, package: str, field: str = "") -> None:
        self.kind, self.package, self.field = kind, package, field
        self._things: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, thing: T) -> T:
        """Make ``thing`` known as ``name``.

        Raises:
            SegcftError: another one has this name.
        """
        known = self._things.setdefault(name, thing)
        if known is not thing:
            raise SegcftError(Code.DUPLICATE, f"{self.kind} {name!r}", f"there is one of this name already, {known!r}")
        return thing

    def find(self, name: str) -> T:
        """The one of this name.

        Raises:
            SegcftError: there is none.
        """
        if name not in self:
            raise SegcftError(Code.UNKNOWN, self.field, f"{name!r} is no {self.kind} ({', '.join(self)})")
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
            ordered = sorted(
                self._things.items(), key=lambda item: place.get(getattr(item[1], "__module__", ""), len(place))
            )
            self._things = dict(ordered)  # whoever imports a module first does not change it
        return self._things
