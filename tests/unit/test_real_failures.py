"""Every client's exceptions as they come out of real failures on loopback, not as we imagine them."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import httpx
import kombu
import pytest
import redis
import requests
import urllib3

from resilience.errors import ErrorCategory, classify, wrap
from resilience.local.redis_server import RedisServer

C = ErrorCategory
SHORT_S = 0.2

_CLOSED = b""
_GARBAGE = b"no protocol that anybody speaks\r\n\r\n"
_CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
_BAD_GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"
_SILENCE = None


def _status(code: int) -> bytes:
    return f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\nRetry-After: 3\r\nConnection: close\r\n\r\n".encode()


@contextmanager
def answering(reply: bytes | None) -> Iterator[str]:
    """`127.0.0.1:port` of a server that reads a request and sends `reply`, or says nothing at all."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                client.recv(65_536)
                if reply is None:
                    over.wait(10)
                else:
                    client.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def refusing() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def _with_httpx(address: str) -> None:
    httpx.get(f"http://{address}/", timeout=SHORT_S, trust_env=False).raise_for_status()


def _with_requests(address: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.get(f"http://{address}/", timeout=SHORT_S).raise_for_status()


def _with_urllib3(address: str) -> None:
    with urllib3.PoolManager() as pool:
        pool.request("GET", f"http://{address}/", timeout=SHORT_S, retries=False)


def _with_urllib3_and_retries(address: str) -> None:
    with urllib3.PoolManager() as pool:
        retries = urllib3.Retry(total=1, backoff_factor=0, status_forcelist=[503], respect_retry_after_header=False)
        pool.request("GET", f"http://{address}/", timeout=SHORT_S, retries=retries)


def _with_urllib(address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with closing(opener.open(f"http://{address}/", timeout=SHORT_S)) as answer:
        answer.read()


def _with_http_client(address: str) -> None:
    with closing(http.client.HTTPConnection(address, timeout=SHORT_S)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()


Client = Callable[[str], None]


def raised_by(client: Client, address: str) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  which type it is, is the client's business
        client(address)
    error = caught.value
    if isinstance(error, urllib.request.HTTPError):
        error.close()
    return error


_EVERYBODY = [_with_httpx, _with_requests, _with_urllib3, _with_urllib3_and_retries, _with_urllib, _with_http_client]


@pytest.mark.parametrize("client", _EVERYBODY)
def test_a_refused_connection(client: Client) -> None:
    assert classify(raised_by(client, refusing())).category is C.CONNECTION


@pytest.mark.parametrize("client", _EVERYBODY)
def test_an_answer_that_never_comes(client: Client) -> None:
    with answering(_SILENCE) as address:
        assert classify(raised_by(client, address)).category is C.TIMEOUT


@pytest.mark.parametrize("client", _EVERYBODY)
@pytest.mark.parametrize("reply", [_CLOSED, _GARBAGE], ids=["closed", "garbage"])
def test_a_conversation_that_breaks_off_may_pass(client: Client, reply: bytes) -> None:
    with answering(reply) as address:
        assert classify(raised_by(client, address)).category in {C.CONNECTION, C.COMMUNICATION}


@pytest.mark.parametrize("client", [_with_httpx, _with_requests, _with_urllib3, _with_urllib, _with_http_client])
def test_an_answer_that_is_cut_off(client: Client) -> None:
    with answering(_CUT_OFF) as address:
        assert classify(raised_by(client, address)).category is C.COMMUNICATION


@pytest.mark.parametrize("client", [_with_httpx, _with_requests, _with_urllib3])
def test_an_answer_that_cannot_be_decoded(client: Client) -> None:
    with answering(_BAD_GZIP) as address:
        assert classify(raised_by(client, address)).category is C.COMMUNICATION


@pytest.mark.parametrize("client", [_with_httpx, _with_requests, _with_urllib])
@pytest.mark.parametrize(
    ("status", "expected"),
    [(429, C.RATE_LIMIT), (500, C.SERVER), (502, C.SERVER), (503, C.SERVER), (504, C.TIMEOUT), (401, C.AUTH),
     (403, C.AUTH), (404, C.NOT_FOUND), (400, C.INVALID_REQUEST), (422, C.INVALID_REQUEST)],
)  # fmt: skip
def test_a_status_and_its_retry_after(client: Client, status: int, expected: ErrorCategory) -> None:
    with answering(_status(status)) as address:
        found = classify(raised_by(client, address))
    assert (found.category, found.retry_after_s) == (expected, 3.0)


def test_a_client_that_gave_up_asking_reports_the_server() -> None:
    with answering(_status(503)) as address:
        assert classify(raised_by(_with_urllib3_and_retries, address)).category is C.SERVER


@pytest.mark.parametrize("client", _EVERYBODY)
def test_every_one_of_them_wraps_and_formats(client: Client) -> None:
    assert "connection_error" in wrap(raised_by(client, refusing()), operation="call").format_for_logging()


# -- Redis and kombu -----------------------------------------------------------------------------------------------


def _redis_says(url: str, *command: str | bytes) -> BaseException:
    with closing(redis.Redis.from_url(url, socket_timeout=SHORT_S, retry=None)) as client:
        return raised_by(lambda _: client.execute_command(*command), "")


def test_a_redis_that_is_away_or_frozen() -> None:
    assert classify(_redis_says(f"redis://{refusing()}/0", "PING")).category is C.CONNECTION
    with answering(_SILENCE) as address:
        assert classify(_redis_says(f"redis://{address}/0", "PING")).category is C.TIMEOUT
    with answering(_GARBAGE) as address:
        assert classify(_redis_says(f"redis://{address}/0", "PING")).category in {C.CONNECTION, C.COMMUNICATION}


@pytest.fixture
def own_redis() -> Iterator[str]:
    """`127.0.0.1:port` of a Redis that a test may spoil."""
    with RedisServer() as server:
        yield f"127.0.0.1:{server.port}"


def test_what_a_redis_refuses(own_redis: str) -> None:
    with closing(redis.Redis.from_url(f"redis://{own_redis}/0")) as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+ping")
        assert classify(_redis_says(f"redis://limited:wrong@{own_redis}/0", "PING")).category is C.AUTH
        assert classify(_redis_says(f"redis://limited:pw@{own_redis}/0", "GET", "a")).category is C.AUTH
        admin.set("text", "a")
        assert classify(_redis_says(f"redis://{own_redis}/0", "LPUSH", "text", "a")).category is C.PYTHON
        admin.config_set("maxmemory", "1")
        assert classify(_redis_says(f"redis://{own_redis}/0", "SET", "a", "b")).category is C.RESOURCE
        admin.config_set("maxmemory", "0")
        admin.execute_command("REPLICAOF", *refusing().split(":"))
        assert classify(_redis_says(f"redis://{own_redis}/0", "SET", "a", "b")).category is C.CONNECTION


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_away(scheme: str) -> None:
    def publish(address: str) -> None:
        with kombu.Connection(f"{scheme}://{address}/", connect_timeout=SHORT_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, reraise_as_library_errors=True)

    error = raised_by(publish, refusing())
    assert isinstance(error, kombu.exceptions.OperationalError)
    assert classify(error).category is C.CONNECTION


# -- plain sockets -------------------------------------------------------------------------------------------------


def test_what_a_plain_socket_says() -> None:
    host, port = refusing().split(":")

    def connect(_: str) -> None:
        socket.create_connection((host, int(port)), timeout=SHORT_S).close()

    assert classify(raised_by(connect, "")).category is C.CONNECTION

    def read(address: str) -> None:
        at, number = address.split(":")
        with socket.create_connection((at, int(number)), timeout=SHORT_S) as client:
            client.recv(1)

    with answering(_SILENCE) as address:
        assert classify(raised_by(read, address)).category is C.TIMEOUT
