"""Every way a setting reaches us (app, Django's namespace, environment), which wins, and what a wrong one is told."""

from __future__ import annotations

import json
import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from resilience.breaker.policy import BreakerPolicy
from resilience.errors import MATRIX, ErrorCategory, Strategy, matrix_with
from resilience.settings import Settings, SettingsError, load


def _refusal(conf: Any, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as refusal:
        load(conf, environ or {})
    text = str(refusal.value)
    assert "\n" not in text, "one sentence"
    return text


def _app(**conf: Any) -> Celery:
    app = Celery("shop", set_as_current=False)
    app.conf.update(conf)
    return app


# -- where they come from ------------------------------------------------------------------------------------------


def test_without_any_setting_the_defaults_hold() -> None:
    assert load({}, {}) == Settings()


def test_the_apps_settings_are_read() -> None:
    app = _app(resilience_namespace="shop", resilience_circuits={"openai": {"open_s": 3}})
    settings = load(app.conf, {})
    assert settings.namespace == "shop"
    assert settings.policy("openai") == BreakerPolicy(open_s=3)


def test_a_configuration_object_is_read() -> None:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(SimpleNamespace(resilience_beat_s=0.2, broker_url="memory://"))
    assert load(app.conf, {}).beat_s == 0.2


def test_djangos_namespace_is_honoured() -> None:
    app = Celery("shop", set_as_current=False)
    django = SimpleNamespace(CELERY_BROKER_URL="memory://", CELERY_RESILIENCE_NAMESPACE="dj", RESILIENCE_UNRELATED=1)
    app.config_from_object(django, namespace="CELERY")
    assert load(app.conf, {}).namespace == "dj"


def test_the_environment_is_read_with_json_for_mappings() -> None:
    settings = load({}, {
        "RESILIENCE_BEAT_S": "0.25", "RESILIENCE_ENABLED": "false", "RESILIENCE_REDIS_URL": "redis://h/3",
        "RESILIENCE_CIRCUITS": json.dumps({"openai": {"open_s": 5}}),
        "RESILIENCE_BREAKER": '{"consecutive_failures": 2}',
    })  # fmt: skip
    assert (settings.beat_s, settings.enabled, settings.redis_url) == (0.25, False, "redis://h/3")
    assert settings.policy("openai").open_s == 5
    assert settings.policy("other").consecutive_failures == 2


def test_the_app_beats_the_environment_which_beats_the_default() -> None:
    environ = {"RESILIENCE_NAMESPACE": "from-env", "RESILIENCE_BEAT_S": "0.1"}
    settings = load(_app(resilience_namespace="from-app").conf, environ)
    assert (settings.namespace, settings.beat_s) == ("from-app", 0.1)


def test_the_real_environment_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENCE_NAMESPACE", "of-this-process")
    assert load({}).namespace == "of-this-process"


def test_an_update_after_the_configuration_object_wins() -> None:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(SimpleNamespace(resilience_namespace="first"))
    app.conf.update(resilience_namespace="second")
    assert load(app.conf, {}).namespace == "second"


# -- which policy --------------------------------------------------------------------------------------------------


def test_a_level_has_the_policy_of_its_circuit_unless_it_has_its_own() -> None:
    settings = Settings(
        circuits={"a": BreakerPolicy(open_s=1), "b": BreakerPolicy(open_s=2), "b@x": BreakerPolicy(open_s=3)}
    )
    assert settings.policy("a@fallback").open_s == 1
    assert settings.policy("b@x").open_s == 3
    assert settings.policy("b@y").open_s == 2
    assert settings.policy("unknown") == settings.breaker


def test_a_circuit_inherits_what_the_policy_of_all_circuits_sets() -> None:
    settings = load(
        {"resilience_breaker": {"open_s": 7, "minimum_calls": 9}, "resilience_circuits": {"openai": {"open_s": 3}}}, {}
    )
    assert settings.policy("openai") == BreakerPolicy(open_s=3, minimum_calls=9)
    assert settings.policy("other") == BreakerPolicy(open_s=7, minimum_calls=9)


def test_a_level_inherits_from_its_circuit_before_all_circuits() -> None:
    settings = load({
        "resilience_breaker": {"open_s": 7, "jitter": 0.5, "ramp_s": 1},
        "resilience_circuits": {"a@x": {"open_s": 2}, "a": {"open_s": 3, "jitter": 0.25}, "b@x": {"open_s": 4}},
    }, {})  # fmt: skip
    assert settings.policy("a@x") == BreakerPolicy(open_s=2, jitter=0.25, ramp_s=1)
    assert settings.policy("b@x") == BreakerPolicy(open_s=4, jitter=0.5, ramp_s=1)


def test_policies_given_as_objects_inherit_only_what_was_set_of_them() -> None:
    settings = Settings(breaker=BreakerPolicy(open_s=7), circuits={"a": BreakerPolicy(open_max_s=90)})
    assert settings.policy("a") == BreakerPolicy(open_s=7, open_max_s=90)
    explicit_default = Settings(breaker=BreakerPolicy(open_s=7), circuits={"a": BreakerPolicy(open_s=60)})
    assert explicit_default.policy("a").open_s == 60


def test_inheritance_crosses_from_the_environment_to_the_app() -> None:
    environ = {"RESILIENCE_BREAKER": '{"open_s": 7}'}
    assert load({"resilience_circuits": {"a": {"jitter": 0}}}, environ).policy("a") == BreakerPolicy(open_s=7, jitter=0)


def test_an_inherited_policy_is_validated_as_a_whole() -> None:
    text = _refusal({"resilience_breaker": {"open_s": 500}, "resilience_circuits": {"openai": {"open_max_s": 5}}})
    assert text.startswith("setting resilience_circuits.openai is wrong: open_max_s 5 is below open_s 500: ")


def test_a_wrong_field_of_the_common_policy_is_named_there_not_in_every_circuit() -> None:
    conf = {"resilience_breaker": {"open_s": -1}, "resilience_circuits": {"a": {}, "b": {"jitter": 0}}}
    assert _refusal(conf).startswith("setting resilience_breaker.open_s is wrong: ")


def test_a_wrong_field_of_one_circuit_is_named_exactly() -> None:
    assert _refusal({"resilience_circuits": {"openai": {"open_s": "soon"}}}).startswith(
        "setting resilience_circuits.openai.open_s is wrong: "
    )
    assert _refusal({}, {"RESILIENCE_CIRCUITS": '{"openai": {"open_s": -1}}'}).startswith(
        "setting RESILIENCE_CIRCUITS.openai.open_s is wrong: "
    )


# -- the error matrix ----------------------------------------------------------------------------------------------


def test_the_matrix_has_the_apps_changes() -> None:
    settings = load({"resilience_matrix": {"server_error": {"max_retries": 5}}}, {})
    assert settings.error_matrix == matrix_with({"server_error": {"max_retries": 5}})
    assert settings.error_matrix is settings.error_matrix, "made once: it is asked for at every failure"
    assert load({}, {}).error_matrix == MATRIX


def test_the_matrix_can_come_from_the_environment() -> None:
    settings = load({}, {"RESILIENCE_MATRIX": '{"rate_limit": {"counts": false, "strategy": "immediate_retry"}}'})
    row = settings.error_matrix[ErrorCategory.RATE_LIMIT]
    assert (row.counts, row.strategy) == (False, Strategy.IMMEDIATE_RETRY)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (5, "setting resilience_matrix is wrong: must be a mapping from category to fields, 5 is not"),
        ({"server_eror": {}}, "setting resilience_matrix is wrong: unknown category 'server_eror': did you mean serv"),
        (
            {"server_error": {"max_retry": 5}},
            "setting resilience_matrix.server_error.max_retry is wrong: unknown field: did you mean max_retries?",
        ),
        (
            {"server_error": {"strategy": "failovr"}},
            "setting resilience_matrix.server_error.strategy is wrong: unknown strategy 'failovr': did you mean fa",
        ),
        ({"auth_error": {"max_retries": 1}}, "setting resilience_matrix.auth_error is wrong: strategy abandon never "),
    ],
)
def test_a_wrong_change_of_the_matrix_is_named_exactly(matrix: Any, words: str) -> None:
    assert _refusal({"resilience_matrix": matrix}).startswith(words)
    environ = {"RESILIENCE_MATRIX": json.dumps(matrix)}
    assert _refusal({}, environ).startswith(words.replace("resilience_matrix", "RESILIENCE_MATRIX"))


# -- names that are secrets ----------------------------------------------------------------------------------------


def test_names_to_redact_are_a_list_in_the_app_and_json_in_the_environment() -> None:
    assert load({"resilience_redact_names": ["x-pin", "dob"]}, {}).redact_names == ("x-pin", "dob")
    assert load({}, {"RESILIENCE_REDACT_NAMES": '["x-pin"]'}).redact_names == ("x-pin",)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("x-pin", 'must be a list of names, as ["x-pin"]'),
        (["x"], "names of 2 to 100 printable characters are right"),
        (["  x  "], "names of 2 to 100 printable characters are right"),
        (["x\ny"], "names of 2 to 100 printable characters are right"),
    ],
)
def test_a_name_that_would_hide_everything_or_nothing_is_refused(names: Any, words: str) -> None:
    assert _refusal({"resilience_redact_names": names}).startswith(f"setting resilience_redact_names is wrong: {words}")


# -- the environment's own pitfalls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "right"),
    [
        ("RESILIENCE_NAMESPCE", "RESILIENCE_NAMESPACE"),
        ("RESILIENCE_CIRCUIT", "RESILIENCE_CIRCUITS"),
        ("RESILIENCE_BREAKER_ENABLED", "RESILIENCE_BREAKERS_ENABLED"),
        ("RESILIENCE_REDISURL", "RESILIENCE_REDIS_URL"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_right_one(variable: str, right: str) -> None:
    assert _refusal({}, {variable: "x"}) == f"unknown setting {variable} in the environment: did you mean {right}?"


def test_a_strangers_variable_is_left_alone_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"RESILIENCE_TEST_TARGET": "somebody else's", "RESILIENCE_": "", "resilience_namespce": "x"}
    with caplog.at_level(logging.WARNING, "celeriac"):
        assert load({}, environ) == load({}, environ) == Settings()
    assert [record.getMessage() for record in caplog.records] == [
        "celeriac: no setting of ours, so left alone: RESILIENCE_, RESILIENCE_TEST_TARGET in the environment"
    ]


# -- what is refused -----------------------------------------------------------------------------------------------


def test_a_misspelt_name_is_refused_with_the_right_one() -> None:
    assert _refusal({"resilience_namespce": "x"}) == (
        "unknown setting resilience_namespce: did you mean resilience_namespace?"
    )


def test_a_misspelt_django_name_is_answered_in_djangos_spelling() -> None:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(SimpleNamespace(CELERY_RESILIENCE_NAMESPCE="x"), namespace="CELERY")
    assert _refusal(app.conf) == (
        "unknown setting CELERY_RESILIENCE_NAMESPCE: did you mean CELERY_RESILIENCE_NAMESPACE?"
    )


def test_a_name_like_no_other_is_answered_with_all_of_them() -> None:
    text = _refusal({"resilience_zzz": 1})
    assert text.startswith("unknown setting resilience_zzz: known are beat_s, breaker, ")


def test_a_misspelt_name_inside_a_policy_is_refused_with_the_right_one() -> None:
    assert _refusal({"resilience_circuits": {"openai": {"opn_s": 3}}}) == (
        "unknown setting resilience_circuits.openai.opn_s: did you mean open_s?"
    )


def test_a_contradictory_policy_is_refused_with_the_contradiction() -> None:
    text = _refusal({"resilience_breaker": {"open_s": 60, "open_max_s": 5}})
    assert text.startswith(
        "setting resilience_breaker is wrong: open_max_s 5 is below open_s 60: it must be at least that"
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("beat_s", "often", "setting resilience_beat_s is wrong: Input should be a valid number"),
        ("beat_s", -1, "setting resilience_beat_s is wrong: Input should be greater than 0 (got -1)"),
        ("beat_s", None, "setting resilience_beat_s is wrong: "),
        ("enabled", "perhaps", "setting resilience_enabled is wrong: "),
        ("namespace", "two words", "setting resilience_namespace is wrong: must be 1 to 64 letters"),
        ("circuits", ["openai"], "setting resilience_circuits is wrong: "),
        ("circuits", {"two words": {}}, "setting resilience_circuits is wrong: circuit name 'two words' is not usable"),
        ("breaker", {"failure_ratio": 2}, "setting resilience_breaker.failure_ratio is wrong: "),
        ("redis_url", 6379, "setting resilience_redis_url is wrong: "),
        ("release_rate", object(), "setting resilience_release_rate is wrong: "),
        ("retry_budget_ratio", 1.5, "setting resilience_retry_budget_ratio is wrong: Input should be less than or eq"),
        ("retry_budget_per_s", -1, "setting resilience_retry_budget_per_s is wrong: Input should be greater than or"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(name: str, value: Any, words: str) -> None:
    text = _refusal(_app(**{f"resilience_{name}": value}).conf)
    assert text.startswith(words)
    assert len(text) < 300


def test_a_wrong_value_from_the_environment_is_named_as_it_is_written_there() -> None:
    assert _refusal({}, {"RESILIENCE_BEAT_S": "often"}).startswith("setting RESILIENCE_BEAT_S is wrong: ")
    assert _refusal({}, {"RESILIENCE_CIRCUITS": "{oops"}) == (
        "environment variable RESILIENCE_CIRCUITS must be a JSON object"
    )
    assert _refusal({}, {"RESILIENCE_REDACT_NAMES": "x-pin"}) == (
        "environment variable RESILIENCE_REDACT_NAMES must be a JSON list"
    )


def test_a_long_wrong_value_is_cut() -> None:
    assert len(_refusal({"resilience_beat_s": "x" * 10_000})) < 300


# -- secrets -------------------------------------------------------------------------------------------------------


def test_a_password_never_shows_in_repr_or_in_a_refusal() -> None:
    url = "redis://user:hunter2@cache/0"
    settings = load({"resilience_redis_url": url}, {})
    assert settings.redis_url == url
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
    assert "hunter2" not in _refusal({"resilience_redis_url": [url]})
    assert "hunter2" not in _refusal({"resilience_namespace": url})
    assert "hunter2" not in _refusal({"resilience_circuits": {"openai": {url: 1}}})
    assert "hunter2" not in _refusal({"resilience_circuits": {"openai": {"open_s": {"password": "hunter2"}}}})
    assert "hunter2" not in _refusal({"resilience_matrix": {"server_error": {"max_retries": url, "growth": url}}})
    assert "hunter2" not in _refusal({"resilience_matrix": {url: {}}})


def test_settings_survive_a_pickle_with_their_matrix() -> None:
    settings = load({"resilience_matrix": {"server_error": {"max_retries": 5}}}, {})
    assert settings.error_matrix
    back = pickle.loads(pickle.dumps(settings))
    assert back == settings
    assert back.error_matrix == settings.error_matrix
