"""The kernel asked at once: what is there is had, what is not is no reason to wait, and nothing is taken by halves."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from resilience.delivery.kernel import Direct, direct


@pytest.fixture
def pair() -> Iterator[tuple[Direct, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        way = direct(ours)
        assert way is not None
        yield way, theirs


def test_what_is_sent_arrives_and_what_arrives_is_had(pair: tuple[Direct, socket.socket]) -> None:
    way, peer = pair
    assert way.send(b"a\0b") == 3
    assert peer.recv(10) == b"a\0b"
    peer.sendall(b"c\0d")
    assert way.receive() == b"c\0d"


def test_it_does_not_wait(pair: tuple[Direct, socket.socket]) -> None:
    way, _ = pair
    with pytest.raises(BlockingIOError):
        way.receive()
    more = iter(lambda: way.send(b"x" * 65_536), 0)
    with pytest.raises(BlockingIOError):
        list(more)


def test_the_end_is_empty_and_a_closed_socket_an_error(pair: tuple[Direct, socket.socket]) -> None:
    way, peer = pair
    peer.close()
    assert way.receive() == b""
    with pytest.raises(BrokenPipeError):
        way.send(b"x")
    ours, theirs = socket.socketpair()
    closed = direct(ours)
    ours.close()
    theirs.close()
    assert closed is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        closed.send(b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        closed.receive()


@pytest.mark.parametrize("text", [b"", b"0 17 0", b"two\r\nlines", b"\0" * 60_000])
def test_a_string_is_taken_whole_at_whichever_byte_it_was_cut(pair: tuple[Direct, socket.socket], text: bytes) -> None:
    way, peer = pair
    reply = b"$%d\r\n%b\r\n" % (len(text), text)
    for cut in {1, 2, 4, len(reply) // 2, len(reply) - 1}:
        peer.sendall(reply[:cut])
        assert way.take_string() is None
        peer.sendall(reply[cut:] + b"+OK\r\n")
        assert way.take_string() == text
        assert way.receive() == b"+OK\r\n"


@pytest.mark.parametrize(
    "other", [b"-ERR no\r\n", b"$-1\r\n", b":7\r\n", b"*1\r\n$1\r\na\r\n", b"$x\r\n", b"garbage" * 9, b"$70000\r\n"]
)
def test_of_any_other_reply_nothing_is_taken(pair: tuple[Direct, socket.socket], other: bytes) -> None:
    way, peer = pair
    peer.sendall(other)
    assert way.take_string() is None
    assert way.receive() == other


def test_a_string_that_is_too_long_for_it_is_left() -> None:
    ours, peer = socket.socketpair()
    way = direct(ours)
    reply = b"$100000\r\n" + b"x" * 100_000 + b"\r\n"
    sender = threading.Thread(target=peer.sendall, args=(reply,))
    with ours, peer:
        assert way is not None
        sender.start()
        ours.recv(65_536, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert way.take_string() is None
        assert ours.recv(len(reply), socket.MSG_WAITALL) == reply
        sender.join()


def test_what_is_encrypted_or_no_socket_has_no_such_way() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(ours, server_hostname="localhost", do_handshake_on_connect=False)
        assert direct(wrapped) is None
        wrapped.close()
    assert direct(None) is None
