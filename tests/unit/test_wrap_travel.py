"""The wrapped error on its way through pickle, copies and a child of billiard: it arrives whole, without secrets."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from resilience.errors import ErrorContext, WrappedError, wrap
from resilience.errors.travel import DescribedError
from signals.redact import HIDDEN

SECRET = "hunter2-Tr0ub4dor"


def limited() -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://api.example/v1/chat")
    response = httpx.Response(429, headers={"Retry-After": "30"}, request=request)
    return httpx.HTTPStatusError("Client error '429 Too Many Requests'", request=request, response=response)


def full() -> WrappedError:
    return wrap(
        limited(), operation="charge", attempt=2, task_id="6f0c", task="shop.charge", worker="w1@host", session="u42",
        circuit="payments", started_at=1772366400.0, elapsed_s=1.25, metadata={"model": "gpt", "nested": [{"a": None}]},
    )  # fmt: skip


class PlainError(Exception):
    """Survives a pickle."""


class NeedsTwoError(Exception):
    """Can be written as a pickle, not read: its arguments are not those of its constructor."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")


class SecretiveError(Exception):
    """Decides itself what its pickle holds."""

    def __reduce__(self) -> Any:
        return PlainError, (SECRET,)


def _with(error: BaseException, **attributes: Any) -> BaseException:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "original",
    [
        PlainError("no", 7),
        ConnectionRefusedError(111, "refused"),
        KeyError("id"),
        _with(PlainError("no"), status_code=3),
    ],
)
def test_an_original_of_plain_data_travels(original: BaseException) -> None:
    back = pickle.loads(pickle.dumps(wrap(original, operation="charge")))
    assert type(back.original) is type(original)
    assert back.original.args == original.args
    assert vars(back.original) == vars(original)
    assert back.__cause__ is back.original


@pytest.mark.parametrize(
    "original",
    [
        limited(),
        NeedsTwoError(7, "no"),
        SecretiveError("no"),
        _with(PlainError("no"), lock=object()),
        _with(PlainError("no"), handler=lambda: None),
        type("LocalError", (Exception,), {})("no"),
        PlainError("x" * 100_000),
        PlainError(PlainError("no")),
        PlainError(f"redis://:{SECRET}@cache"),
        PlainError({"password": SECRET}),
        PlainError(f"password={SECRET}".encode()),
        _with(PlainError("no"), headers={"x-api-key": SECRET}),
    ],
)
def test_any_other_original_is_replaced_by_its_description_and_nothing_else_is_lost(original: BaseException) -> None:
    error = wrap(original, operation="charge", attempt=2, model="gpt")
    data = pickle.dumps(error)
    back = pickle.loads(data)
    assert back.context == error.context
    assert isinstance(back.original, DescribedError)
    assert "itself stayed behind" in str(back.original)
    assert SECRET.encode() not in data


def test_a_class_that_the_reader_does_not_know_is_described() -> None:
    code = (
        "import pickle, sys\n"
        "from resilience.errors import wrap\n"
        "class OnlyHere(Exception): pass\n"
        "sys.stdout.buffer.write(pickle.dumps(wrap(OnlyHere('no'), operation='charge')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    back = pickle.loads(done.stdout)
    assert str(back) == "charge: python_error on attempt 1: OnlyHere: no"
    assert isinstance(back.original, DescribedError)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_will_do(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(full(), protocol)).context == full().context


def test_a_copy_is_the_same_error() -> None:
    for back in (copy.copy(full()), copy.deepcopy(full())):
        assert back.context == full().context


def test_it_survives_a_second_journey() -> None:
    back = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(full()))))
    assert back.context == full().context
    assert str(back.original).count("stayed behind") == 1


class OwnWrappedError(WrappedError):
    """A user's subclass with arguments of its own."""

    def __init__(self, order: int) -> None:
        super().__init__(full().context)
        self.order = order


def test_a_subclass_with_other_arguments_survives() -> None:
    back = pickle.loads(pickle.dumps(OwnWrappedError(7)))
    assert type(back) is OwnWrappedError
    assert back.context == full().context


# -- billiard, as a prefork child sends it ------------------------------------------------------------------------

_POOL = """
import json, sys
sys.path.insert(0, sys.argv[1])
import billiard
import failing

if __name__ == "__main__":
    pool = billiard.Pool(1)
    try:
        pool.apply(failing.work, ())
    except Exception as error:
        seen = [type(error).__name__, error.to_json(), str(error.original), type(error.__cause__).__name__]
        json.dump(seen, sys.stdout)
    finally:
        pool.terminate()
        pool.join()
"""

_FAILING = """
import os, threading
from resilience.errors import wrap

class Unpicklable(Exception):
    def __init__(self):
        super().__init__("cannot reach redis://:hunter2-Tr0ub4dor@cache")
        self.lock = threading.Lock()

def work():
    try:
        raise Unpicklable()
    except Unpicklable as error:
        raise wrap(error, operation="charge", attempt=3, child=os.getpid())
"""


def test_it_comes_home_whole_from_a_child_of_billiard(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(_FAILING)
    (tmp_path / "main.py").write_text(_POOL)
    argv = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    kind, values, original, cause = json.loads(done.stdout)
    context = ErrorContext.from_json(values)
    assert (kind, context.operation, context.attempt) == ("WrappedError", "charge", 3)
    assert context.metadata["child"] != os.getpid()
    assert original == (
        f"Unpicklable: cannot reach redis://:{HIDDEN}@cache "
        "(a description: the failing.Unpicklable itself stayed behind)"
    )
    assert cause == "RemoteTraceback", "billiard puts the text of the traceback there; the original is not lost by it"
