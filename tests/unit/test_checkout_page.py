"""The examples of docs/checkout.md run as they stand."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from resilience import NotReadyError
from resilience.services import Services

PAGE = Path(__file__).parents[2] / "docs" / "checkout.md"


def test_the_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    def connect() -> Any:
        raise ConnectionRefusedError("nobody listens")

    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    app = Celery("shop", broker="memory://", set_as_current=False)
    names: dict[str, Any] = {"app": app, "connect": connect, "PRIMARY_URL": url, "SECONDARY_URL": url}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        exec(block, names)  # the page's own words

    assert isinstance(names["apis"], Services)
    printed = capsys.readouterr().out
    assert printed.startswith("no service can be used now: the primary API is not there (ConnectionRefusedError: ")
    assert "start it, or set SECONDARY_URL" in printed
    with pytest.raises(NotReadyError, match="no connection to the orders database"):
        names["charge"](1)
    assert names["res"].ready_check(names["database"]) is names["database"]


def test_a_check_with_impossible_times_is_refused_where_it_is_written() -> None:
    from resilience import Resilience

    app = Celery("shop", broker="memory://", set_as_current=False)
    with pytest.raises(ValueError, match=r"ready check database: every_s=0 is not usable: seconds above 0 are right"):
        Resilience(app).ready_check(print, name="database", every_s=0)
