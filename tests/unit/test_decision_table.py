"""Every category, severity and context has its decision; no path drops a task, none loops, none draws twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors.classify import Classified
from resilience.errors.severity import ORDER
from resilience.errors.taxonomy import MATRIX, ErrorCategory, Severity, Strategy
from resilience.recovery.decide import (
    MAX_HOPS,
    Abandon,
    Decision,
    FailOver,
    Fate,
    FreeResources,
    LongerTimeout,
    Park,
    Quarantine,
    RetryAfter,
    Situation,
    WorkerAction,
    WorkerView,
    about_worker,
    decide,
)

_C = ErrorCategory
CONTEXTS = {
    "first": Situation,
    "spent": lambda error: Situation(error, error.row.max_retries),
    "spent, fallback": lambda error: Situation(error, error.row.max_retries, next_level=2),
    "refused": lambda error: Situation(error, 0, circuit_open=True, may_park=True),
    "refused, fallback": lambda error: Situation(error, 0, circuit_open=True, may_park=True, next_level=1),
    "probe": lambda error: Situation(error, 0, probe=True),
    "probe, fallback": lambda error: Situation(error, 0, probe=True, next_level=1),
    "late": lambda error: Situation(error, 0, next_level=1, left_s=0.0),
    "over budget": lambda error: Situation(error, 0, budget_spent=True),
}

# Per category: first failure | retries spent | the same with a fallback | refused by a circuit, which parks |
# refused with a fallback | a probe of its circuit | the same with a fallback | past its deadline |
# the retry budget is spent.
# After a word, what is done first: + frees resources, * the next attempt may take longer.
TABLE = """
initialization_error  retry    keep     level2   park     level1   retry    level1   keep     keep
connection_error      retry    keep     level2   park     level1   retry    level1   keep     keep
communication_error   retry    keep     level2   park     level1   retry    level1   keep     keep
timeout_error         retry*   keep     level2   park     level1   retry*   level1   keep     keep
resource_error        retry+   keep+    level2+  park     level1   retry+   level1+  keep+    keep+
health_check_error    retry    keep     level2   park     level1   retry    level1   keep     keep
session_error         retry    keep     level2   park     level1   retry    level1   keep     keep
python_error          fail     keep     level2   park     level1   fail     level1   fail     fail
system_error          keep     keep     keep     park     level1   keep     keep     keep     keep
rate_limit            retry    keep     level2   park     level1   retry    level1   keep     keep
server_error          retry    keep     level2   park     level1   retry    level1   keep     keep
auth_error            keep     keep     keep     park     level1   keep     keep     keep     keep
invalid_request       keep     keep     keep     park     level1   keep     keep     keep     keep
not_found             keep     keep     keep     park     level1   keep     keep     keep     keep
"""
EXPECTED = {
    (ErrorCategory(category), context): word
    for category, *words in (line.split() for line in TABLE.strip().splitlines())
    for context, word in zip(CONTEXTS, words, strict=True)
}


def _word(decision: Decision) -> str:
    done_first = {FreeResources: "+", LongerTimeout: "*"}.get(type(decision.first), "")
    match decision.fate:
        case RetryAfter():
            return "retry" + done_first
        case FailOver(level=level):
            return f"level{level}{done_first}"
        case Park():
            return "park" + done_first
        case Quarantine():
            return "keep" + done_first
        case Abandon():
            return "fail" + done_first


def _situation(category: ErrorCategory, context: str, severity: Severity | None = None) -> Situation:
    row = MATRIX[category] if severity is None else replace(MATRIX[category], severity=severity)
    make = CONTEXTS[context]
    error = Classified(category, row, None)
    return make(error, 0) if make is Situation else make(error)  # type: ignore[operator,no-any-return]


def test_the_table_has_every_category() -> None:
    assert {category for category, _ in EXPECTED} == set(ErrorCategory)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize("category", ErrorCategory)
def test_each_category_severity_and_context_has_its_decision(
    category: ErrorCategory, severity: Severity, context: str
) -> None:
    """A severity set in the settings changes the time budget, not what is done: no row allows more than its retries."""
    decision = decide(_situation(category, context, severity), lambda: 0.0)
    assert _word(decision) == EXPECTED[category, context]
    assert decision.why.startswith(f"{category.value}: ")


# Severity of the row | raised past attempt 3 | budget in s | the same for a task that somebody waits for
SEVERITIES = [
    (Severity.WARNING, Severity.MINOR, 60.0, 30.0),
    (Severity.MINOR, Severity.MAJOR, 60.0, 30.0),
    (Severity.MAJOR, Severity.CRITICAL, 30.0, 15.0),
    (Severity.CRITICAL, Severity.CRITICAL, 5.0, 2.5),
]


@pytest.mark.parametrize(("own", "raised", "budget_s", "user_facing_s"), SEVERITIES)
@pytest.mark.parametrize("category", ErrorCategory)
def test_severity_rises_and_the_time_budget_stays_that_of_the_row(
    category: ErrorCategory, own: Severity, raised: Severity, budget_s: float, user_facing_s: float
) -> None:
    early = _situation(category, "first", own)
    late, elsewhere = replace(early, retries=3), replace(early, spent=3)
    everywhere = replace(early, all_workers_affected=True)
    found = [decide(each, lambda: 0.0) for each in (early, late, elsewhere, everywhere)]
    assert [decision.severity for decision in found] == [own, raised, raised, Severity.CRITICAL]
    assert {decision.budget_s for decision in found} == {budget_s}
    assert decide(replace(early, user_facing=True), lambda: 0.0).budget_s == user_facing_s


@pytest.mark.parametrize(("retries", "factor"), [(0, 1.5), (1, 2.25), (2, 3.0), (3, 3.0), (500, 3.0)])
def test_each_retry_after_a_timeout_gets_more_time_up_to_three_times(retries: int, factor: float) -> None:
    patient = Situation(Classified(_C.TIMEOUT, MATRIX[_C.TIMEOUT], None), retries, max_retries=501)
    assert decide(patient, lambda: 0.0).first == LongerTimeout(factor)


ALONE, HEALTHY, HALF, ALL = (
    WorkerView(others=0), WorkerView(others=2), WorkerView(others=2, others_affected=1),
    WorkerView(others=2, others_affected=2),
)  # fmt: skip


@pytest.mark.parametrize(
    ("category", "view", "by_streak"),
    [
        (_C.CONNECTION, HEALTHY, {2: None, 3: WorkerAction.RECONNECT, 9: WorkerAction.RECONNECT}),
        (_C.CONNECTION, replace(HEALTHY, since_reconnect=2), {5: None, 9: None}),
        (_C.CONNECTION, replace(HEALTHY, since_reconnect=3), {6: WorkerAction.DEGRADE}),
        (_C.CONNECTION, replace(HALF, since_reconnect=3), {6: None}),
        (_C.CONNECTION, HALF, {3: None, 9: None}),
        (_C.CONNECTION, ALONE, {3: None, 9: None}),
        (_C.INITIALIZATION, HEALTHY, {2: None, 3: WorkerAction.REPLACE}),
        (_C.INITIALIZATION, HALF, {3: None}),
        (_C.INITIALIZATION, ALONE, {3: None}),
        (_C.INITIALIZATION, replace(ALONE, kept=True), {2: None, 3: WorkerAction.REPLACE}),
        (_C.HEALTH_CHECK, HEALTHY, {1: WorkerAction.DEGRADE, 2: WorkerAction.DEGRADE, 3: WorkerAction.REMOVE}),
        (_C.HEALTH_CHECK, HALF, {3: WorkerAction.REMOVE}),
        (_C.HEALTH_CHECK, ALL, {3: WorkerAction.DEGRADE}),
        (_C.HEALTH_CHECK, ALONE, {1: WorkerAction.DEGRADE, 9: WorkerAction.DEGRADE}),
        *((category, HEALTHY, {1: None, 9: None}) for category in ErrorCategory
          if category not in (_C.CONNECTION, _C.INITIALIZATION, _C.HEALTH_CHECK)),
    ],
)  # fmt: skip
def test_what_is_done_with_the_worker(
    category: ErrorCategory, view: WorkerView, by_streak: dict[int, WorkerAction | None]
) -> None:
    for streak, action in by_streak.items():
        seen = replace(view, streak=streak)
        assert about_worker(category, seen) is action, streak
        assert about_worker(category, seen, all_workers_affected=True) is None, "trouble of all is not the worker's"
        failed = replace(_situation(category, "first"), worker=seen)
        assert decide(failed, lambda: 0.0).worker is action
        assert decide(replace(failed, circuit_open=True), lambda: 0.0).worker is None, "it was not even tried"
    assert about_worker(category, None) is None


situations = st.builds(
    Situation,
    error=st.builds(
        Classified,
        st.sampled_from(ErrorCategory),
        st.sampled_from(list(MATRIX.values())),
        st.none() | st.floats(0, 1e6),
    ),
    retries=st.integers(0, 60),
    max_retries=st.none() | st.integers(0, 60),
    next_level=st.none() | st.integers(1, 5),
    hops=st.integers(0, MAX_HOPS + 2),
    circuit_open=st.booleans(),
    probe=st.booleans(),
    left_s=st.none() | st.floats(-10, 1000),
    budget_spent=st.booleans(),
    own_delay_s=st.none() | st.floats(0, 1000),
    spent=st.integers(0, 10),
    may_park=st.booleans(),
    keeps=st.sampled_from(["matrix", "all", "none"]),
    user_facing=st.booleans(),
    all_workers_affected=st.booleans(),
    worker=st.none() | st.builds(WorkerView, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.booleans()),
)


@given(situations, st.floats(0, 1, exclude_max=True))
def test_every_decision_names_one_fate_a_reason_and_a_budget_and_is_the_same_each_time(
    situation: Situation, drawn: float
) -> None:
    decision = decide(situation, lambda: drawn)
    assert isinstance(decision.fate, Fate)
    assert decision.why.strip()
    assert "\n" not in decision.why
    assert 0 < decision.budget_s <= 60
    assert ORDER.index(decision.severity) >= ORDER.index(situation.error.row.severity)
    assert decide(situation, lambda: drawn) == decision
    match decision.fate:
        case RetryAfter(delay_s=delay_s):
            assert delay_s >= 0
            assert situation.left_s is None or delay_s < situation.left_s
            assert not situation.budget_spent
        case FailOver(level=level):
            assert level == situation.next_level
            assert situation.hops < MAX_HOPS
        case Park():
            assert situation.circuit_open
            assert situation.may_park
        case Quarantine(reason=reason) | Abandon(reason=reason):
            assert reason


@given(st.lists(situations, min_size=1, max_size=8), st.integers(0, 4))
def test_every_path_ends(failures: list[Situation], levels: int) -> None:
    """Whatever fails, in whatever order and circumstances: retries per level and hops are bounded.

    A parked task does no work: its way goes on when its circuit closes, as often as that opens and closes.
    """
    level = retries = hops = spent = 0
    retried = moved = 0
    for step in range(2000):
        failure = failures[step % len(failures)]
        known = replace(
            failure, retries=retries, spent=spent, hops=hops, next_level=level + 1 if level < levels else None,
            circuit_open=failure.circuit_open and step < 200,
        )  # fmt: skip
        match decide(known, lambda: 0.0).fate:
            case RetryAfter():
                retries, retried = retries + 1, retried + 1
            case FailOver(level=target):
                assert target > level
                level, spent, retries, hops, moved = target, spent + retries + 1, 0, hops + 1, moved + 1
            case Park():
                assert known.circuit_open
            case Quarantine() | Abandon():
                break
    else:
        raise AssertionError("no end")
    assert moved <= min(levels, MAX_HOPS)
    assert retried <= (moved + 1) * 61


@pytest.mark.parametrize("category", [c for c in ErrorCategory if MATRIX[c].strategy is not Strategy.ABANDON])
def test_a_task_that_nobody_abandons_reaches_every_level(category: ErrorCategory) -> None:
    """No path drops a task: it fails only where no level is left."""
    for retries in range(7):
        situation = Situation(Classified(category, MATRIX[category], None), retries, next_level=1)
        assert isinstance(decide(situation, lambda: 0.0).fate, (RetryAfter, FailOver))
