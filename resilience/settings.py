"""Every option of the middleware: name, unit, default. Validated at start-up; an unknown name is refused with a hint.

Options live in `app.conf` as `resilience_<name>` and in the environment as `RESILIENCE_<NAME>` (JSON for mappings and
lists). What the app sets beats the environment, which beats the default.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections import UserDict
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from resilience.breaker.policy import BreakerPolicy, check_name
from resilience.errors.overrides import MatrixError, matrix_with
from resilience.errors.taxonomy import ErrorCategory, Row
from signals.redact import one_line, redact

PREFIX = "resilience_"
NEAR = 0.8
"""From this likeness on (see difflib), a variable of the environment is one of ours misspelt."""

_JSON = {"breaker": "object", "circuits": "object", "matrix": "object", "redact_names": "list"}

logger = logging.getLogger("celeriac")


class SettingsError(ValueError):
    """A setting is wrong; the message is one sentence for a person."""


class Settings(BaseModel):
    """All options. Times are seconds unless the name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="The whole middleware; off leaves stock Celery.")
    namespace: str = Field(default="celeriac", description="First part of every Redis key of the middleware.")
    redis_url: str | None = Field(
        default=None,
        description="Where breaker state lives; default: the Redis broker, else the Redis result backend.",
    )
    store_timeout_s: float = Field(default=0.25, gt=0, le=10, description="Longest wait for breaker state.")
    fallback_queue: str = Field(
        default="fallback", description="The queue that the embedded pool's fallback worker serves."
    )
    breaker: BreakerPolicy = Field(
        default=BreakerPolicy(), description="The policy of circuits without one of their own."
    )
    circuits: dict[str, BreakerPolicy] = Field(
        default={}, description="Policies by circuit name; what one leaves out is as in `resilience_breaker`."
    )
    matrix: dict[Any, Any] = Field(
        default={}, description="Changes to the error matrix, by category and field: see below."
    )
    redact_names: tuple[str, ...] = Field(
        default=(), description="Further names whose values are secrets, hidden in logs, events and errors."
    )
    breakers_enabled: bool = Field(default=True, description="Circuits: admission, feeding, re-routing.")
    retries_enabled: bool = Field(default=True, description="Retries by the error matrix in the task base class.")
    retry_budget_ratio: float = Field(
        default=0.2, ge=0, le=1, description="Retries of a circuit, as a share of its recent calls in the whole fleet."
    )
    retry_budget_per_s: float = Field(
        default=3.0,
        ge=0,
        le=100_000,
        description="Retries per second that a circuit may make however few its calls are.",
    )
    recovery_enabled: bool = Field(default=True, description="Pulse, and reclaiming what a dead worker held.")
    transport_enabled: bool = Field(
        default=True,
        description="Owned delivery on Redis: a message is never in nobody's hands; off: kombu's own delivery.",
    )
    quarantine_enabled: bool = Field(
        default=True,
        description="Messages that cannot run, or were given up, are kept; off: dropped as by stock Celery.",
    )
    quarantine_abandoned: Literal["matrix", "all", "none"] = Field(
        default="matrix",
        description="Failed tasks in quarantine: 'matrix', those with spent retries or levels and those that the "
        "error matrix abandons; 'all', every one but what `throws` names; 'none'.",
    )
    quarantine_max: int = Field(default=10_000, ge=1, le=1_000_000, description="Messages in quarantine at most.")
    quarantine_max_bytes: int = Field(
        default=100 * 1024 * 1024, ge=1, description="Bytes of all messages in quarantine at most."
    )
    quarantine_age_s: float = Field(
        default=30 * 86_400.0, gt=0, le=10 * 365 * 86_400, description="How long a message stays in quarantine at most."
    )
    quarantine_replays: int = Field(
        default=3, ge=0, le=1_000, description="How often a message is replayed before that takes force."
    )
    one_by_one_enabled: bool = Field(
        default=True,
        description="A pool of threads runs short tasks one by one while none waits; off: all at once, as in Celery.",
    )
    publishing_enabled: bool = Field(
        default=True, description="A lean way to send tasks to Redis, bounded in time; off: kombu's own."
    )
    publish_timeout_s: float | None = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="How long sending a task may take while the broker is away; None: as long as kombu's own waits.",
    )
    checkout_enabled: bool = Field(
        default=True,
        description="Ready checks, and tasks that find their worker not ready go to another one; off: they fail.",
    )
    checkout_patience_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="How long a task that finds no ready worker is passed on, to 8 of them at least, before it fails.",
    )
    health_enabled: bool = Field(default=True, description="Health checks by beat.")
    sentry_enabled: bool = Field(
        default=True,
        description="Sentry, where the app uses it: an event per opened circuit and quarantined message, secrets out "
        "of every event.",
    )
    beat_s: float = Field(default=0.5, gt=0, le=60, description="A worker's pulse.")
    gone_s: float = Field(default=1.0, gt=0, le=600, description="Connection gone and no beat for so long: dead.")
    silent_s: float = Field(default=30.0, gt=0, le=3600, description="Connection up but no beat for so long: dead.")
    stall_s: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        description="A worker with free slots that received nothing for so long, although messages wait, reconnects.",
    )
    worker_restarts: bool = Field(
        default=False,
        description="Something starts a worker anew when it ends (Kubernetes, systemd, `pool up` says so itself): one "
        "that does not come up may be replaced although no other serves its queues.",
    )
    poison_deaths: int = Field(
        default=3, ge=1, le=1000, description="Workers that a task may have killed before it runs once more, alone."
    )
    health_interval_s: float = Field(default=30.0, gt=0, le=3600, description="From one health round to the next.")
    health_timeout_s: float = Field(
        default=5.0, gt=0, le=600, description="A check not answered in this time is missed."
    )
    release_rate: float = Field(default=100.0, gt=0, le=100_000, description="Parked messages released per second.")

    @field_validator("namespace")
    @classmethod
    def _namespace_is_plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
            raise ValueError("must be 1 to 64 letters, digits or _ . -")
        return value

    @field_validator("circuits")
    @classmethod
    def _circuit_names(cls, value: dict[str, BreakerPolicy]) -> dict[str, BreakerPolicy]:
        for name in value:
            if redact(name) != name:
                raise ValueError(f"circuit name {one_line(name, 60)} is not usable: it looks like a secret")
            check_name(name)
        return value

    @field_validator("matrix", mode="before")
    @classmethod
    def _matrix_is_sound(cls, value: Any) -> Any:
        matrix_with(value)
        return value

    @field_validator("redact_names", mode="before")
    @classmethod
    def _names_are_listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError('must be a list of names, as ["x-pin"]')  # noqa: TRY004  pydantic wants a ValueError
        return value

    @field_validator("redact_names")
    @classmethod
    def _names_can_be_found(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(2 <= len(name.strip()) <= 100 and name.isprintable() for name in value):
            raise ValueError("names of 2 to 100 printable characters are right")
        return value

    @model_validator(mode="before")
    @classmethod
    def _circuits_inherit(cls, values: Any) -> Any:
        """Each circuit's policy is what `breaker` sets, with the circuit's own fields on top; then it is validated."""
        if not isinstance(values, dict) or not isinstance(values.get("circuits"), Mapping):
            return values
        base = _given_fields(values.get("breaker", {}))
        circuits = values["circuits"]
        return {**values, "circuits": {name: _inherited(name, circuits, base) for name in circuits}}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """For repr and str: passwords in URLs are blanked."""
        for name, value in super().__repr_args__():
            if name in Settings.model_fields:
                yield name, redact(value) if isinstance(value, str) else value

    def policy(self, circuit: str) -> BreakerPolicy:
        """The policy of a circuit; `name@level` has that of `name` unless it has its own."""
        return self.circuits.get(circuit) or self.circuits.get(circuit.partition("@")[0]) or self.breaker

    @cached_property
    def error_matrix(self) -> Mapping[ErrorCategory, Row]:
        """The error matrix with this app's changes."""
        return matrix_with(self.matrix)


def _given_fields(policy: Any) -> Any:
    """What was set of a policy, as a mapping; anything that is no policy as it is, for the validator to refuse."""
    return policy.model_dump(exclude_unset=True) if isinstance(policy, BreakerPolicy) else policy


def _inherited(name: Any, circuits: Mapping[Any, Any], base: Any) -> Any:
    own = _given_fields(circuits[name])
    circuit, at, _ = str(name).partition("@")
    above = _given_fields(circuits.get(circuit, {})) if at else {}
    layers = (base, above, own)
    if not all(isinstance(layer, Mapping) for layer in layers):
        return own
    return {field: value for layer in layers for field, value in layer.items()}


def given_by_user(conf: Any, key: str) -> Any:
    """The value of Celery's setting `key` if the user's code or configuration has one; None for anybody's default."""
    own = type(conf)({}, conf.maps[:2], conf._keys, conf.prefix)  # noqa: SLF001  the first two maps are the user's
    return own.get(key)


def load(conf: Mapping[str, Any] | Any, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings out of a Celery configuration and the environment. Raises SettingsError with one sentence."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    written: dict[str, str] = {}
    for variable, name, text in _in_environment(environ):
        values[name] = _from_text(name, text)
        written[name] = variable
    for where, name, value in _given(conf):
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown setting {where}{_hint(where, name)}")
        values[name] = value
        written[name] = where
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_sentence(error, written)) from None


def _in_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(variable, option, text) of our variables. A near miss is refused; other RESILIENCE_* may be somebody else's."""
    strangers = []
    for variable in sorted(environ):
        if not variable.startswith(PREFIX.upper()):
            continue
        name = variable[len(PREFIX) :].lower()
        if name in Settings.model_fields:
            yield variable, name, environ[variable]
        elif near := difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=NEAR):
            right = (PREFIX + near[0]).upper()
            raise SettingsError(f"unknown setting {variable} in the environment: did you mean {right}?")
        else:
            strangers.append(variable)
    if strangers:
        _say_once(tuple(strangers))


@cache
def _say_once(variables: tuple[str, ...]) -> None:
    names = ", ".join(variables)
    logger.warning("celeriac: no setting of ours, so left alone: %s in the environment", names)


def _given(conf: Any) -> Iterator[tuple[str, str, Any]]:
    """(name as written, option, value) of everything named resilience_* in a Celery configuration."""
    for pending in getattr(conf, "maps", ()):
        if isinstance(pending, UserDict):
            _ = pending.data  # an app's configuration before its first use: this loads it, namespace and all
    marker = PREFIX.lower()
    django = (getattr(conf, "prefix", None) or "").lower()
    seen: set[str] = set()
    for mapping in getattr(conf, "maps", [conf]):
        for key in list(mapping):
            lowered = str(key).lower()
            plain = lowered.removeprefix(django)
            if django and plain == lowered and str(key) != lowered:
                continue  # upper case without the namespace: Django's or somebody else's, as for Celery itself
            if plain.startswith(marker) and plain not in seen:
                seen.add(plain)
                yield str(key), plain[len(marker) :], mapping[key]


def _from_text(name: str, text: str) -> Any:
    kind = _JSON.get(name)
    if kind is None:
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise SettingsError(f"environment variable {(PREFIX + name).upper()} must be a JSON {kind}") from None


def _hint(where: str, name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    if not near:
        return f": known are {', '.join(sorted(Settings.model_fields))}"
    spelled = near[0].upper() if where.isupper() else near[0]
    return f": did you mean {where[: -len(name)]}{spelled}?"


def _sentence(error: ValidationError, written: Mapping[str, str]) -> str:
    first = error.errors()[0]
    path = [one_line(str(part), 60) for part in first["loc"]]
    where = ".".join([written.get(path[0], PREFIX + path[0]), *path[1:]]) if path else "resilience settings"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], BreakerPolicy.model_fields, n=1)
        return f"unknown setting {where}" + (f": did you mean {near[0]}?" if near else "")
    refusal = first.get("ctx", {}).get("error")
    if isinstance(refusal, MatrixError):
        return f"setting {'.'.join((where, *refusal.path))} is wrong: {refusal.message}"
    reason = redact(str(first["msg"]).removeprefix("Value error, "))
    return f"setting {where} is wrong: {reason} (got {one_line(repr(first.get('input')), 120)})"
