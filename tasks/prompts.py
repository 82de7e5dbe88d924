"""Where prompts come from: a few hundred that every CPython carries, and JSONL files of the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

LINE_LIMIT_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_QUESTIONS = (
    "Which sentence of this passage of the Python reference, on '{topic}', carries its main point?",
    "Sum up in one sentence what the Python reference says here about '{topic}'.",
    "What would surprise a newcomer in this passage of the Python reference on '{topic}'?",
    "Which rule does this passage of the Python reference on '{topic}' state, and for which case?",
)


@dataclass(frozen=True)
class Prompt:
    """One line of input that can be asked. `number` counts from 1."""

    number: int
    text: str
    id: str | int | None = None


@dataclass(frozen=True)
class BadLine:
    """One line of input that cannot be asked, and the sentence that says why."""

    number: int
    sentence: str
    id: str | int | None = None


@dataclass(frozen=True)
class InputDigest:
    """What identifies an input: resuming with another one would mix two jobs."""

    sha256: str
    size_bytes: int
    lines: int


def builtin_prompts(count: int) -> list[str]:
    """`count` distinct questions, each with a passage of the language reference; same order every time.

    The text is that of the running Python, so the prompts differ a little between versions.
    """
    passages = list(_passages())
    available = len(passages) * len(_QUESTIONS)
    if not 0 <= count <= available:
        raise ValueError(f"This Python's reference gives 0 to {available} prompts, not {count}.")
    made = []
    for number in range(count):
        turn, place = divmod(number, len(passages))
        topic, passage = passages[place]
        question = _QUESTIONS[(place + turn) % len(_QUESTIONS)].format(topic=topic)
        made.append(f"{question}\n\n{passage}")
    return made


def _passages() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics  # half a megabyte of text: only when asked for

    seen: set[str] = set()
    by_topic = [[(name, p) for p in _paragraphs(topics[name])] for name in sorted(topics)]
    for row in zip_longest(*by_topic):  # the first of every topic, then the second: variety from the start
        for entry in row:
            if entry is not None and entry[1] not in seen:
                seen.add(entry[1])
                yield entry


def _paragraphs(text: str) -> Iterator[str]:
    for block in text.split("\n\n"):
        passage = " ".join(block.split())
        prose = "::=" not in passage and ">>>" not in passage and passage.endswith(".")
        if prose and 120 <= len(passage) <= 1500 and passage[0].isalpha():
            yield passage


def measure(path: Path) -> InputDigest:
    """Digest, size and number of lines of an input, in one pass; raises OSError."""
    digest = hashlib.sha256()
    size = lines = 0
    last = b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return InputDigest(digest.hexdigest(), size, lines + (last != b"\n"))


def read_prompts(path: Path, skip: int = 0) -> Iterator[Prompt | BadLine]:
    """Every line after the first `skip`, in order; a line that cannot be asked never stops the rest.

    A line is an object with "prompt" (a string) and optionally "id" (a string or an integer).
    """
    with path.open("rb") as file:
        for number, raw in enumerate(_lines(file), start=1):
            if number > skip:
                yield _parse(number, raw)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line without its end; None for one over the limit, which is passed over without keeping it."""
    while line := file.readline(LINE_LIMIT_BYTES + 1):
        if len(line) <= LINE_LIMIT_BYTES or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_CHUNK_BYTES)
        yield None


class _BadLineError(ValueError):
    """Why a line cannot be asked; the sentence goes on after "Line 7 "."""

    def __init__(self, why: str, given_id: str | int | None = None) -> None:
        super().__init__(why)
        self.given_id = given_id


def _parse(number: int, raw: bytes | None) -> Prompt | BadLine:
    if number == 1 and raw is not None:
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors write
    try:
        text, given_id = _fields(_decoded(raw))
    except _BadLineError as exc:
        return BadLine(number, f"Line {number} {exc}.", exc.given_id)
    return Prompt(number, text, given_id)


def _decoded(raw: bytes | None) -> object:
    if raw is None:
        raise _BadLineError(f"is longer than {LINE_LIMIT_BYTES} bytes: shorten it or split it")
    if not raw.strip():
        raise _BadLineError('is empty: expected an object like {"prompt": "..."}')
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise _BadLineError(f"is not UTF-8 at byte {exc.start + 1}: save the file as UTF-8") from None
    except json.JSONDecodeError as exc:
        raise _BadLineError(f"is not JSON: {exc.msg} at column {exc.colno}") from None
    except (ValueError, RecursionError):
        raise _BadLineError("is JSON that cannot be read: nested too deep, or a number too long") from None


def _fields(line: object) -> tuple[str, str | int | None]:
    if not isinstance(line, dict):
        raise _BadLineError('is not an object: expected one like {"prompt": "..."}')
    given_id = line.get("id")
    if isinstance(given_id, bool) or not isinstance(given_id, str | int | None):
        raise _BadLineError('has an "id" that is neither a string nor an integer')
    prompt = line.get("prompt")
    if not _is_text(f"{given_id}") or (isinstance(prompt, str) and not _is_text(prompt)):
        raise _BadLineError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    if prompt is None:
        raise _BadLineError('has no "prompt": expected an object like {"prompt": "..."}', given_id)
    if not isinstance(prompt, str):
        raise _BadLineError('has a "prompt" that is not a string', given_id)
    if not prompt.strip():
        raise _BadLineError('has an empty "prompt"', given_id)
    return prompt, given_id


def _is_text(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)
