"""The embedded pool with real Celery workers and a real Redis: works, recovers, leaves nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from celery import Celery

from resilience.local.pool import EmbeddedPool, EmbeddedPoolError, PoolLayout
from resilience.local.redis_server import RedisServer
from resilience.testing import until

APP = """
import os
from celery import Celery
app = Celery("tinyapp")

@app.task
def where():
    return os.environ["COLOUR"], os.getpid()
"""
OWNER = """
import sys, threading
from resilience.local.pool import EmbeddedPool, PoolLayout
with EmbeddedPool(PoolLayout("tinyapp", workers=1, fallback_workers=0, session_workers=0, flower=False)):
    print("up", flush=True)
    threading.Event().wait()
"""


def gone(processes: list[psutil.Process]) -> bool:
    """Dead, or dead and not yet collected by the machine's init."""
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "tinyapp.py").write_text(APP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def pool(project: Path) -> Iterator[EmbeddedPool]:
    with EmbeddedPool(PoolLayout("tinyapp", concurrency=1, workers=1, flower=False, env={"COLOUR": "green"})) as pool:
        yield pool


@pytest.fixture
def client(pool: EmbeddedPool) -> Iterator[Celery]:
    with Celery("client", broker=pool.broker_url, backend=pool.backend_url, set_as_current=False) as client:
        yield client
        client.backend.result_consumer.stop()
        client.backend.client.connection_pool.disconnect()  # the client does not own its pool


def where(client: Celery, queue: str) -> tuple[str, int]:
    colour, pid = client.send_task("tinyapp.where", queue=queue).get(timeout=15)
    return colour, pid


def pid_of(pool: EmbeddedPool, name: str) -> int | None:
    return {member.name: member.pid for member in pool.members() if member.alive}.get(name)


@pytest.mark.parametrize(
    ("queue", "name"), [("celery", "worker1"), ("fallback", "fallback1"), ("sessions", "session1")]
)
def test_each_queue_is_served_by_its_worker(pool: EmbeddedPool, client: Celery, queue: str, name: str) -> None:
    colour, pid = where(client, queue)
    assert colour == "green"
    main = pid_of(pool, name)
    assert pid == main or psutil.Process(pid).ppid() == main


def test_the_description_says_where_each_process_is(pool: EmbeddedPool) -> None:
    lines = dict(pool.describe())
    assert list(lines) == ["redis", "worker1", "fallback1", "session1", "beat", "logs"]
    assert lines["redis"].startswith(f"{pool.broker_url}, results in {pool.backend_url}")
    assert lines["session1"].startswith("queue sessions, 1 threads, pid ")


def test_a_killed_worker_comes_back_and_works(pool: EmbeddedPool, client: Celery) -> None:
    before = pid_of(pool, "worker1")
    pool.kill("worker1")
    until(lambda: pid_of(pool, "worker1") not in (None, before), what="it was started again")
    until(lambda: client.control.ping(destination=[f"worker1@{socket.gethostname()}"], timeout=0.5), what="it answers")
    assert where(client, "celery")[0] == "green"


def test_a_killed_broker_comes_back_on_its_port_with_what_was_queued(pool: EmbeddedPool, client: Celery) -> None:
    client.send_task("tinyapp.where", queue="nobody-listens-here")
    before = pid_of(pool, "redis")
    pool.kill("redis")
    until(lambda: pid_of(pool, "redis") not in (None, before))
    with (
        Celery("later", broker=pool.broker_url, set_as_current=False) as later,
        later.connection() as connection,
    ):
        until(lambda: connection.ensure_connection(max_retries=20, interval_start=0.1, interval_step=0) is not None)
        assert connection.default_channel.queue_declare("nobody-listens-here", passive=True).message_count == 1


def test_after_stop_no_process_no_port_and_no_folder_is_left(project: Path) -> None:
    given = RedisServer()
    with given:
        pool = EmbeddedPool(
            PoolLayout(
                "tinyapp",
                workers=1,
                fallback_workers=0,
                session_workers=0,
                flower=False,
                redis_url=given.url(),
            )
        )
        with pool:
            assert pool.broker_url == pool.backend_url == given.url()
            folder = pool.log_dir.parent
            mains = [psutil.Process(member.pid) for member in pool.members()]
            family = [process for main in mains for process in (main, *main.children(recursive=True))]
        pool.stop()
        assert gone(family)
        assert not folder.exists()
        assert given.member.alive, "a Redis that was given is not ours to stop"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's death signal is Linux's")
def test_sigkill_of_the_pool_s_owner_leaves_no_orphan(project: Path, tmp_path: Path) -> None:
    env = {**__import__("os").environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=project, env=env, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) >= 5, "Redis, a worker, its two pool processes, beat"
        owner.send_signal(signal.SIGKILL)
    until(lambda: gone(family), within_s=2)


def test_an_app_that_cannot_be_imported_is_reported_with_the_child_s_own_words(project: Path) -> None:
    (project / "broken.py").write_text("import no_such_library\n")
    pool = EmbeddedPool(
        PoolLayout("broken", workers=1, fallback_workers=0, session_workers=0, flower=False, beat=False)
    )
    with pytest.raises(EmbeddedPoolError, match=r"worker1 keeps dying at start \(exit code \d\)[^']*no_such_library"):
        pool.start()
    with pytest.raises(EmbeddedPoolError, match="not running"):
        pool.members()


def test_an_occupied_flower_port_is_one_sentence_before_anything_starts(project: Path) -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        with pytest.raises(EmbeddedPoolError, match=rf"^port {port} for Flower is in use by another process: [^\n]*$"):
            EmbeddedPool(PoolLayout("tinyapp", flower_port=port)).start()


def test_a_given_redis_that_does_not_answer_is_named_without_its_password(project: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"redis://user:hunter22@127.0.0.1:{nobody.getsockname()[1]}/0"
        with pytest.raises(EmbeddedPoolError, match=r"^no Redis answers at redis://user:") as raised:
            EmbeddedPool(PoolLayout("tinyapp", redis_url=url)).start()
    assert "hunter22" not in str(raised.value)
