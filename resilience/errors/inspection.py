"""Looking at somebody else's exception without being hurt: its attributes may raise and its `__class__` may lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard, TypeVar

from signals.redact import type_name

T = TypeVar("T")


def is_a(thing: object, kind: type[T]) -> TypeGuard[T]:
    """What `isinstance` says, had it not asked the object itself."""
    return issubclass(type(thing), kind)


def peek(holder: object, attribute: str) -> Any:
    """An attribute of somebody else's object, None when reading it raises, as properties of clients may.

    Whatever it raises, SystemExit included; only KeyboardInterrupt, which is a person's word, comes through.
    """
    try:
        return getattr(holder, attribute, None)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  whatever it is, it is not evidence
        return None


class Look:
    """One look at an exception and at what hangs on it: however many rules ask, each attribute is read once.

    A property may be slow, count its readers, or answer differently the second time.
    """

    def __init__(self) -> None:
        self._read: dict[tuple[int, str], Any] = {}
        self._lineages: dict[int, tuple[tuple[str, str], ...]] = {}
        self._entered: set[int] = set()
        self._held: list[object] = []  # an object that is gone would leave its id to another

    def at(self, holder: object, attribute: str) -> Any:
        """What `peek` says, read at the first question and remembered for the others."""
        key = (id(holder), attribute)
        if key not in self._read:
            self._held.append(holder)
            self._read[key] = peek(holder, attribute)
        return self._read[key]

    def lineage(self, thing: object) -> tuple[tuple[str, str], ...]:
        """What `lineage` says, remembered."""
        if id(thing) not in self._lineages:
            self._held.append(thing)
            self._lineages[id(thing)] = tuple(lineage(thing))
        return self._lineages[id(thing)]

    def enter(self, thing: object, limit: int) -> bool:
        """Whether `thing` may be gone into: only once, and only `limit` things in all."""
        if id(thing) in self._entered or len(self._entered) >= limit:
            return False
        self._held.append(thing)
        self._entered.add(id(thing))
        return True

    def text(self, thing: object) -> str:
        """Its `str`, remembered; an empty text when that raises."""
        key = (id(thing), "__str__()")
        if key not in self._read:
            self._held.append(thing)
            self._read[key] = said(thing)
        return str(self._read[key])


def said(thing: object) -> str:
    """What `str` makes of somebody else's object; an empty text when that raises."""
    try:
        return str(thing)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  an exception that cannot be read says nothing
        return ""


def part(holder: Any, key: str) -> Any:
    """An item of a dictionary; None for anything that is none."""
    return holder.get(key) if isinstance(holder, dict) else None


def qualified_name(thing: object) -> str:
    """Module and name of its class; the name alone for a built-in one."""
    module = _module(type(thing))
    return type_name(thing) if module in ("", "builtins") else f"{module}.{type_name(thing)}"


def lineage(thing: object) -> Iterator[tuple[str, str]]:
    """(top-level module, name) of its class and of each base."""
    for cls in _of_class(type(thing), "__mro__"):
        yield _module(cls).partition(".")[0], _of_class(cls, "__name__")


def _module(cls: type) -> str:
    try:
        module = _of_class(cls, "__module__")  # of a class made in C, as psycopg2's are, it is in no dictionary
    except AttributeError:
        return ""
    return module if type(module) is str else ""


def _of_class(cls: type, attribute: str) -> Any:
    """An attribute of a class as Python keeps it, whatever its metaclass makes of it."""
    return type.__dict__[attribute].__get__(cls)
