"""Tracing tools put functions of their own in the place of a library's: a shorter way must not pass them by."""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import Any


def is_original(function: Any, module: ModuleType) -> bool:
    """Whether a method is still the one that `module` defines."""
    return type(function) is FunctionType and function.__code__.co_filename == module.__file__
