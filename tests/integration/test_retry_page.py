"""The page on retrying: its examples run, against a real upstream that fails at first and a real Redis."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from resilience import backoff, with_retry

PAGE = (Path(__file__).parents[2] / "docs" / "retry.md").read_text("utf-8")


class Upstream(BaseHTTPRequestHandler):
    """Answers 503 to every other request."""

    requests = 0

    def do_GET(self) -> None:
        Upstream.requests += 1
        self.send_response(503 if Upstream.requests % 2 else 200)
        self.end_headers()
        self.wfile.write(b'"42"')

    def log_request(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def upstream() -> Iterator[str]:
    Upstream.requests = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_example_of_the_page_runs(upstream: str, redis_url: str) -> None:
    answers = iter(["busy", "paid"])
    names: dict[str, object] = {"UPSTREAM": upstream, "REDIS_URL": redis_url, "bank": lambda _: next(answers)}
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 5
    for example in examples:
        exec(compile(example, "docs/retry.md", "exec"), names)
    assert names["answer"] == "42"
    assert names["receipt"] == "paid"
    fetch_async = names["fetch_async"]
    assert callable(fetch_async)
    assert asyncio.run(fetch_async("/answer")) == "42"
    names["breakers"].close()  # type: ignore[attr-defined]


def test_the_page_names_every_option_and_every_strategy_with_its_arguments() -> None:
    options = inspect.signature(with_retry).parameters
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [name for name in options if name != "fn"]
    rows = re.findall(r"^\| `backoff\.(\w+)\(([^)]*)\)`", PAGE, re.MULTILINE)
    assert {name for name, _ in rows} == {strategy.__name__ for strategy in backoff.Backoff.__subclasses__()}
    for name, arguments in rows:
        assert arguments.split(", ") == list(inspect.signature(getattr(backoff, name)).parameters)
