"""A Redis server of our own, as a real process: answers, restarts, freezes, leaves nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilience.local.errors import EmbeddedPoolError
from resilience.local.redis_server import RedisServer, ServerBinary


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url(), socket_timeout=1.0, retry=Retry(NoBackoff(), 0))


def test_it_answers_when_start_returns_and_is_gone_after_stop() -> None:
    server = RedisServer()
    server.start()
    with _client(server) as client:
        pid = client.info("server")["process_id"]
        folder = Path(client.config_get("dir")["dir"])
    assert pid == server.pid
    assert folder.is_dir()

    server.stop()
    server.stop()

    assert not psutil.pid_exists(pid)
    assert not folder.exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_it_listens_on_the_loopback_interface_only() -> None:
    with RedisServer() as server:
        listening = [c for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


def test_a_restart_keeps_the_port_and_without_append_only_forgets_the_data() -> None:
    with RedisServer() as server:
        with _client(server) as client:
            client.set("line", "1")
        port, pid = server.port, server.pid
        server.restart()
        assert server.port == port
        assert server.pid != pid
        with _client(server) as client:
            assert client.get("line") is None


def test_with_append_only_an_acknowledged_write_survives_a_sigkill(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "data", appendonly=True) as server:
        with _client(server) as client:
            client.set("line", "1")
        server.kill()
        with pytest.raises(EmbeddedPoolError, match="is not running"):
            _ = server.pid
        server.restart()
        with _client(server) as client:
            assert client.get("line") == b"1"
    assert (tmp_path / "data").is_dir(), "a folder that was given stays"


def test_a_frozen_server_does_not_answer_until_it_is_thawed() -> None:
    with RedisServer() as server, _client(server) as client:
        client.ping()
        server.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.thaw()
        assert client.ping()


def test_a_frozen_server_can_be_stopped() -> None:
    server = RedisServer()
    server.start()
    pid = server.pid
    server.freeze()
    server.stop()
    assert not psutil.pid_exists(pid)


def test_an_occupied_port_that_was_asked_for_is_named_in_one_sentence() -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        with pytest.raises(EmbeddedPoolError, match=f"^port {port} for Redis is in use by another process: "):
            RedisServer(port=port).start()


def test_a_lost_race_for_a_free_port_is_run_again_on_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer() as winner:
        ports = iter([winner.port, winner.port])
        real = RedisServer.start.__globals__["free_port"]
        monkeypatch.setattr("resilience.local.redis_server.free_port", lambda: next(ports, None) or real())
        with RedisServer() as loser, _client(loser) as client:
            assert loser.port != winner.port
            assert client.info("server")["process_id"] == loser.pid


def test_a_server_that_cannot_run_is_reported_with_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'illegal instruction set'\nexit 1\n")
    program.chmod(0o755)
    said = "ended at start with exit code 1; its log ends with: illegal instruction set"
    with pytest.raises(EmbeddedPoolError, match=said):
        RedisServer(binary=ServerBinary(program, "redis-server")).start()
