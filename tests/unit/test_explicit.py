"""What a task says itself about its retries: seen where the user wrote it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task

from resilience import Resilience, explicit


def _task(base: type | None = None, **options: Any) -> Any:
    app = Celery("explicit", broker="memory://", set_as_current=False)
    Resilience(app)

    @app.task(name="explicit.task", shared=False, **options, **({} if base is None else {"base": base}))
    def task() -> None: ...

    return app.tasks["explicit.task"]


class Patient(Task):
    """A base class of somebody's own."""

    default_retry_delay = 4
    max_retries = None


def test_what_nobody_set_says_nothing() -> None:
    task = _task()
    assert (explicit.max_retries(task), explicit.delay_s(task, 0)) == (None, None)
    assert not explicit.decides(task, ValueError())


def test_a_base_class_of_the_users_own_speaks_for_its_tasks() -> None:
    task = _task(Patient)
    assert (explicit.max_retries(task), explicit.delay_s(task, 0)) == (1_000_000, 4.0)


@pytest.mark.parametrize(("retries", "seconds"), [(0, 3.0), (1, 6.0), (2, 12.0), (20, 50.0)])
def test_the_tasks_own_backoff_is_celerys(retries: int, seconds: float) -> None:
    task = _task(retry_backoff=3, retry_jitter=False, retry_backoff_max=50)
    assert explicit.delay_s(task, retries) == seconds


def test_with_jitter_the_tasks_own_backoff_is_at_most_that() -> None:
    task = _task(retry_backoff=3)
    assert all(0 <= explicit.delay_s(task, 2) <= 12 for _ in range(50))  # type: ignore[operator]


def test_an_error_that_the_task_throws_is_an_answer() -> None:
    task = _task(throws=(LookupError,))
    assert explicit.decides(task, KeyError("gone"))
    assert not explicit.decides(task, ValueError())


def test_autoretry_decides_about_everything() -> None:
    assert explicit.decides(_task(autoretry_for=(OSError,)), ValueError())
