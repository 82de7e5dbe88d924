"""How a task's arguments look to people, as Celery writes it into the message; faster where they are plain.

Equal to `celery.utils.saferepr.saferepr` for everything, because what is not plain is left to it.
"""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr

_LEVELS = 2
"""How deep plain containers are followed: less than Celery's `task_repr_maxlevels`, 3 by default."""

_AS_STR = (int, bool, float, type(None))


def represented(arguments: Any, longest: int, levels: int) -> str:
    """`arguments` as text of at most about `longest` characters, containers followed `levels` deep."""
    if not levels or levels > _LEVELS:
        text = _plain(arguments, _LEVELS, longest)
        if text is not None and len(text) < longest:  # from that length on it would be cut somewhere
            return text
    return str(saferepr(arguments, longest, maxlevels=levels))


def _plain(value: Any, levels: int, longest: int) -> str | None:
    """The text of a plain value; None if it is not plain, or too long, or too deep."""
    kind = type(value)
    if kind is str:
        return None if len(value) > longest else "'" + value.replace("'", "\\'") + "'"
    if kind in _AS_STR:
        return str(value)
    if not levels or kind not in (tuple, list, dict) or len(value) > longest:
        return None
    return _plain_pairs(value, levels, longest) if kind is dict else _plain_items(value, levels, longest)


def _plain_items(items: list[Any] | tuple[Any, ...], levels: int, longest: int) -> str | None:
    texts = []
    for item in items:
        text = _plain(item, levels - 1, longest)
        if text is None:
            return None
        texts.append(text)
    if type(items) is list:
        return f"[{', '.join(texts)}]"
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def _plain_pairs(pairs: dict[Any, Any], levels: int, longest: int) -> str | None:
    texts = []
    for key, item in pairs.items():
        name, text = _plain(key, 0, longest), _plain(item, levels - 1, longest)
        if name is None or text is None:
            return None
        texts.append(f"{name}: {text}")
    return "{" + ", ".join(texts) + "}"
