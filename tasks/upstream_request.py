"""One request to the local chat server: what the script calls for, and a line of the log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from tasks.upstream_script import Phase

MODEL = "extractive-1"
_TRICKLE_EVERY_S = 0.05


def expected_answer(prompt: str) -> str:
    """The one right answer to a prompt: its counts, its longest sentence, and a mark of the exact text."""
    sentences = [s.strip() for s in re.split(r"(?<=[.!?])\s+", prompt) if s.strip()]
    longest = max(sentences, key=len, default="")
    mark = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    counts = f"{len(prompt.split())} words in {len(sentences)} sentences"
    return f"{counts}; the longest says: {longest[:600]} [{mark}]"


@dataclass(frozen=True)
class Request:
    """One line of the request log. `status` is None when the client went away before an answer was sent."""

    t: float  # seconds since the epoch, when the request had arrived
    request_id: str
    status: int | None
    mode: str
    prompt_sha256: str
    ms: float


def read_log(path: str | os.PathLike[str]) -> list[Request]:
    """Every request in the log so far; a last line that is still being written is left out."""
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    return [Request(**json.loads(line)) for line in lines]


class Host(Protocol):
    """What a request needs of its server."""

    key: str | None
    latency_s: float
    leaving: asyncio.Event

    def phase(self) -> Phase: ...
    def fails_now(self, share: float) -> bool: ...
    def record(self, request: Request) -> None: ...


class Chat(RequestHandler):
    """One question. Every way out writes one line of the log, also when the client has gone."""

    def initialize(self) -> None:
        self.host: Host = self.settings["upstream"]
        self.gone = asyncio.Event()
        self.arrived = time.time()
        self.mode = ""
        self.digest = ""
        self.logged = False

    async def post(self) -> None:
        prompt = self._prompt()
        if prompt is None:
            self._error(400, "invalid_request_error", "messages must hold one with a text as content")
            return
        self.digest = hashlib.sha256(prompt.encode(errors="replace")).hexdigest()
        phase = self.host.phase()
        self.mode = phase.mode
        if self.host.key is not None and not self._key_fits(self.host.key):
            self.mode = "wrong key"
            self._error(401, "invalid_request_error", "Incorrect API key provided", "invalid_api_key")
            return
        if self.host.latency_s:
            await asyncio.sleep(self.host.latency_s)
        await self._answer(phase, prompt)

    async def _answer(self, phase: Phase, prompt: str) -> None:
        mode = phase.mode
        if mode == "flaky":
            mode = "503" if self.host.fails_now(phase.error_share) else "ok"
        if mode == "503":
            self._error(503, "server_error", "The engine is currently overloaded")
        elif mode == "500":
            self._error(500, "server_error", "The server had an error")
        elif mode == "429":
            self.set_header("Retry-After", f"{phase.retry_after_s:g}")
            self._error(429, "requests", "Rate limit reached", "rate_limit_exceeded")
        elif mode == "hang":
            await self._until_gone(None)
            self.detach().close()
        elif mode == "malformed":
            self._send({"object": "error"})
        elif mode == "trickle":
            await self._trickle(_completion(prompt))
        else:  # "ok", and "refuse" for a request that had come in before the port closed
            self._send(_completion(prompt))

    async def _until_gone(self, timeout_s: float | None) -> bool:
        """Wait until the client goes or the server stops; False when the time is up first."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.gone, self.host.leaving)]
        done, pending = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        return bool(done)

    async def _trickle(self, reply: dict[str, Any]) -> None:
        for byte in json.dumps(reply).encode():
            self.write(bytes([byte]))
            try:
                await self.flush()
            except StreamClosedError:
                return
            if await self._until_gone(_TRICKLE_EVERY_S):
                return

    def on_connection_close(self) -> None:
        self.gone.set()
        self._record(None)

    def on_finish(self) -> None:
        self._record(None if self.host.leaving.is_set() else self.get_status())

    def _prompt(self) -> str | None:
        try:
            content = json.loads(self.request.body)["messages"][-1]["content"]
        except (ValueError, LookupError, TypeError):
            return None
        return content if isinstance(content, str) else None

    def _key_fits(self, key: str) -> bool:
        return self.request.headers.get("Authorization", "") == f"Bearer {key}"

    def _send(self, reply: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps(reply))

    def _error(self, status: int, kind: str, message: str, code: str | None = None) -> None:
        self.set_status(status)
        self._send({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def _record(self, status: int | None) -> None:
        if self.logged:
            return
        self.logged = True
        request_id = self.request.headers.get("X-Request-Id", "")
        ms = round((time.time() - self.arrived) * 1000, 1)
        self.host.record(Request(self.arrived, request_id, status, self.mode, self.digest, ms))


def _completion(prompt: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": expected_answer(prompt)}
    return {
        "id": "chatcmpl-local",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
