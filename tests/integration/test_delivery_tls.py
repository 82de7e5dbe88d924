"""A broker that speaks TLS: nothing that a worker, a publisher or an operator sends ever goes out in clear."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from resilience.testing import until
from tests.integration.proxy import Proxy
from tests.integration.trouble_kit import FOLDER, Publisher, Trouble, book_server, trouble

__all__ = ["book_server", "trouble"]  # fixtures

TLS_RECORDS = range(20, 24)
"""Change of cipher, alert, handshake, application data."""


@dataclass
class Wire:
    """A Redis behind TLS, and every byte that clients sent towards it, by connection."""

    port: int
    ca_file: Path
    heard: dict[int, bytearray]

    def url(self, ca_file: Path | None = None) -> str:
        return f"rediss://127.0.0.1:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={ca_file or self.ca_file}"

    def in_clear(self) -> list[bytes]:
        """The beginnings of connections that sent anything else than TLS records."""
        return [bytes(sent[:60]) for sent in self.heard.values() if not _only_tls(bytes(sent))]


def _only_tls(sent: bytes) -> bool:
    """RFC 8446, 5.1: a type, the legacy version 3.x, a length. The last record may be cut short."""
    while len(sent) >= 5:
        if sent[0] not in TLS_RECORDS or sent[1] != 3:
            return False
        sent = sent[5 + int.from_bytes(sent[3:5], "big") :]
    return not sent or sent[0] in TLS_RECORDS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def wire(trouble: Trouble, authority: trustme.CA) -> Iterator[Wire]:
    ca_file = trouble.folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    heard: dict[int, bytearray] = defaultdict(bytearray)
    with ExitStack() as stack:
        ends_tls = stack.enter_context(Proxy(trouble.server.port, ssl_context=context))
        listens = stack.enter_context(Proxy(ends_tls.port, heard=lambda number, data: heard[number].extend(data)))
        yield Wire(listens.port, ca_file, heard)
        trouble.stop()


def use(trouble: Trouble, url: str, *commands: list[str], **conf: Any) -> None:
    """Work of every kind: tasks, a retry, a circuit, a countdown, a death, questions of operators."""
    asking = [ask(trouble, url, words) for words in commands]
    with Publisher(url, **conf) as publisher:
        publisher.send(30, 0.01)
        publisher.app.send_task("tasks.guarded", (1000, 1), ignore_result=True)
        publisher.app.send_task("tasks.guarded", (1001,), ignore_result=True, countdown=1)
        publisher.sent.update((1000, 1001))
        until(lambda: len(trouble.book.ended()) > 10, what="they are at work")
        if len(trouble.workers) > 1:
            trouble.workers[0].kill()
        for process in asking:
            process.communicate(timeout=60)
        trouble.until_done(publisher)


def ask(trouble: Trouble, url: str, words: list[str]) -> subprocess.Popen[bytes]:
    env = {**os.environ, **trouble.environment(url)}
    argv = [sys.executable, "-m", "celery", "-A", "tasks", *words]
    return subprocess.Popen(argv, cwd=FOLDER, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def goes_past(trouble: Trouble) -> list[Any]:
    """Connections of workers that lead to Redis itself, past the wire that is listened to."""
    processes = [
        process for worker in trouble.workers[-1:] for process in (psutil.Process(worker.pid), *worker.children())
    ]
    all_of_them = [connection for process in processes for connection in process.net_connections("tcp")]
    assert all_of_them
    return [
        connection for connection in all_of_them if connection.raddr and connection.raddr.port == trouble.server.port
    ]


@pytest.mark.timeout(180)
def test_a_broker_url_of_tls_never_speaks_in_clear(trouble: Trouble, wire: Wire) -> None:
    trouble.start_one_of_each_pool(url=wire.url())
    use(trouble, wire.url(), ["inspect", "ping"], ["breaker", "list"], ["quarantine", "list"], ["pool", "health"])
    assert len(wire.heard) > 30, "consumers, waits, marks, pulses, circuits, publisher and command line"
    assert not wire.in_clear()
    assert not goes_past(trouble)


@pytest.mark.timeout(180)
def test_tls_that_is_switched_on_in_the_settings_never_speaks_in_clear(trouble: Trouble, wire: Wire) -> None:
    """`broker_use_ssl` with a URL that says redis://."""
    url = f"redis://127.0.0.1:{wire.port}/0"
    use_ssl = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(wire.ca_file)}
    trouble.conf["broker_use_ssl"] = use_ssl
    trouble.start({"name": "one"}, url=url)
    use(trouble, url, broker_use_ssl=use_ssl)
    assert wire.heard
    assert not wire.in_clear()
    assert not goes_past(trouble)


def test_a_server_that_cannot_prove_who_it_is_gets_nothing(trouble: Trouble, wire: Wire) -> None:
    stranger = trouble.folder / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    trouble.start({"name": "careful"}, url=wire.url(stranger), wait=False)
    (worker,) = trouble.workers
    until(lambda: "CERTIFICATE_VERIFY_FAILED" in worker.log(), what="it says why it does not connect")
    assert "careful@test ready" not in worker.log()
    worker.kill()
    assert not wire.in_clear()
    assert not trouble.broker.keys("*"), "nothing reached Redis"
