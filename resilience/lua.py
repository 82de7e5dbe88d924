"""The text of a Lua file that lies in a package, read once per process."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def source(package: str, name: str) -> str:
    """`source(__package__, "pulse.lua")`."""
    return (files(package) / name).read_text("utf-8")
