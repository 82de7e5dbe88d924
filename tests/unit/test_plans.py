"""What a task's options ask for: its circuit, its fallback queues, and the sentence when they are wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from resilience.breaker.policy import check_name
from resilience.plans import PlanError, fallback_task, near_misses, plan_of, unknown_substitutes
from resilience.recovery.failover import Level, OnOpen, Plan


def _task(name: str = "shop.charge", **options: Any) -> Any:
    return SimpleNamespace(name=name, **options)


def test_a_task_without_options_has_a_circuit_of_its_name() -> None:
    assert plan_of(_task()) == Plan("shop.charge")


def test_the_options_name_the_circuit_and_the_fallback_queues() -> None:
    assert plan_of(_task(circuit="payments", fallback=["b", "c"])) == Plan("payments", (Level("b"), Level("c")))
    assert plan_of(_task(circuit="payments", fallback="b")) == Plan("payments", (Level("b"),))
    assert plan_of(_task(circuit="payments", fallback=None)) == Plan("payments")


@pytest.mark.parametrize("task", [_task(circuit=False), _task("celery.backend_cleanup"), _task("resilience.health")])
def test_tasks_that_opt_out_celerys_own_and_ours_have_no_plan(task: Any) -> None:
    assert plan_of(task) is None


@pytest.mark.parametrize("fallback", [["ok", "not ok"], [1], 5, True, [None], [""]])
def test_an_unusable_fallback_is_named_with_its_task(fallback: Any) -> None:
    with pytest.raises(
        PlanError, match=r"^task shop\.charge: fallback=.* is not usable: a list of queue names, or fallback_task"
    ):
        plan_of(_task(fallback=fallback))


@pytest.mark.parametrize("circuit", ["", "two words", 5, True])
def test_an_unusable_circuit_name_is_named_with_its_task(circuit: Any) -> None:
    with pytest.raises(PlanError, match=r"^task shop\.charge: circuit name .* is not usable"):
        plan_of(_task(circuit=circuit))


@pytest.mark.parametrize("secret", ["sk-live-abcdef0123456789", "api_key=hunter2hunter2", "redis://:hunter2@cache/0"])
def test_a_circuit_name_that_looks_like_a_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(PlanError, match=r"^task shop\.charge: circuit name .* is not usable") as caught:
        plan_of(_task(circuit=secret))
    assert not any(part in str(caught.value) for part in ("abcdef0123456789", "hunter2"))


@pytest.mark.parametrize("name", ["my task", "задача.отправить", "t" * 400, "a{b}"])
def test_a_task_name_that_cannot_name_a_circuit_gets_one_made_of_it(name: str) -> None:
    plan = plan_of(_task(name))
    assert plan is not None
    assert check_name(plan.circuit) == plan.circuit
    assert plan == plan_of(_task(name)), "the same in every process"
    assert plan != plan_of(_task(name + "!")), "and another for another task"


def test_a_method_called_fallback_of_the_users_own_base_class_is_not_ours() -> None:
    plan = plan_of(_task(fallback=lambda self: None))
    assert plan is not None
    assert plan.levels == ()


def test_deadline_and_user_facing_are_part_of_the_plan() -> None:
    assert plan_of(_task(deadline_s=30, user_facing=True)) == Plan("shop.charge", (), 30.0, user_facing=True)


@pytest.mark.parametrize("deadline_s", [0, -1, "30", True, float("nan"), float("inf"), [5]])
def test_an_unusable_deadline_is_named_with_its_task(deadline_s: Any) -> None:
    with pytest.raises(PlanError, match=r"^task shop\.charge: deadline_s=.* is not usable: seconds above 0 are right"):
        plan_of(_task(deadline_s=deadline_s))


def test_user_facing_is_yes_or_no_and_a_method_of_that_name_is_not_ours() -> None:
    with pytest.raises(
        PlanError, match=r"^task shop\.charge: user_facing='yes' is not usable: True or False is right$"
    ):
        plan_of(_task(user_facing="yes"))
    plan = plan_of(_task(user_facing=lambda self: "page"))
    assert plan is not None
    assert not plan.user_facing


def test_a_deadline_on_a_task_that_opted_out_is_refused() -> None:
    with pytest.raises(PlanError, match="takes it out of the middleware, so deadline_s has no effect"):
        plan_of(_task(circuit=False, deadline_s=3))


def _class_with(**options: Any) -> Any:
    return type("charge", (), {"name": "shop.charge", "__module__": "shop", **options})()


@pytest.mark.parametrize(
    ("option", "meant"),
    [("curcuit", "circuit"), ("circuits", "circuit"), ("fall_back", "fallback"), ("deadline", "deadline_s"),
     ("userfacing", "user_facing"), ("fallbacks", "fallback"), ("onopen", "on_open")],
)  # fmt: skip
def test_a_near_miss_of_an_option_is_pointed_out(option: str, meant: str) -> None:
    (sentence,) = near_misses(_class_with(**{option: "x"}))
    assert sentence == f"task shop.charge: option {option} has no effect here: did you mean {meant}?"


@pytest.mark.parametrize("option", ["rate_limit", "max_retries", "queue", "owner", "_curcuit", "circuit", "priority"])
def test_other_options_are_celerys_business(option: str) -> None:
    assert list(near_misses(_class_with(**{option: "x"}))) == []


def test_a_method_that_is_named_nearly_so_is_no_option() -> None:
    assert list(near_misses(_class_with(circuits=lambda self: None))) == []


def test_a_level_may_be_another_task_on_a_queue_of_its_own_or_at_home() -> None:
    plan = plan_of(
        _task(circuit="chat", fallback=["second", fallback_task("offline"), fallback_task("letter", "paper")])
    )
    assert plan == Plan("chat", (Level("second"), Level(task="offline"), Level("paper", "letter")))
    assert plan_of(_task(circuit="chat", fallback=fallback_task("offline"))) == Plan("chat", (Level(task="offline"),))


@pytest.mark.parametrize("name", ["", " ", None, 5, print])
def test_a_substitute_is_named_by_its_task_name(name: Any) -> None:
    with pytest.raises(PlanError, match=r"^fallback_task\(.*\) is not usable: the name of a task is right, such as"):
        fallback_task(name)


@pytest.mark.parametrize("queue", ["", "two words", 5])
def test_a_substitutes_queue_is_a_queues_name(queue: Any) -> None:
    with pytest.raises(PlanError, match=r"^fallback_task\('offline', queue=.*\) is not usable: queue takes"):
        fallback_task("offline", queue)


@pytest.mark.parametrize(
    ("fallback", "sentence"),
    [
        ([fallback_task("shop.charge")], "fallback_task('shop.charge') is the task itself: another task is right"),
        (["b", "b"], "its fallback level b is named twice: once is right"),
        ([fallback_task("my task")], "the circuit of a fallback level: circuit name 'shop.charge@my task' is not"),
        (["q" * 195], "the circuit of a fallback level: circuit name"),
    ],
)
def test_levels_that_cannot_be_meant_are_refused(fallback: Any, sentence: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(_task(fallback=fallback))
    assert str(caught.value).startswith(f"task shop.charge: {sentence}")


def test_a_substitute_that_no_worker_of_the_app_has_is_pointed_out() -> None:
    plan = Plan("chat", (Level("q"), Level(task="chat.ofline"), Level("other", "app.letter"), Level(task="chat.known")))
    (sentence,) = unknown_substitutes(plan, "chat", ["chat.offline", "chat.known"])
    assert sentence == "task chat: fallback_task('chat.ofline') names no task of this app: did you mean chat.offline?"
    (sentence,) = unknown_substitutes(Plan("chat", (Level(task="x"),)), "chat", ["chat.offline"])
    assert sentence.endswith("names no task of this app: is its module imported by the worker?")


@pytest.mark.parametrize("on_open", ["failover", "park", "fail"])
def test_on_open_is_part_of_the_plan(on_open: str) -> None:
    plan = plan_of(_task(on_open=on_open))
    assert plan is not None
    assert plan.on_open is OnOpen(on_open)


@pytest.mark.parametrize("on_open", ["wait", "", 5, True, "FAIL"])
def test_an_unusable_on_open_is_named_with_its_task(on_open: Any) -> None:
    with pytest.raises(
        PlanError, match=r"^task shop\.charge: on_open=.* is not usable: 'failover', 'park' or 'fail' is right$"
    ):
        plan_of(_task(on_open=on_open))
