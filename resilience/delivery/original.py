"""Tracing tools put functions of their own in the place of a library's: a shorter way must not pass them by."""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import Any


def is_original(function: Any, module: ModuleType) -> bool:
    """Whether a method is still the one that `module` defines."""
    return type(function) is FunctionType and function.__code__.co_filename == module.__file__


PASSES_ON = "_celeriac_passes_on"
"""The attribute of a method of ours that leaves a first call of a task to the class that it stands before."""


def theirs(kind: type, name: str) -> Any:
    """The method `name` of a class as it would be without those of ours that pass on."""
    return next(
        vars(cls)[name] for cls in kind.__mro__ if name in vars(cls) and not hasattr(vars(cls)[name], PASSES_ON)
    )
