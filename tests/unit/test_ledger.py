"""The ledger: what it adds up to, whatever a kill leaves of it, and who may hold it."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.ledger import Ledger
from tasks.ledger_state import (
    Answered,
    Failed,
    Header,
    LedgerError,
    LedgerState,
    Record,
    Refused,
    Sent,
    Written,
    decode,
    encode,
    fold,
    recover,
    task_id_of,
)

RUN = "6d6f3a54-7f0e-4f6b-9a53-2f5e4d0f2f11"
HEADER = Header(run_id=RUN, input_sha256="ab" * 32, input_bytes=10, lines=3)


def sent(line: int, n: int = 1) -> Sent:
    return Sent(line, task_id_of(RUN, line, n), n, at=1000.0 + n)


def answered(line: int, n: int = 1, source: str = "primary") -> Answered:
    return Answered(line, task_id_of(RUN, line, n), source)


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """What a run of a few lines may append: sends, resends, ends, and the output growing in order."""
    lines = draw(st.integers(1, 6))
    records: list[Record] = [HEADER]
    sends = dict.fromkeys(range(1, lines + 1), 0)
    ended: set[int] = set()
    through = 0
    for _ in range(draw(st.integers(0, 30))):
        line = draw(st.integers(1, lines))
        action = draw(st.sampled_from(["send", "answer", "fail", "refuse", "write"]))
        if action == "send" and line not in ended:
            sends[line] += 1
            records.append(sent(line, sends[line]))
        elif action == "answer" and sends[line] and line > through:
            records.append(answered(line, draw(st.integers(1, sends[line]))))
            ended.add(line)
        elif action == "fail" and line not in ended:
            records.append(Failed(line, None, "Why not.", kind=draw(st.sampled_from(["failed", "bad", "lost"]))))
            ended.add(line)
        elif action == "refuse" and sends[line] and line not in ended:
            records.append(Refused(line, task_id_of(RUN, line, sends[line])))
        elif action == "write":
            while through + 1 in ended:
                through += 1
            records.append(Written(through))
    return records


@given(histories(), st.data())
def test_any_prefix_with_a_torn_end_folds_to_what_its_whole_records_say(
    history: list[Record], data: st.DataObject
) -> None:
    raw = b"".join(encode(record) for record in history)
    left = raw[: data.draw(st.integers(0, len(raw)))]
    if left.endswith(b"\n"):
        left += data.draw(st.sampled_from([b"", b"\x00\x00\n", b"\x00" * 7, b'{"r":"sent"}\n']))

    state, whole = recover(left.splitlines(keepends=True))

    kept = raw[:whole].count(b"\n")
    assert whole == sum(len(encode(record)) for record in history[:kept])
    assert left.count(b"\n") - kept in (0, 1)
    assert state == fold(history[:kept])
    assert_sane(state, history[:kept])


def assert_sane(state: LedgerState, history: list[Record]) -> None:
    ended = {r.line for r in history if isinstance(r, Answered | Failed)}
    asked = {r.line for r in history if isinstance(r, Sent)}
    assert sum(state.ends.values()) == len(ended)
    assert all(count >= 0 for count in state.ends.values())
    assert sum(state.by_source.values()) == state.answered
    assert state.sent == len(asked)
    assert state.resent <= asked
    open_lines = {line for line in asked | ended if line > state.written_through}
    assert open_lines <= state.lines.keys()
    assert all(len(set(line.ids)) == len(line.ids) for line in state.lines.values())


@given(histories())
def test_every_record_survives_being_written_and_read(history: list[Record]) -> None:
    assert [decode(encode(record)) for record in history] == history


def test_a_line_sent_twice_counts_as_resent_and_keeps_both_ids_after_it_is_written() -> None:
    state = fold([HEADER, sent(1), sent(1, 2), answered(1, 2), Written(1)])
    assert state.resent == {1}
    assert state.lines[1].ids == [task_id_of(RUN, 1, 1), task_id_of(RUN, 1, 2)]


def test_asking_again_after_a_refused_key_is_no_resend() -> None:
    state = fold([HEADER, sent(1), Refused(1, task_id_of(RUN, 1, 1)), sent(1, 2)])
    assert state.resent == set()
    assert not state.lines[1].refused


def test_an_answer_taken_again_by_a_resumed_run_counts_once() -> None:
    state = fold([HEADER, sent(1), answered(1), answered(1, source="offline")])
    assert (state.answered, +state.by_source) == (1, {"offline": 1})


def test_memory_follows_the_open_lines() -> None:
    state = fold([HEADER, *(r for n in range(1, 100) for r in (sent(n), answered(n))), Written(98)])
    assert list(state.lines) == [99]


def test_damage_in_the_middle_is_refused() -> None:
    with pytest.raises(LedgerError, match="line 2 is damaged"):
        recover([encode(HEADER), b"garbage\n", encode(sent(1))])


def test_task_ids_are_deterministic_and_distinct() -> None:
    ids = {task_id_of(RUN, line, n) for line in range(1, 50) for n in range(1, 4)}
    assert len(ids) == 49 * 3
    assert task_id_of(RUN, 1, 1) == task_id_of(RUN, 1, 1)
    assert task_id_of(str(uuid.uuid4()), 1, 1) not in ids


def test_a_file_with_a_torn_end_is_cut_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.ledger"
    with Ledger(path, HEADER) as ledger:
        ledger.append(sent(1), answered(1))
    with path.open("ab") as file:
        file.write(b'{"r":"answered","li')
    with Ledger(path, HEADER) as ledger:
        assert ledger.state.answered == 1
        ledger.append(sent(2))
        ledger.sync()
    with Ledger(path, HEADER) as ledger:
        assert ledger.state.sent == 2


def test_a_resumed_ledger_keeps_its_run_id(tmp_path: Path) -> None:
    path = tmp_path / "out.ledger"
    Ledger(path, HEADER).close()
    other = Header(str(uuid.uuid4()), HEADER.input_sha256, HEADER.input_bytes, HEADER.lines)
    with Ledger(path, other) as ledger:
        assert ledger.run_id == RUN


def test_a_header_that_was_cut_short_starts_a_new_ledger(tmp_path: Path) -> None:
    path = tmp_path / "out.ledger"
    path.write_bytes(encode(HEADER)[:20])
    with Ledger(path, HEADER) as ledger:
        assert ledger.state == fold([HEADER])


def one_sentence(caught: pytest.ExceptionInfo[LedgerError]) -> str:
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_two_runs_on_one_output_refuse_each_other(tmp_path: Path) -> None:
    path = tmp_path / "out.ledger"
    with Ledger(path, HEADER), pytest.raises(LedgerError) as caught:
        Ledger(path, HEADER)
    assert "Another run holds" in one_sentence(caught)
    Ledger(path, HEADER).close()


def test_the_ledger_of_another_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.ledger"
    Ledger(path, HEADER).close()
    with pytest.raises(LedgerError) as caught:
        Ledger(path, Header(RUN, "cd" * 32, 10, 3))
    assert "another input" in one_sentence(caught)


@pytest.mark.parametrize("content", [b"hello\nworld\n", b'{"r":"written","through":3}\n'])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.ledger"
    path.write_bytes(content)
    with pytest.raises(LedgerError) as caught:
        Ledger(path, HEADER)
    one_sentence(caught)
    assert path.read_bytes() == content


def test_a_folder_in_the_ledgers_place_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger(tmp_path, HEADER)
    one_sentence(caught)
