"""How arguments look in a message: the quick way shows them exactly as Celery does."""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilience.delivery.representation import represented

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=5)
KEYS = st.text(max_size=8) | st.integers() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(st.integers(), max_size=2)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=VALUES, longest=st.integers(1, 60) | st.just(1024), levels=st.integers(0, 5))
@example(value=("x" * 1021,), longest=1024, levels=3)
@example(value=("x" * 1019,), longest=1024, levels=3)
@example(value=("it's",), longest=1024, levels=3)
@example(value=([[[1]]],), longest=1024, levels=3)
@example(value=((1,),), longest=6, levels=3)
def test_arguments_look_as_celery_shows_them(value: Any, longest: int, levels: int) -> None:
    assert represented(value, longest, levels) == saferepr(value, longest, maxlevels=levels)
