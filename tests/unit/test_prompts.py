"""Prompts: the built-in ones, and files in which not every line is right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tasks.prompts import LINE_LIMIT_BYTES, BadLine, Prompt, builtin_prompts, measure, read_prompts


def lines_of(tmp_path: Path, raw: bytes) -> list[Prompt | BadLine]:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(raw)
    return list(read_prompts(path))


def test_the_built_in_prompts_are_distinct_and_the_same_every_time() -> None:
    made = builtin_prompts(600)
    assert len(set(made)) == 600
    assert made == builtin_prompts(600)
    assert made[:50] == builtin_prompts(50)
    assert all(100 < len(prompt) < 2000 for prompt in made)


def test_asking_for_more_prompts_than_there_are_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"gives 0 to \d+ prompts"):
        builtin_prompts(10**6)


def test_the_lines_of_a_file_keep_number_text_and_id(tmp_path: Path) -> None:
    first, second = b'\xef\xbb\xbf{"prompt": "one"}\r\n', b'{"prompt": "tw\xc3\xb6", "id": 7, "more": 1}\n'
    raw = first + second + b'{"id": "c", "prompt": "3"}'
    assert lines_of(tmp_path, raw) == [Prompt(1, "one"), Prompt(2, "twö", 7), Prompt(3, "3", "c")]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"not json", "is not JSON"),
        (b"[1]", "is not an object"),
        (b"{}", 'has no "prompt"'),
        (b'{"prompt": 5}', "is not a string"),
        (b'{"prompt": " "}', "empty"),
        (b'{"prompt": "x", "id": true}', '"id"'),
        (b'{"prompt": "x", "id": [1]}', '"id"'),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b'{"prompt": "x", "id": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"prompt": ' + b"9" * 10_000 + b"}", "cannot be read"),
        (b'{"prompt": "' + b"x" * LINE_LIMIT_BYTES + b'"}', "longer than"),
        (b"", "is empty"),
    ],
)
def test_a_bad_line_is_one_sentence_and_stops_no_other(tmp_path: Path, raw: bytes, why: str) -> None:
    good = b'{"prompt": "good"}\n'
    before, bad, after = lines_of(tmp_path, good + raw + b"\n" + good)
    assert (before, after) == (Prompt(1, "good"), Prompt(3, "good"))
    assert isinstance(bad, BadLine)
    assert bad.number == 2
    assert why in bad.sentence
    assert bad.sentence.startswith("Line 2 ")
    assert "\n" not in bad.sentence


def test_a_bad_line_keeps_its_id(tmp_path: Path) -> None:
    assert [line.id for line in lines_of(tmp_path, b'{"id": "a"}\n')] == ["a"]


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    frame = len(b'{"prompt": ""}')
    line = b'{"prompt": "' + b"x" * (LINE_LIMIT_BYTES - frame) + b'"}'
    assert len(line) == LINE_LIMIT_BYTES
    assert all(isinstance(read, Prompt) for read in lines_of(tmp_path, line + b"\n" + line))


def test_skipped_lines_keep_the_numbers_of_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(n)}) + "\n" for n in range(1, 6)))
    assert [line.number for line in read_prompts(path, skip=3)] == [4, 5]


@pytest.mark.parametrize(("raw", "lines"), [(b"", 0), (b"\n", 1), (b"a\nb", 2), (b"a\nb\n", 2)])
def test_measuring_counts_the_lines_that_reading_gives(tmp_path: Path, raw: bytes, lines: int) -> None:
    assert len(lines_of(tmp_path, raw)) == lines
    digest = measure(tmp_path / "prompts.jsonl")
    assert (digest.lines, digest.size_bytes, digest.sha256) == (
        lines,
        len(raw),
        hashlib.sha256(raw).hexdigest(),
    )
