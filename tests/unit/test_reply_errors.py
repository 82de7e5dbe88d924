"""What servers answer in codes of their own: SMTP from real conversations, gRPC and others by their clients' names."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socket import create_server
from types import SimpleNamespace
from typing import Any

import pytest

from resilience.errors import ErrorCategory, classify
from tests.unit.test_real_failures import refusing

C = ErrorCategory


def category(error: BaseException) -> ErrorCategory:
    return classify(error).category


@contextmanager
def _mail_server(greeting: int = 220, **answers: str) -> Iterator[int]:
    """The port of a server that answers each command with a line from `answers`, else with 250."""
    with create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client, client.makefile("rw", newline="\r\n") as talk:
                print(f"{greeting} here", file=talk, flush=True)
                for line in talk:
                    print(answers.get(line.split()[0].lower(), "250 ok"), file=talk, flush=True)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _refusal(**answers: Any) -> BaseException:
    """What `smtplib` raises when it logs in and sends a message to a server that answers so."""
    answers = {
        "ehlo": "250-here\r\n250 AUTH PLAIN",
        "auth": "235 ok",
        "data": "354 go on",
        "quit": "221 bye",
        **answers,
    }
    with _mail_server(**answers) as port, pytest.raises(smtplib.SMTPException) as caught:
        _send(port)
    return caught.value


def _send(port: int) -> None:
    client = smtplib.SMTP("127.0.0.1", port, timeout=2)
    try:
        client.login("shop", "no")
        client.sendmail("shop@shop.example", ["a@b.example"], "hello")
    finally:
        client.close()


@pytest.mark.parametrize(
    ("command", "answer", "expected"),
    [
        ("auth", "535 5.7.8 no", C.AUTH),
        ("auth", "534 5.7.9 another mechanism", C.AUTH),
        ("auth", "454 4.7.0 later", C.SERVER),
        ("mail", "451 4.3.0 later", C.SERVER),
        ("mail", "421 4.3.2 shutting down", C.CONNECTION),
        ("mail", "553 5.1.8 nobody", C.INVALID_REQUEST),
        ("mail", "530 5.7.0 who are you", C.AUTH),
        ("rcpt", "450 4.2.0 busy", C.SERVER),
        ("rcpt", "550 5.1.1 nobody", C.INVALID_REQUEST),
        ("data", "554 5.7.1 timed out", C.INVALID_REQUEST),
    ],
)
def test_what_a_mail_server_says(command: str, answer: str, expected: ErrorCategory) -> None:
    assert category(_refusal(**{command: answer})) is expected


@pytest.mark.parametrize(("greeting", "expected"), [(421, C.CONNECTION), (450, C.CONNECTION), (554, C.INVALID_REQUEST)])
def test_a_mail_server_that_does_not_let_in(greeting: int, expected: ErrorCategory) -> None:
    with _mail_server(greeting) as port, pytest.raises(smtplib.SMTPConnectError) as caught:
        smtplib.SMTP("127.0.0.1", port, timeout=2)
    assert category(caught.value) is expected


def test_a_mail_server_that_is_away_or_hangs_up() -> None:
    assert category(smtplib.SMTPServerDisconnected("Connection unexpectedly closed")) is C.CONNECTION
    host, port = refusing().split(":")
    with pytest.raises(ConnectionRefusedError) as caught:
        smtplib.SMTP(host, int(port), timeout=1)
    assert category(caught.value) is C.CONNECTION


def test_recipients_are_tried_again_only_if_all_of_them_may() -> None:
    busy, nobody = (450, b"busy"), (550, b"no")
    assert category(smtplib.SMTPRecipientsRefused({"a": busy, "b": busy})) is C.SERVER
    assert category(smtplib.SMTPRecipientsRefused({"a": busy, "b": nobody})) is C.INVALID_REQUEST
    assert category(smtplib.SMTPRecipientsRefused({})) is C.PYTHON


# -- gRPC ----------------------------------------------------------------------------------------------------------

_GRPC = [
    ("UNAVAILABLE", C.CONNECTION), ("DEADLINE_EXCEEDED", C.TIMEOUT), ("RESOURCE_EXHAUSTED", C.RATE_LIMIT),
    ("UNAUTHENTICATED", C.AUTH), ("PERMISSION_DENIED", C.AUTH), ("NOT_FOUND", C.NOT_FOUND),
    ("INVALID_ARGUMENT", C.INVALID_REQUEST), ("FAILED_PRECONDITION", C.INVALID_REQUEST), ("INTERNAL", C.SERVER),
    ("UNKNOWN", C.SERVER), ("ABORTED", C.COMMUNICATION), ("UNIMPLEMENTED", C.INVALID_REQUEST),
]  # fmt: skip
_StatusCode = {name: SimpleNamespace(name=name) for name, _ in _GRPC}


@pytest.mark.parametrize(("name", "expected"), _GRPC)
def test_a_call_of_grpc_fails_with_the_name_of_its_code(name: str, expected: ErrorCategory) -> None:
    rpc_error = type("RpcError", (Exception,), {"__module__": "grpc"})
    kind = type("_InactiveRpcError", (rpc_error,), {"__module__": "grpc._channel", "code": lambda _: _StatusCode[name]})
    assert category(kind("connection refused, timed out")) is expected
    other = type("GRPCError", (Exception,), {"__module__": "grpclib.exceptions", "status": _StatusCode[name]})
    assert category(other("connection refused, timed out")) is expected


def test_a_code_of_grpc_that_raises_is_no_evidence() -> None:
    def code(_: Any) -> Any:
        raise SystemExit(1)

    assert category(type("RpcError", (Exception,), {"__module__": "grpc", "code": code})("no")) is C.PYTHON


# -- others, by name -----------------------------------------------------------------------------------------------


def _named(module: str, *names: str, **attributes: Any) -> BaseException:
    cls: type[Exception] = Exception
    for name in names:
        cls = type(name, (cls,), {"__module__": module, **attributes})
    return cls("no")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_named("aiohttp.client_exceptions", "ClientConnectionError", "ClientConnectorError"), C.CONNECTION),
        (_named("aiohttp.client_exceptions", "ClientConnectionError", "ServerTimeoutError"), C.TIMEOUT),
        (_named("aiohttp.client_exceptions", "ClientResponseError", status=429), C.RATE_LIMIT),
        (_named("elastic_transport", "TransportError", "ConnectionTimeout"), C.TIMEOUT),
        (_named("elastic_transport", "TransportError", "ConnectionError"), C.CONNECTION),
        (_named("elasticsearch", "ApiError", status_code=503), C.SERVER),
        (_named("paramiko.ssh_exception", "SSHException", "AuthenticationException"), C.AUTH),
        (_named("paramiko.ssh_exception", "NoValidConnectionsError"), C.CONNECTION),
        (_named("sqlalchemy.exc", "SQLAlchemyError", "TimeoutError"), C.TIMEOUT),
    ],
)
def test_clients_that_are_known_by_the_names_of_their_errors(error: BaseException, expected: ErrorCategory) -> None:
    assert category(error) is expected
