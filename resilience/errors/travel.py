"""Which exceptions may leave their process as they are: those that survive it and give no secret away."""

from __future__ import annotations

import pickle
from typing import Any

from resilience.errors.taxonomy import PoolError
from signals.redact import redact_value

PACKED_LIMIT_BYTES = 10_000


class DescribedError(PoolError):
    """The redacted description of an exception that did not travel: it was no plain data, or held a secret."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(error_type, message)
        self.error_type = error_type
        self.message = message

    def __str__(self) -> str:
        return f"{self.message or self.error_type} (a description: the {self.error_type} itself stayed behind)"


def packed(error: BaseException) -> bytes | None:
    """`error` as a pickle that holds no secret and can be read again, else None. Never raises."""
    try:
        return _packed(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  whatever it is, it cannot travel, and its description goes in its place
        return None


def unpacked(data: bytes | None) -> BaseException | None:
    """The exception in a pickle that `packed` made; None without one, or where its class is not known."""
    if data is None:
        return None
    try:
        error = pickle.loads(data)  # noqa: S301  it came within a pickle that the process is reading already
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  its class is known where it was raised, not here
        return None
    return error if isinstance(error, BaseException) else None


def _packed(error: BaseException) -> bytes | None:
    if not _is_plain(type(error)):
        return None
    parts: Any = error.__reduce__()  # its class, its arguments, and its attributes if it has any
    if not all(_shows_as_it_is(part) for part in parts[1:]):
        return None
    data = pickle.dumps(error)
    copy = pickle.loads(data)  # noqa: S301  made in the line above
    return data if type(copy) is type(error) and len(data) <= PACKED_LIMIT_BYTES else None


def _is_plain(kind: type) -> bool:
    """Whether its pickle is its arguments and attributes: then they are all that has to be looked at."""
    owners = {name: base for base in reversed(kind.__mro__) for name in vars(base)}
    hooks = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")
    return all(owners[name].__module__ == "builtins" for name in hooks if name in owners)


def _shows_as_it_is(value: Any) -> bool:
    value = list(value) if type(value) is tuple else value
    return value is None or bool(redact_value(value) == value)
