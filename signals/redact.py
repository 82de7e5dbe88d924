"""Secrets out of text, before an error travels to a log, an event or a person."""

from __future__ import annotations

import re

HIDDEN = "[redacted]"

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # a password in a URL: redis://user:secret@host
    (
        re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@", re.IGNORECASE),
        r"\g<head>:" + HIDDEN + "@",
    ),
    # an Authorization header or a bearer token
    (
        re.compile(r"(?P<head>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
        r"\g<head>" + HIDDEN,
    ),
    # keys as the LLM vendors shape them
    (re.compile(r"\b(?:sk|pk|rk|xox[abp]|gh[pousr])[-_][A-Za-z0-9_-]{8,}"), HIDDEN),
    # name=value and "name": "value"
    (
        re.compile(
            r"(?P<head>\b(?:api[_-]?key|apikey|password|passwd|secret|access[_-]?token|token)\b[\"']?\s*[:=]\s*[\"']?)"
            r"[^\s\"',;&}]+",
            re.IGNORECASE,
        ),
        r"\g<head>" + HIDDEN,
    ),
)


def redact(text: str) -> str:
    """`text` with passwords in URLs, Authorization values, API keys and secret-looking assignments blanked."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def describe(error: BaseException, limit: int = 300) -> str:
    """An exception as one redacted line of at most `limit` characters; safe when its `__str__` raises."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  somebody's __str__ is broken; the type still says something
        text = "(no message: its __str__ raises)"
    line = redact(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
