"""What of one kind there is, by name: a new one is one file, in the package or outside of it."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from segcft.errors import Code, SegcftError

T = TypeVar("T")

LOADING = threading.RLock()
"""Held while things are loaded. One for all registries: the modules of one may look into another."""

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
    packages, by an entry point of the group ``segcft``, and scripts, which call :meth:`add`. Threads may look things
    up at once.

    Args:
        kind: what they are, for errors: "measure".
        package: whose modules add them.
        field: where a study or command names one, for errors: "structures.NAME.measure".
        check: says what is wrong with a thing that is added.

    Raises:
        SegcftError: on looking things up, an installed package cannot be loaded; the field names its entry point.
    """

    def __init__(self, kind: str, package: str, field: str = "", check: Check = lambda thing: "") -> None:
        self.kind, self.package, self.field, self.check = kind, package, field, check
        self._things: dict[str, T] = {}
        self._places: dict[str, int] = {}  # of the package's modules, in order
        self._loaded = self._loading = False

    def add(self, name: str, thing: T) -> T:
        """Make ``thing`` known as ``name``.

        Raises:
            SegcftError: another one has this name; it is not what is expected, or calls itself otherwise.
        """
        field, known, own = f"{self.kind} {name!r}", self._things.get(name, thing), getattr(thing, "name", name)
        if known is not thing:
            raise SegcftError(Code.DUPLICATE, field, f"there is one of this name already, in {known.__module__}")
        if wrong := self.check(thing):
            raise SegcftError(Code.INVALID, field, wrong)
        if isinstance(own, str) and own != name:
            raise SegcftError(Code.CONFLICT, field, f"its own name is {own!r}; expected the same")
        self._things[name] = thing  # without the lock: who imports a module holds Python's own
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
        if name not in self._things:
            self._load()
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        # Whoever imports a module first does not change the order.
        return iter(sorted(self._things, key=self._place))

    def __len__(self) -> int:
        self._load()
        return len(self._things)

    def _place(self, name: str) -> int:
        return self._places.get(self._things[name].__module__, len(self._places))

    def _load(self) -> None:
        """Have all modules and installed packages add theirs, once; another thread waits until they have."""
        if self._loaded:
            return
        with LOADING:
            if self._loaded or self._loading:  # the latter: a module that is being loaded looks things up
                return
            self._loading = True
            try:
                package = importlib.import_module(self.package)
                modules = [f"{self.package}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
                self._places = {module: place for place, module in enumerate(modules)}
                for module in modules:
                    importlib.import_module(module)
                for plugin in entry_points(group="segcft"):
                    _load_plugin(plugin)
                self._loaded = True
            finally:
                self._loading = False


def _load_plugin(plugin: EntryPoint) -> None:
    try:
        plugin.load()
    except Exception as error:  # what other people's code may raise
        text = f"cannot be loaded ({type(error).__name__}: {error}); mend or uninstall the package that it is of"
        raise SegcftError(Code.FAILED, f"plug-in {plugin.name!r} ({plugin.value})", text) from error
