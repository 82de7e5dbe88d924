"""A Sentry on loopback: takes envelopes over HTTP as Sentry does, unpacks them, and keeps every byte."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Item:
    """One item of an envelope: `kind` is event, transaction, log, session, client_report ..."""

    kind: str
    payload: dict[str, Any]


class SentrySink:
    """Use it as a context manager; its `dsn` goes to `sentry_sdk.init`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bodies: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> SentrySink:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def dsn(self) -> str:
        return f"http://public@127.0.0.1:{self._server.server_port}/1"

    def take(self, body: bytes) -> None:
        with self._lock:
            self._bodies.append(body)

    def everything(self) -> bytes:
        """Every byte that arrived, unpacked."""
        with self._lock:
            return b"\n".join(self._bodies)

    def items(self, kind: str) -> list[dict[str, Any]]:
        with self._lock:
            bodies = list(self._bodies)
        return [item.payload for body in bodies for item in _items(body) if item.kind == kind]

    def events(self) -> list[dict[str, Any]]:
        return self.items("event")

    def openings(self) -> list[dict[str, Any]]:
        """Events of opened circuits, by their fingerprint."""
        return [event for event in self.events() if event.get("fingerprint", [])[:2] == ["celeriac", "circuit-open"]]


def _items(body: bytes) -> list[Item]:
    """An envelope: a header line, then for each item a header line and a payload of the length it names."""
    _, _, rest = body.partition(b"\n")
    items = []
    while rest.strip():
        head, _, rest = rest.partition(b"\n")
        header = json.loads(head)
        length = header.get("length", rest.find(b"\n"))
        payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        items.append(Item(header["type"], json.loads(payload)))
    return items


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "br":
        return bytes(import_module("brotli").decompress(body))  # the SDK chooses it where it is installed
    assert not encoding, f"an encoding that Sentry does not take: {encoding}"
    return body


def _handler(sink: SentrySink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sink.take(_unpacked(body, self.headers.get("Content-Encoding", "")))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
            pass

    return Handler
