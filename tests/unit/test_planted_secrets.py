"""Every kind of secret, planted in an error, against every exit that an error has: none of them lets it out."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from celery.events.receiver import EventReceiver

import signals.redact
from resilience.errors import ADVICE, ErrorCategory, WrappedError, wrap
from resilience.errors.advice import NEXT
from resilience.settings import Settings, SettingsError, load
from signals.events import CircuitChanged, Event, RetryDecided, StoreAway, TaskAbandoned, TaskRerouted, WorkerDied
from signals.redact import HIDDEN, describe, hide_names, redact
from signals.redact_logs import LOGGERS, RedactedRecords, redact_logs
from signals.secret_rules import SecretRules
from signals.sinks.celery_events import celery_event_sink
from signals.sinks.log import log_sink

# kind -> (what must not get out, the text that carries it)
_SECRETS: dict[str, tuple[str, str]] = {
    "OpenAI key": ("sk-proj-4bQxZ9TkVw7RmN2pLs8D", "Incorrect API key provided: sk-proj-4bQxZ9TkVw7RmN2pLs8D."),
    "Anthropic key": ("sk-ant-api03-Rk29XvTq", "invalid x-api-key sk-ant-api03-Rk29XvTq"),
    "AWS key id": ("AKIAIOSFODNN7EXAMPLE", "the key AKIAIOSFODNN7EXAMPLE is not active"),
    "AWS secret": ("wJalrXUtnFEMIbPxRfiCY", "aws_secret_access_key=wJalrXUtnFEMIbPxRfiCY"),
    "GitHub token": ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "403 for ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
    "Slack token": ("xoxb-263594206564-FGqddMF8t08v8N7Oq4i57vs1", "xoxb-263594206564-FGqddMF8t08v8N7Oq4i57vs1 revoked"),
    "bearer": ("mF_9.B5f-4.1JqM", "sent Authorization: Bearer mF_9.B5f-4.1JqM"),
    "basic auth": ("QWxhZGRpbjpvcGVuIHNlc2FtZQ", "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
    "redis password": ("hunter2-Tr0ub4dor", "Error 111 connecting to redis://:hunter2-Tr0ub4dor@cache:6379/0"),
    "postgres password": ("hunter2-Tr0ub4dor", "could not connect: postgresql+psycopg://shop:hunter2-Tr0ub4dor@db/shop"),
    "amqp password": ("hunter2-Tr0ub4dor", "amqp://shop:hunter2-Tr0ub4dor@broker:5672// refused"),
    "JWT": ("eyJzdWIiOiIxMjM0In0", "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN expired"),
    "private key": (
        "MIIEowIBAAKCAQEA7",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7\n-----END RSA PRIVATE KEY-----",
    ),
    "cookie": ("3f9c2b7e1a", "request had Cookie: theme=dark; sessionid=3f9c2b7e1a"),
    "password in JSON": ("correct horse", '{"user": "ann", "password": "correct horse"}'),
    "configured name": ("8841-2207", "X-Pin: 8841-2207"),
}  # fmt: skip

_CASES = [pytest.param(*case, id=kind) for kind, case in _SECRETS.items()]


@pytest.fixture(autouse=True)
def _no_filter_helps_another_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "filters", [])


@pytest.fixture(autouse=True)
def _pin_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals.redact, "_rules", SecretRules())
    hide_names(load({"resilience_redact_names": ["x-pin"]}, {}).redact_names)


def _wrapped(text: str) -> WrappedError:
    """The secret everywhere: in the message, in every name, in metadata as value, key, bytes and header."""
    return wrap(
        ConnectionError(text),
        operation=text, task_id=text, task=text, worker=text, session=text, circuit=text,
        metadata={
            "value": text, text: "key", "bytes": text.encode(), "nested": [{"deep": (text, [text])}],
            "error": RuntimeError(text), "x-pin": text, "headers": {"authorization": text}, "pairs": [["cookie", text]],
        },
    )  # fmt: skip


def _events(text: str) -> list[Event]:
    error = wrap(ConnectionError(text))
    return [
        TaskAbandoned("id", "t", 1, "python_error", "major", text, text, error.to_json(), error.format_for_logging()),
        TaskAbandoned("id", "t", 1, "python_error", "major", describe(ConnectionError(text))),
        StoreAway(text),
        CircuitChanged("openai", "closed", "open", 1, text, actor=text),
        TaskRerouted("id", "t", text, text, text, 1),
        RetryDecided("id", "t", 1, text, 1.0),
        WorkerDied(text, 1, text),
    ]


def _log_of(write: Callable[[], None]) -> str:
    """What a user's log file holds afterwards."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        write()
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert stream.getvalue(), "something was logged"
    return stream.getvalue()


def _by_log_sink(text: str) -> str:
    def write() -> None:
        for event in _events(text):
            log_sink(event)

    return _log_of(write)


def _by_fields(text: str) -> str:
    return json.dumps([event.fields() for event in _events(text)])


def _by_celery_events(text: str) -> str:
    """Over Celery's own event exchange, in memory, as a consumer receives them."""
    app = Celery("planted", broker="memory://", set_as_current=False)
    received: list[object] = []
    with app.connection_for_read() as connection:
        receiver = EventReceiver(connection, handlers={"*": received.append}, app=app)
        with receiver.consumer_context(wakeup=False) as (_, channel, _consumers):
            sink = celery_event_sink(app)
            for event in _events(text):
                sink(event)
            while not any(isinstance(each, dict) and each.get("type") == "celeriac-worker-died" for each in received):
                channel.connection.client.drain_events(timeout=5)
    app.close()
    return repr(received)


def _by_settings_refusal(text: str) -> str:
    wrong = [
        {"resilience_namespace": text},
        {"resilience_beat_s": {"password": text, "x": text}},
        {"resilience_circuits": {text: {}}},
        {"resilience_circuits": {"openai": {text: 1}}},
        {"resilience_matrix": {text: {}}},
        {"resilience_matrix": {"server_error": {"growth": text}}},
        {"resilience_redact_names": text},
    ]
    said = []
    for conf in wrong:
        with pytest.raises(SettingsError) as refusal:
            load(conf, {})
        said.append("".join(traceback.format_exception(refusal.value)).partition("SettingsError")[2])
    return "\n".join(said)


def _by_celerys_log(text: str) -> str:
    """As celery.app.trace logs a task that failed: message, traceback, and data for formatters."""
    redact_logs()
    logger = logging.getLogger("celery.app.trace")
    seen: list[logging.LogRecord] = []
    watcher = logging.Handler()
    watcher.emit = seen.append  # type: ignore[method-assign, assignment]

    def write() -> None:
        logger.addHandler(watcher)
        try:
            _raise(text)
        except ConnectionError as error:
            data = {"exc": repr(error), "traceback": traceback.format_exc(), "args": f"('{text}',)"}
            logger.error(
                "Task %(name)s raised unexpected: %(exc)s", {"name": "t", **data}, exc_info=True, extra={"data": data}
            )
        finally:
            logger.removeHandler(watcher)

    return _log_of(write) + repr([vars(record)["data"] for record in seen])


def _by_our_own_traceback(text: str) -> str:
    """As the runner logs trouble of its own: the chain in the traceback holds the task's error."""
    redact_logs()

    def write() -> None:
        try:
            _fail_while_handling(text)
        except TypeError:
            logging.getLogger("celeriac").exception("no decision about the failure of t[%s]", text)

    return _log_of(write)


def _fail_while_handling(text: str) -> None:
    try:
        _raise(text)
    except ConnectionError:
        raise TypeError("trouble of our own")  # noqa: B904  an accident has no `from`


def _raise(text: str) -> None:
    raise ConnectionError(text)


_EXITS: dict[str, Callable[[str], str]] = {
    "redact": redact,
    "describe": lambda text: describe(ConnectionError(text)),
    "str": lambda text: str(_wrapped(text)),
    "repr": lambda text: repr(_wrapped(text)),
    "format_for_logging": lambda text: _wrapped(text).format_for_logging(),
    "JSON": lambda text: json.dumps(_wrapped(text).to_json(), ensure_ascii=False),
    "context": lambda text: repr(_wrapped(text).context),
    "args": lambda text: repr(_wrapped(text).args),
    "pickle": lambda text: pickle.dumps(_wrapped(text)).decode("latin-1"),
    "after pickle": lambda text: repr(vars(pickle.loads(pickle.dumps(_wrapped(text))))),
    "after JSON": lambda text: str(WrappedError.from_json(_wrapped(text).to_json()).original),
    "event fields": _by_fields,
    "log sink": _by_log_sink,
    "Celery event sink": _by_celery_events,
    "Celery's log": _by_celerys_log,
    "our own traceback": _by_our_own_traceback,
    "settings refused": _by_settings_refusal,
    "settings shown": lambda text: repr(Settings(redis_url=text)) + str(Settings(redis_url=text)),
}


@pytest.mark.parametrize("leave_by", _EXITS.values(), ids=_EXITS)
@pytest.mark.parametrize(("secret", "text"), _CASES)
def test_no_exit_lets_a_secret_out(secret: str, text: str, leave_by: Callable[[str], str]) -> None:
    assert secret in text, "it was planted"
    shown = leave_by(text)
    assert secret not in shown
    assert json.dumps(secret)[1:-1] not in shown
    assert HIDDEN in shown


def test_every_event_type_redacts_its_fields() -> None:
    for kind in _kinds(Event):
        values = {field.name: "password=hunter2" for field in dataclasses.fields(kind)}
        assert "hunter2" not in json.dumps(kind(**values).fields())


def _kinds(base: type[Event]) -> Iterator[type[Event]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def test_our_own_words_of_advice_are_left_alone() -> None:
    for category in ErrorCategory:
        assert redact(ADVICE[category].why + ADVICE[category].fix) == ADVICE[category].why + ADVICE[category].fix
    for text in NEXT.values():
        assert redact(text) == text


# -- Celery's own log lines ----------------------------------------------------------------------------------------


def _record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("celery.app.trace", logging.INFO, __file__, 1, message, args, None)


def test_a_record_without_a_secret_keeps_its_template_and_its_arguments() -> None:
    record = _record("Task %s succeeded in %ss", "t", 1.5)
    assert RedactedRecords().filter(record)
    assert (record.msg, record.args) == ("Task %s succeeded in %ss", ("t", 1.5))


def test_a_record_that_cannot_be_read_is_passed_on_without_its_content() -> None:
    record = _record("%s and %s", "password=hunter2")
    assert RedactedRecords().filter(record)
    assert record.getMessage() == "(a record that cannot be shown: reading it raises TypeError)"


def test_asking_twice_filters_once() -> None:
    redact_logs()
    redact_logs()
    filters = logging.getLogger("celery.app.trace").filters
    assert sum(isinstance(each, RedactedRecords) for each in filters) == 1


def test_a_formatter_that_has_made_the_traceback_already_gains_no_secret() -> None:
    record = _record("failed")
    try:
        _raise("password=hunter2")
    except ConnectionError as error:
        record.exc_info = (ConnectionError, error, error.__traceback__)
    record.exc_text = "ConnectionError: password=hunter2"
    RedactedRecords().filter(record)
    assert "hunter2" not in logging.Formatter().format(record)
