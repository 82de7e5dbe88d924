"""`run_lines` with a real Redis and a real worker: every line once, in order, whatever is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import until
from tasks.run import KeyRefused, RunError, RunOptions, RunProgress, RunSummary, ledger_path_of, run_lines

ECHO_APP = """
import os, time
from celery import Celery

app = Celery("echo", broker=os.environ["ECHO_URL"], backend=os.environ["ECHO_URL"])
app.conf.broker_connection_retry_on_startup = True


class HTTPStatusError(Exception):
    pass


@app.task(name="echo.chat")
def chat(prompt):
    word, _, rest = prompt.partition(" ")
    if word == "fail":
        raise ValueError("the line asked for it")
    if word == "refuse" and not os.path.exists(rest):
        raise HTTPStatusError("Client error '401 Unauthorized' for url 'http://x'\\nFor more")
    if word == "nonsense":
        return 5
    if word == "slow":
        time.sleep(float(rest))
    return {"answer": prompt.upper(), "source": "primary", "degraded": False, "model": "echo"}
"""
DRIVER = """
import os, sys
from pathlib import Path
from celery import Celery
from tasks.run import RunOptions, run_lines

app = Celery("driver", broker=os.environ["ECHO_URL"], backend=os.environ["ECHO_URL"])
source, output = (Path(name) for name in sys.argv[1:])
print(run_lines(app, "echo.chat", source, output, options=RunOptions(window=8)).to_json())
"""


@dataclass
class Pool:
    """A Redis and one worker of the echo app."""

    folder: Path
    redis: RedisServer
    worker: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "ECHO_URL": self.redis.url()}

    def app(self) -> Celery:
        return Celery("sender", broker=self.redis.url(), backend=self.redis.url())

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "celery", "-A", "echo_app", "worker", "-P", "threads", "-c", "4"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
        (self.folder / "echo_app.py").write_text(ECHO_APP)
        self.worker = subprocess.Popen(command + quiet, cwd=self.folder, env=self.env)

    def replace_worker(self) -> None:
        """As a supervisor would: a stock worker may die of a lost broker (an AttributeError inside kombu)."""
        self.kill_worker()
        self.start_worker()

    def kill_worker(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.worker = None


@pytest.fixture(scope="module")
def shared_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with RedisServer() as redis:
        pool = Pool(tmp_path_factory.mktemp("echo"), redis)
        pool.start_worker()
        yield pool
        pool.kill_worker()


@pytest.fixture
def own_pool(tmp_path: Path) -> Iterator[Pool]:
    """A pool that a test may break; without a worker until it starts one."""
    with RedisServer(appendonly=True) as redis:
        pool = Pool(tmp_path, redis)
        yield pool
        pool.kill_worker()


@dataclass
class Job:
    source: Path
    output: Path

    def write(self, *prompts: str) -> Job:
        lines = (json.dumps({"prompt": prompt, "id": f"p{n}"}) for n, prompt in enumerate(prompts))
        self.source.write_text("".join(line + "\n" for line in lines))
        return self

    def run(self, app: Celery, **given: Any) -> RunSummary:
        known = {key: given.pop(key) for key in ("progress", "stop") if key in given}
        return run_lines(app, "echo.chat", self.source, self.output, options=RunOptions(**given), **known)

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_bytes().splitlines()]


@contextmanager
def running(job: Job, app: Celery, **given: Any) -> Iterator[Future[RunSummary]]:
    """The job in a thread; it is stopped on the way out, whatever became of the test."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(job.run, app, stop=stop, **given)
        finally:
            stop.set()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl")


def stored_results(app: Celery) -> int:
    return len(app.backend.client.keys("celery-task-meta-*"))


def test_every_line_is_answered_once_and_in_order_and_no_result_is_left(shared_pool: Pool, job: Job) -> None:
    app = shared_pool.app()
    seen: list[RunProgress] = []
    before = stored_results(app)
    job.write("slow 0.3", *(f"line {n}" for n in range(199)))

    summary = job.run(app, progress=seen.append)

    assert [a["line"] for a in job.answers()] == list(range(1, 201))
    assert [a["answer"] for a in job.answers()[1:]] == [f"LINE {n}" for n in range(199)]
    assert job.answers()[1] == {
        "line": 2,
        "id": "p1",
        "answer": "LINE 0",
        "source": "primary",
        "degraded": False,
    }
    assert (summary.total, summary.answered, summary.by_source) == (200, 200, {"primary": 200})
    assert (summary.resent, summary.repeated, summary.exit_code) == (0, 0, 0)
    assert (seen[-1].done, seen[-1].answered) == (200, 200)
    assert stored_results(app) == before


def test_running_again_after_completion_does_nothing_and_says_so(shared_pool: Pool, job: Job) -> None:
    app = shared_pool.app()
    job.write("one", "two")
    job.run(app)
    before = job.output.read_bytes()

    again = job.run(Celery("nobody", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0"))

    assert again.already_complete
    assert "Nothing to do" in again.sentence()
    assert again.answered == 2
    assert job.output.read_bytes() == before


def test_bad_and_failing_lines_get_their_sentence_and_the_rest_its_answers(shared_pool: Pool, job: Job) -> None:
    job.source.write_bytes(
        b'{"prompt": "good"}\nnot json\n{"prompt": "fail please", "id": 3}\n'
        b'{"prompt": "nonsense"}\n\n{"prompt": "last"}'
    )

    summary = job.run(shared_pool.app())

    first, bad, failed, nonsense, empty, last = job.answers()
    assert (first["answer"], last["answer"]) == ("GOOD", "LAST")
    assert bad == {"line": 2, "id": None, "error": "Line 2 is not JSON: Expecting value at column 1."}
    assert failed == {"line": 3, "id": 3, "error": "ValueError: the line asked for it"}
    assert "something else" in nonsense["error"]
    assert "empty" in empty["error"]
    assert (summary.answered, summary.failed, summary.bad_lines, summary.lost) == (2, 2, 2, 0)
    assert summary.exit_code == 4


def test_an_empty_input_gives_an_empty_output(shared_pool: Pool, job: Job) -> None:
    job.source.write_bytes(b"")
    assert job.run(shared_pool.app()).total == 0
    assert job.output.read_bytes() == b""


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(shared_pool: Pool, job: Job) -> None:
    job.write(*(f"slow 0.0{n % 4}" if n % 3 else f"line {n}" for n in range(240)))
    whole = Job(job.source, job.output.with_name("whole.jsonl"))
    whole.run(shared_pool.app())
    driver = job.source.with_name("driver.py")
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), str(job.source), str(job.output)]

    for lines in (20, 90, 170):
        with subprocess.Popen(command, env=shared_pool.env) as process:
            until(lambda lines=lines: job.output.exists() and job.output.read_bytes().count(b"\n") >= lines)
            process.kill()
    with job.output.open("ab") as file:
        file.write(b'{"line": 171, "id"')  # a torn end, as a kill in the middle of a write leaves it
    summary = json.loads(subprocess.run(command, env=shared_pool.env, capture_output=True, check=True).stdout)

    assert job.output.read_bytes() == whole.output.read_bytes()
    assert (summary["answered"], summary["lost"], summary["total"]) == (240, 0, 240)


def test_a_clean_interruption_keeps_what_is_there_and_is_resumed(shared_pool: Pool, job: Job) -> None:
    job.write(*("slow 0.05" for _ in range(100)))
    stop = threading.Event()

    first = job.run(shared_pool.app(), stop=stop, progress=lambda p: stop.set() if p.done > 10 else None)
    second = job.run(shared_pool.app())

    assert first.interrupted
    assert first.exit_code == 130
    assert 10 < first.answered < 100
    assert (second.answered, second.interrupted) == (100, False)
    assert [a["line"] for a in job.answers()] == list(range(1, 101))


def test_lost_messages_are_sent_again(own_pool: Pool, job: Job) -> None:
    job.write(*(f"line {n}" for n in range(30)))
    client = own_pool.app().backend.client
    with running(job, own_pool.app(), resend_after_s=1.0, settle_s=0.2) as run:
        until(lambda: client.llen("celery") == 30)
        client.delete("celery")
        own_pool.start_worker()
        summary = run.result(40)

    assert (summary.answered, summary.lost) == (30, 0)
    assert summary.resent == 30
    assert [a["line"] for a in job.answers()] == list(range(1, 31))


def test_repeats_of_resent_lines_are_removed_and_counted(own_pool: Pool, job: Job) -> None:
    job.write(*(f"line {n}" for n in range(10)))
    client = own_pool.app().backend.client
    with running(job, own_pool.app(), resend_after_s=2.5) as run:
        until(lambda: client.llen("celery") >= 20)  # nobody works: all are sent twice
        own_pool.start_worker()
        summary = run.result(40)

    assert (summary.answered, summary.resent, summary.repeated) == (10, 10, 10)
    assert [a["line"] for a in job.answers()] == list(range(1, 11))
    assert stored_results(own_pool.app()) == 0


def test_without_resending_unanswered_lines_are_counted_lost(own_pool: Pool, job: Job) -> None:
    job.write("one", "two")
    summary = job.run(own_pool.app(), resend=False, give_up_s=0.3)
    assert (summary.lost, summary.answered, summary.exit_code) == (2, 0, 1)
    assert all("resending is off" in a["error"] for a in job.answers())


def test_a_line_that_nobody_answers_is_lost_after_its_last_send(own_pool: Pool, job: Job) -> None:
    job.write("one")
    summary = job.run(own_pool.app(), resend_after_s=0.1, max_sends=3)
    assert (summary.lost, summary.resent) == (1, 1)
    assert own_pool.app().backend.client.llen("celery") == 3


def test_a_broker_that_is_away_in_the_middle_loses_nothing(own_pool: Pool, job: Job) -> None:
    own_pool.start_worker()
    job.write(*("slow 0.05" for _ in range(150)))
    seen: list[RunProgress] = []
    with running(job, own_pool.app(), window=16, resend_after_s=2.0, progress=seen.append) as run:
        until(lambda: bool(seen) and seen[-1].done > 20)
        own_pool.redis.kill()
        until(lambda: seen[-1].away_s > 0.5)
        own_pool.redis.restart()
        own_pool.replace_worker()
        summary = run.result(60)

    assert (summary.answered, summary.lost) == (150, 0)
    assert [a["line"] for a in job.answers()] == list(range(1, 151))


def test_a_broker_that_stays_away_ends_the_run_with_a_sentence_and_it_can_be_resumed(own_pool: Pool, job: Job) -> None:
    own_pool.start_worker()
    job.write(*("slow 0.02" for _ in range(100)))

    def kill_past_ten(progress: RunProgress) -> None:
        if progress.done > 10 and not progress.away_s:
            own_pool.redis.kill()

    with pytest.raises(RunError, match=r"broker was away for 0\.5 s") as caught:
        job.run(own_pool.app(), patience_s=0.5, window=4, progress=kill_past_ten)
    one_sentence(caught)
    own_pool.redis.restart()
    own_pool.replace_worker()
    assert job.run(own_pool.app(), resend_after_s=2.0).answered == 100


def test_a_refused_key_stops_sending_and_the_run_can_be_resumed_with_the_right_one(shared_pool: Pool, job: Job) -> None:
    key = job.source.with_name("key")
    job.write("fine", *(f"refuse {key}" for _ in range(300)))

    with pytest.raises(KeyRefused, match="key was refused") as caught:
        job.run(shared_pool.app(), window=8)

    one_sentence(caught)
    assert caught.value.exit_code == 3
    assert len(job.answers()) == caught.value.summary.answered == 1
    assert ledger_path_of(job.output).read_bytes().count(b'"sent"') < 50
    key.touch()
    summary = job.run(shared_pool.app())
    assert (summary.answered, summary.failed, summary.resent) == (301, 0, 0)


def one_sentence(caught: pytest.ExceptionInfo[RunError]) -> None:
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence


def refused(app: Celery, source: Path, output: Path) -> str:
    with pytest.raises(RunError) as caught:
        run_lines(app, "echo.chat", source, output)
    one_sentence(caught)
    return str(caught.value)


def test_what_cannot_run_is_one_sentence_and_leaves_no_file(tmp_path: Path, shared_pool: Pool, job: Job) -> None:
    app = shared_pool.app()
    job.write("one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.jsonl").write_text("my notes\n")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(p.name for p in tmp_path.iterdir())

    assert "is a folder" in refused(app, job.source, tmp_path / "folder")
    assert "does not exist" in refused(app, job.source, tmp_path / "no" / "out.jsonl")
    assert "plain file" in refused(app, job.source, tmp_path / "pipe")
    assert "is the input" in refused(app, job.source, job.source)
    assert "does not exist" in refused(app, tmp_path / "nothing.jsonl", job.output)
    assert "no ledger knows" in refused(app, job.source, tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "my notes\n"
    away = Celery("away", broker="redis://:secret@127.0.0.1:1/0", backend=shared_pool.redis.url())
    sentence = refused(away, job.source, job.output)
    assert "broker redis://:**@127.0.0.1:1/0 cannot be reached" in sentence
    no_backend = Celery("none", broker=shared_pool.redis.url())
    assert "result backend" in refused(no_backend, job.source, job.output)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_another_input_and_a_shortened_output_are_refused(shared_pool: Pool, job: Job) -> None:
    app = shared_pool.app()
    job.write("one", "two", "three")
    job.run(app)
    lines = job.output.read_bytes().splitlines(keepends=True)
    job.output.write_bytes(lines[0])
    assert "1 whole lines where its ledger says 3" in refused(app, job.source, job.output)
    job.write("other")
    assert "another input" in refused(app, job.source, job.output)


def test_two_runs_on_one_output_refuse_each_other(shared_pool: Pool, job: Job) -> None:
    job.write(*("slow 0.1" for _ in range(20)))
    refusals: list[str] = []

    def second(progress: RunProgress) -> None:
        if not refusals:
            refusals.append(refused(shared_pool.app(), job.source, job.output))

    assert job.run(shared_pool.app(), progress=second).answered == 20
    assert "Another run holds" in refusals[0]


def test_a_kill_of_the_worker_loses_no_line(own_pool: Pool, job: Job) -> None:
    own_pool.start_worker()
    job.write(*("slow 0.02" for _ in range(200)))
    killed = threading.Event()

    def kill_once(progress: RunProgress) -> None:
        if progress.done > 50 and not killed.is_set():
            killed.set()
            own_pool.replace_worker()

    summary = job.run(own_pool.app(), resend_after_s=2.0, progress=kill_once)
    assert (summary.answered, summary.lost) == (200, 0)
    assert summary.resent > 0  # stock transport: what the dead worker had taken does not come back in time
    assert [a["line"] for a in job.answers()] == list(range(1, 201))
