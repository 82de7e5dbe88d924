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
    """An attribute of somebody else's object, None when reading it raises, as properties of clients may."""
    try:
        return getattr(holder, attribute, None)
    except Exception:  # noqa: BLE001  whatever it is, it is not evidence
        return None


def part(holder: Any, key: str) -> Any:
    """An item of a dictionary; None for anything that is none."""
    return holder.get(key) if isinstance(holder, dict) else None


def qualified_name(thing: object) -> str:
    """Module and name of its class; the name alone for a built-in one."""
    module = _of_class(type(thing), "__dict__").get("__module__")
    return f"{module}.{type_name(thing)}" if isinstance(module, str) else type_name(thing)


def lineage(thing: object) -> Iterator[tuple[str, str]]:
    """(top-level module, name) of its class and of each base."""
    for cls in _of_class(type(thing), "__mro__"):
        module = _of_class(cls, "__dict__").get("__module__")
        yield module.partition(".")[0] if isinstance(module, str) else "", _of_class(cls, "__name__")


def _of_class(cls: type, attribute: str) -> Any:
    """An attribute of a class as Python keeps it, whatever its metaclass makes of it."""
    return type.__dict__[attribute].__get__(cls)
