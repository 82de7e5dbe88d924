"""The end of a task that killed its worker although it ran alone: quarantine, and a failure for who waits for it."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from billiard.exceptions import WorkerLostError
from celery.app.task import Context

from resilience.delivery.deaths import Suspect
from resilience.quarantine.reading import body_bytes
from resilience.quarantine.record import Reason
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.core import Core

logger = logging.getLogger("celeriac")


def condemn(core: Core, suspect: Suspect) -> bool:
    """Keep the message in quarantine, tell its result backend; True: it may leave the claims of its dead worker.

    Raises one of the broker's errors when it could not be kept: then it stays where it is, for the next judge.
    """
    verdict = f"{suspect.deaths} workers died while it ran in them, the last time nothing else ran there"
    if core.quarantine_on:
        core.quarantine.put_raw(
            suspect.source, suspect.raw, Reason.POISON, verdict, suspect.key,
            deaths=suspect.deaths, worker=suspect.key.rpartition(":")[0],
        )  # fmt: skip
    else:
        logger.error("celeriac: %s[%s] is given up and kept nowhere: %s", suspect.task, suspect.task_id, verdict)
    # Apart, since a result backend may take its time, and this is the thread of the pulse.
    threading.Thread(target=_fail, args=(core, suspect, verdict), name="celeriac-verdict", daemon=True).start()
    return True


def _fail(core: Core, suspect: Suspect, verdict: str) -> None:
    try:
        request = _context(suspect.raw)
        core.app.backend.mark_as_failure(
            suspect.task_id, WorkerLostError(f"{suspect.task}: {verdict}"), request=request,
            store_result=not request.ignore_result,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001  whatever a result backend may raise: the message itself is safe
        logger.warning(
            "celeriac: the failure of %s[%s] was not stored: %s", suspect.task, suspect.task_id, describe(error)
        )


def _context(raw: bytes) -> Any:
    """What Celery's result backend wants to know of a task: its chord, its chain, its errbacks."""
    envelope = json.loads(raw)
    args, kwargs, embedded = json.loads(body_bytes(envelope))
    calls = {name: embedded.get(name) for name in ("chord", "chain", "callbacks", "errbacks")}
    return Context({**envelope["headers"], **calls, "args": args, "kwargs": kwargs})
