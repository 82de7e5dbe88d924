"""Every option of the middleware: name, unit, default. Validated at start-up; an unknown name is refused with a hint.

Options live in `app.conf` as `resilience_<name>` and in the environment as `RESILIENCE_<NAME>` (JSON for mappings).
What the app sets beats the environment, which beats the default.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from resilience.breaker.policy import BreakerPolicy, check_name
from signals.redact import redact

PREFIX = "resilience_"


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
    circuits: dict[str, BreakerPolicy] = Field(default={}, description="Policies by circuit name.")
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
    health_enabled: bool = Field(default=True, description="Health checks by beat.")
    sentry_enabled: bool = Field(
        default=True,
        description="Sentry, where the app uses it: an event per opened circuit, secrets out of every event.",
    )
    beat_s: float = Field(default=0.5, gt=0, le=60, description="A worker's pulse.")
    gone_s: float = Field(default=1.0, gt=0, le=600, description="Connection gone and no beat for so long: dead.")
    silent_s: float = Field(default=30.0, gt=0, le=3600, description="Connection up but no beat for so long: dead.")
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
            check_name(name)
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """For repr and str: passwords in URLs are blanked."""
        for name, value in super().__repr_args__():
            yield name, redact(value) if isinstance(value, str) else value

    def policy(self, circuit: str) -> BreakerPolicy:
        """The policy of a circuit; `name@level` has that of `name` unless it has its own."""
        return self.circuits.get(circuit) or self.circuits.get(circuit.partition("@")[0]) or self.breaker


def given_by_user(conf: Any, key: str) -> Any:
    """The value of Celery's setting `key` if the user's code or configuration has one; None for anybody's default."""
    own = type(conf)({}, conf.maps[:2], conf._keys, conf.prefix)  # noqa: SLF001  the first two maps are the user's
    return own.get(key)


def load(conf: Mapping[str, Any] | Any, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings out of a Celery configuration and the environment. Raises SettingsError with one sentence."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name in Settings.model_fields:
        text = environ.get((PREFIX + name).upper())
        if text is not None:
            values[name] = _from_text(name, text)
            written[name] = (PREFIX + name).upper()
    for where, name, value in _given(conf):
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown setting {where}{_hint(where, name)}")
        values[name] = value
        written[name] = where
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_sentence(error, written)) from None


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
    if name not in ("breaker", "circuits"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise SettingsError(f"environment variable {(PREFIX + name).upper()} must be a JSON object") from None


def _hint(where: str, name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    if not near:
        return f": known are {', '.join(sorted(Settings.model_fields))}"
    spelled = near[0].upper() if where.isupper() else near[0]
    return f": did you mean {where[: -len(name)]}{spelled}?"


def _sentence(error: ValidationError, written: Mapping[str, str]) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    where = ".".join([written.get(path[0], PREFIX + path[0]), *path[1:]]) if path else "resilience settings"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], BreakerPolicy.model_fields, n=1)
        return f"unknown setting {where}" + (f": did you mean {near[0]}?" if near else "")
    reason = str(first["msg"]).removeprefix("Value error, ")
    got = redact(" ".join(repr(first.get("input")).split()))
    return f"setting {where} is wrong: {reason} (got {got if len(got) <= 120 else got[:117] + '...'})"
