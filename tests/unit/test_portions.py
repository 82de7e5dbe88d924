"""How many messages a worker that runs tasks in its loop takes at once: what it runs in a moment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilience.delivery.portions import PORTION_S, Portions

TASKS = st.tuples(st.integers(1, 1_000), st.floats(0, 100))


def test_it_begins_with_one_and_soon_takes_many_short_ones() -> None:
    portions, taken = Portions(), []
    for _ in range(6):
        taken.append(portions.most)
        portions.ran(portions.most, portions.most * 0.0002)
    assert taken == [1, 4, 16, 64, 256, 1_000]


def test_tasks_that_last_are_taken_one_by_one_at_once() -> None:
    portions = Portions()
    for _ in range(6):
        portions.ran(portions.most, portions.most * 0.0002)
    portions.ran(1_000, 1_000.0)
    assert portions.most == 1


@given(st.lists(TASKS, min_size=1))
def test_what_is_taken_fits_into_the_time_or_is_one(tasks: list[tuple[int, float]]) -> None:
    portions = Portions()
    for count, took_s in tasks:
        before = portions.most
        portions.ran(count, took_s)
        assert 1 <= portions.most <= 4 * before
        assert portions.most == 1 or portions.most * took_s / count <= PORTION_S * 1.000001
