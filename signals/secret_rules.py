"""What a secret looks like in text: by its shape, or by the name in front of it. Data for `signals.redact`.

Every rule reads a text about once, however hostile it is: repetitions that can fail late are bounded. A rule is asked
only about a text that contains one of its markers, because most texts contain none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

HIDDEN = "[redacted]"


class Rule(NamedTuple):
    """Replace `pattern` by `replacement` in a text that contains one of `markers` (in small letters)."""

    markers: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str


# Names whose values are secrets. Plain `tokens` counts words, as in max_tokens=512.
_NAMES = (
    r"api[_-]?keys?|passw(?:or)?ds?|(?<=[_?&-])pass|pwd|passphrase|private[_-]?key|secrets?|access[_-]?key|token"
    r"|(?:access|refresh|auth|api|id)[_-]tokens|x-amz-signature"
)
_NAME_MARKERS = ("key", "pass", "pwd", "secret", "token", "x-amz-signature")
_SUFFIX = r"(?:[_-](?:key|id|value|hash|base|access[_-]key))?(?:[_-]base)?\d{0,3}"
_QUOTE = r"\\{0,31}[\"']"  # JSON inside JSON puts backslashes before its quotes
_IS = rf"(?:{_QUOTE})?\s{{0,20}}[:=]\s{{0,20}}"
_SCHEME = r"(?:bearer|basic|token|digest|apikey)\s"
_USER = r"://[^\s:/@]{0,256}:"


def _whole(*markers: str, hide: str, flags: int = 0) -> Rule:
    return Rule(markers, re.compile(hide, flags), HIDDEN)


def _after(*markers: str, head: str, hide: str, tail: str = "", flags: int = re.IGNORECASE) -> Rule:
    """Keep what `head` matches and the character `tail`, hide what is between."""
    return Rule(markers, re.compile(rf"(?P<head>{head}){hide}{tail}", flags), rf"\g<head>{HIDDEN}{tail}")


def _quoted_after(*markers: str, head: str) -> Rule:
    """Keep what `head` matches, hide the string in quotes that follows, to the same kind of quote or the end."""
    opening = rf"{head}(?:\[\s{{0,20}})?[bru]?(?P<quote>{_QUOTE})"
    return _after(*markers, head=opening, hide=r"(?:(?!(?P=quote))(?:\\.|[^\\]))+", flags=re.IGNORECASE | re.DOTALL)


_BY_SHAPE: tuple[Rule, ...] = (
    # a private key, all lines of it
    _whole(
        "private key",
        hide=r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r".*?(?:-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
        flags=re.DOTALL,
    ),
    # a password in a URL: redis://user:secret@host; up to the last @ before the path, as passwords may contain one
    _after("://", head=_USER, hide=r"[^\s/]+", tail="@"),
    # with a slash in the password it is no URL any more, but it is what people type; `host:6379/0` is a port
    _after("://", head=_USER, hide=r"(?!\d{1,5}(?:[/?#\s]|\Z))[^\s@]{1,128}", tail="@"),
    # what urllib says about that one
    _after("port could", head=r"Port could not be cast to integer value as ", hide=r"(?:'[^']*'|\"[^\"]*\")"),
    # an Authorization header, a bearer token, basic credentials (base64 shows a digit, a `=` or a capital within)
    _after(
        "authorization",
        head=rf"\bauthorization{_IS}(?:[bru]?{_QUOTE})?(?:{_SCHEME}{{1,20}})?",
        hide=rf"(?![bru]?\\{{0,31}}[\"']|{_SCHEME})[^\s\"',;\\\[]+",
    ),
    _after("bearer", head=r"\bbearer\s{1,20}", hide=r"[A-Za-z0-9._~+/=-]{6,}"),
    _after(
        "basic",
        head=r"\b[Bb](?:asic|ASIC)\s{1,20}",
        hide=r"(?=[A-Za-z0-9+/]*(?:[0-9=+/]|[a-z][A-Z]))[A-Za-z0-9+/]{6,}={0,2}",
        flags=0,
    ),
    # cookies: a header to the end of its line, a dict of them, and a jar's `str` and `repr`
    _after(
        "cookie",
        head=rf"\b(?:set-)?cookie{_IS}(?:[bru]?{_QUOTE})?",
        hide=r"(?![bru]?[\s\"'\\\[])[^\r\n\"'\\]+",
    ),
    _after("cookies", head=rf"\bcookies{_IS}\{{", hide=r"(?!\[)[^{}]{1,4096}"),
    _after("<cookie", head=r"<Cookie [^\s=]{1,100}=", hide=r"[^\s\[]\S*"),
    _after("cookie(", head=r"\bCookie\(version=\d*, name='[^']{0,256}', value=", hide=r"'[^']*'"),
    # keys as their vendors shape them: OpenAI, Anthropic, Stripe, Slack, GitHub, GitLab, Hugging Face, npm
    _whole(
        *("sk-", "sk_", "k_live", "k_test", "k-live", "k-test", "whsec", "xox", "xapp", "gh", "glpat", "hf_", "npm_"),
        hide=r"\b(?:sk[-_]|[pr]k[-_](?:live|test)[-_]|whsec_|xox[a-z][-_]|xapp-|gh[a-z]_|github_pat_|glpat-|hf_|npm_)"
        r"[A-Za-z0-9_-]{8,}",
    ),
    # AWS, Google, SendGrid; and JSON in base64, as a JWT is
    _whole("akia", "asia", hide=r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    _whole("aiza", hide=r"\bAIza[0-9A-Za-z_-]{35}"),
    _whole("sg.", hide=r"\bSG\.[\w-]{16,128}\.[\w-]{16,}"),
    _whole("eyj", hide=r"(?<![A-Za-z0-9])eyJ[\w-]{8,}(?:\.[\w-]+)*"),
)


def _by_name(names: str, markers: tuple[str, ...]) -> tuple[Rule, ...]:
    """name=value, "name": "value", the same inside a JSON string, and ("name", "value")."""
    name = rf"(?:{names}){_SUFFIX}"
    return (
        _quoted_after(*markers, head=name + _IS),
        _after(*markers, head=rf"{name}{_IS}[bru]?", hide=r"(?![\"'\\\[])[^\s\"',;&}]+"),
        _quoted_after(
            *(*markers, "authorization", "cookie"),
            head=rf"\(\s{{0,20}}[bru]?{_QUOTE}[\w-]{{0,40}}?(?:{name}|authorization|(?:set-)?cookie){_QUOTE}"
            r"\s{0,20},\s{0,20}",
        ),
    )


class SecretRules:
    """The rules in force in a process: the built-in ones, and the names that its settings add."""

    def __init__(self) -> None:
        self._added: frozenset[str] = frozenset()
        self._compile()

    def add(self, names: Iterable[str]) -> None:
        """Hide the values of these names too. Case does not matter, and `-`, `_` and a blank are the same."""
        wanted = self._added | {name.strip().lower() for name in names if name.strip()}
        if wanted != self._added:
            self._added = wanted
            self._compile()

    def _compile(self) -> None:
        parts = [re.split(r"[-_ ]+", name) for name in sorted(self._added)]
        added = [r"(?<![A-Za-z0-9])" + "[-_ ]+".join(map(re.escape, words)) for words in parts]
        names = "|".join((_NAMES, *added))
        # Where no name can begin, a look at one character says so; most characters of a text are such places.
        first = re.escape("".join(sorted({*"apstix", *(words[0][:1] for words in parts)})))
        markers = (*_NAME_MARKERS, *(max(words, key=len) for words in parts))
        self.text_rules = (*_BY_SHAPE, *_by_name(rf"(?=[{first}])(?:{names})", markers))
        self._key = re.compile(rf"(?:{names}|credentials?|authorization|cookies?){_SUFFIX}\Z", re.IGNORECASE)

    def is_secret_name(self, name: str) -> bool:
        """Whether what is kept under `name` is a secret: `x-api-key` and `client_secret` are, `max_tokens` is not."""
        return self._key.search(name[-200:]) is not None
