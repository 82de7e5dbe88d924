"""A local OpenAI-compatible chat server that fails on a script, for the demo and the tests.

Its answers are computed from the prompt, so every answer can be checked against its question, and its request
log is the one honest witness of what reached it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from tasks.upstream_request import Chat, Request, expected_answer, read_log
from tasks.upstream_script import Phase, Script, ScriptError

__all__ = ["Request", "Script", "ScriptError", "Upstream", "expected_answer", "main", "read_log"]


class Upstream:
    """The server, in a thread of its own. `with Upstream(...) as up:` in tests, `main()` as a process."""

    def __init__(
        self,
        script: Script | Sequence[dict[str, Any]] = (),
        *,
        port: int = 0,
        key: str | None = None,
        latency_s: float = 0.0,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        self.script = script if isinstance(script, Script) else Script.of(list(script))
        self.key = key
        self.latency_s = latency_s
        self.requests: list[Request] = []
        self._log = open(log, "ab", buffering=0) if log else None  # noqa: SIM115 - closed in stop()
        self._started_at: float | None = None
        self._flaky = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._server: HTTPServer | None = None
        self._ended = threading.Event()
        # Bound and never listening: it keeps the port ours while the listener is closed, and connects to it
        # are refused by the kernel.
        if port:
            _bound("127.0.0.1", port, shared=False).close()  # raises when somebody else has it
        self._reserved = _bound("127.0.0.1", port)
        self.port: int = self._reserved.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="upstream", daemon=True)

    @property
    def url(self) -> str:
        """The base URL to configure a client with."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Upstream:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; returns when connections are accepted."""
        ready = threading.Event()
        self._ready = ready
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Close every connection and the port; returns when the thread has ended."""
        self._loop.call_soon_threadsafe(self._finished.set)
        self._thread.join()
        self._reserved.close()
        if self._log:
            self._log.close()

    def begin(self) -> None:
        """Start the script now (again, if it had started); any thread may call it."""
        self._loop.call_soon_threadsafe(self._begin)

    # --- inside the loop's thread

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        self.leaving = asyncio.Event()
        self._listen()
        self._ready.set()
        await self._finished.wait()
        for timer in self._timers:
            timer.cancel()
        self.leaving.set()
        await self._close()

    def _listen(self) -> None:
        if self._server is None:
            listener = _bound("127.0.0.1", self.port)
            listener.listen(1024)
            listener.setblocking(False)
            self._server = HTTPServer(
                Application(
                    [(r".*/chat/completions", Chat), (r"/__start", _Start)],
                    upstream=self,
                    log_function=_quiet,
                )
            )
            self._server.add_socket(listener)

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            await server.close_all_connections()

    def _begin(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._started_at = self._loop.time()
        self._timers = [
            self._loop.call_at(self._started_at + begin, self._enter, phase)
            for phase, (begin, _) in zip(self.script.phases, self.script.spans(), strict=True)
        ]
        self._timers.append(self._loop.call_at(self._started_at + self.script.length_s, self._listen))

    def _enter(self, phase: Phase) -> None:
        if phase.mode == "refuse":
            self._closing = self._loop.create_task(self._close())
        else:
            self._listen()

    def phase(self) -> Phase:
        """The phase for a request that arrives now; the first request starts the script."""
        if self._started_at is None:
            self._begin()
        assert self._started_at is not None
        return self.script.at(self._loop.time() - self._started_at)

    def fails_now(self, share: float) -> bool:
        """Spread the failures of a flaky phase evenly, the same way every time."""
        self._flaky += share
        if self._flaky >= 1.0:
            self._flaky -= 1.0
            return True
        return False

    def record(self, request: Request) -> None:
        """Write one line of the log, to the operating system at once."""
        self.requests.append(request)
        if self._log:
            self._log.write(json.dumps(asdict(request)).encode() + b"\n")


class _Start(RequestHandler):
    def post(self) -> None:
        upstream: Upstream = self.settings["upstream"]
        upstream.begin()
        self.set_status(204)


def _quiet(_: RequestHandler) -> None:
    """Tornado's access log would repeat the request log on standard error."""


def _bound(host: str, port: int, *, shared: bool = True) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.upstream`: print one JSON line when ready, serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tasks.upstream", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--log", help="the request log, appended to")
    parser.add_argument("--script", default="[]", help="a JSON list of phases, or a file that holds one")
    parser.add_argument("--key", help="the only API key that is accepted; default: any")
    parser.add_argument("--latency-s", type=float, default=0.05)
    given = parser.parse_args(argv)
    try:
        script = Script.read(given.script)
        upstream = Upstream(script, port=given.port, key=given.key, latency_s=given.latency_s, log=given.log)
    except (ScriptError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with upstream:
        sys.stdout.write(json.dumps({"port": upstream.port, "url": upstream.url}) + "\n")
        sys.stdout.flush()
        stopped.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
