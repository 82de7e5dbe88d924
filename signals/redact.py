"""Secrets out of text, before an error travels to a log, an event or a person."""

from __future__ import annotations

import re

HIDDEN = "[redacted]"

_NAME = (
    r"(?P<head>(?:api[_-]?key|passw(?:or)?d|passphrase|private[_-]?key|secret|access[_-]?key|token)"
    r"(?:[_-](?:key|id|value|access[_-]key))?\\*[\"']?\s*[:=]\s*)[bru]?"
)
_FLAGS = re.IGNORECASE | re.DOTALL

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # a private key, all lines of it
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # a password in a URL: redis://user:secret@host; up to the last @ before the path, as passwords may contain one
    (
        re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@]*):[^\s/]+@", re.IGNORECASE),
        r"\g<head>:" + HIDDEN + "@",
    ),
    # an Authorization header, a bearer token, basic credentials (base64 shows a digit, a `=` or a capital within)
    (
        re.compile(
            r"(?P<head>\bauthorization\\*[\"']?\s*[:=]\s*(?:[bru]?\\*[\"'])?(?:(?:bearer|basic|token|digest|apikey)\s+)?)"
            r"(?![bru]?\\*[\"']|(?:bearer|basic|token|digest|apikey)\s)[^\s\"',;\\\[]+",
            re.IGNORECASE,
        ),
        r"\g<head>" + HIDDEN,
    ),
    (re.compile(r"(?P<head>\bbearer\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), r"\g<head>" + HIDDEN),
    (
        re.compile(r"(?P<head>\b[Bb](?:asic|ASIC)\s+)(?=[A-Za-z0-9+/]*(?:[0-9=+/]|[a-z][A-Z]))[A-Za-z0-9+/]{6,}={0,2}"),
        r"\g<head>" + HIDDEN,
    ),
    # keys as the LLM vendors shape them
    (re.compile(r"\b(?:sk|pk|rk|xox[abp]|gh[pousr])[-_][A-Za-z0-9_-]{8,}"), HIDDEN),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
    # name=value, "name": "value" and the same inside a JSON string; OPENAI_API_KEY=... and client_secret=... too
    (re.compile(_NAME + r"(?P<quote>\\*[\"'])(?:(?!(?P=quote))(?:\\.|[^\\]))+", _FLAGS), r"\g<head>\g<quote>" + HIDDEN),
    (re.compile(_NAME + r"(?![\"'\\\[])[^\s\"',;&}]+", _FLAGS), r"\g<head>" + HIDDEN),
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
