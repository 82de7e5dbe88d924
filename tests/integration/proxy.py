"""A TCP proxy on the loopback interface that cuts connections, freezes them, listens in, or ends TLS."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 65_536

Heard = Callable[[int, bytes], None]
"""Takes the number of a connection and bytes that its client sent, as they came over the wire."""


class Proxy:
    """Forwards to `port`; a context manager that listens on a port of its own.

    `cut_after` gives the bytes, both directions together, after which a new connection is reset; None: never.
    `ssl_context` makes clients speak TLS to it; what goes on to `port` is plain.
    """

    def __init__(
        self,
        port: int,
        *,
        cut_after: Callable[[], int | None] = lambda: None,
        heard: Heard = lambda _number, _data: None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.port = 0
        self.cuts = 0
        self._to = port
        self._cut_after = cut_after
        self._heard = heard
        self._ssl_context = ssl_context
        self._flows = threading.Event()
        self._flows.set()
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._frozen: set[asyncio.StreamWriter] = set()
        self._accepted = 0
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def freeze(self) -> None:
        """Half-open: what is connected now stays connected, and not a byte goes through it ever again."""
        self._do(self._freeze())

    def cut_from_now_on(self, after: Callable[[], int | None]) -> None:
        """Reset every connection that stands; later ones live as long as `after` says."""
        self._cut_after = after
        self._do(self._cut())

    def cut(self) -> None:
        """Reset every connection."""
        self._do(self._cut())

    def lead_to(self, port: int) -> None:
        """New connections go to another port."""
        self._to = port

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._let_in, self._listener)

    def _let_in(self, listener: socket.socket) -> None:
        """What `asyncio.start_server` does; but that leaves sockets open when it ends while it lets somebody in."""
        accepted, _address = listener.accept()
        accepted.setblocking(False)
        task = asyncio.ensure_future(self._accept(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _task: accepted.close())

    async def _freeze(self) -> None:
        self._frozen |= self._writers

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end(self) -> None:
        assert self._listener is not None
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._frozen.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # the aborted transports close their sockets in turns of their own

    async def _accept(self, accepted: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(OSError):  # either side went: so does the other
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._ssl_context)
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            self._accepted += 1
            self._writers.add(writer)
            try:
                await self._join(self._accepted, reader, writer)
            finally:
                transport.abort()
                self._writers.discard(writer)

    async def _join(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection(LOOPBACK, self._to)
        left = [self._cut_after()]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, ours: bool) -> None:
            while data := await source.read(CHUNK_BYTES):
                if ours:
                    self._heard(number, data)
                while writer in self._frozen:
                    await asyncio.sleep(3600)
                if left[0] is not None:
                    data = data[: left[0]]
                    left[0] -= len(data)
                sink.write(data)
                await sink.drain()
                if left[0] == 0:
                    self.cuts += 1
                    await asyncio.sleep(0)
                    return

        pumps = [
            asyncio.ensure_future(pump(reader, there, ours=True)),
            asyncio.ensure_future(pump(there_reader, writer, ours=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            while writer in self._frozen:  # a half-open connection is not closed by its other end's going
                await asyncio.sleep(3600)
        finally:
            there.transport.abort()
            for one in pumps:
                one.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


def cuts_at_random(seed: int, mean_bytes: int) -> Callable[[], int]:
    """For `cut_after`: every connection lives for another number of bytes, many short, some long."""
    chance = random.Random(seed)
    return lambda: 1 + int(chance.expovariate(1 / mean_bytes))
