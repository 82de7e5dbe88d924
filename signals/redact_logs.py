"""Secrets out of log records about tasks, Celery's and ours: messages, tracebacks, and what tasks return."""

from __future__ import annotations

import logging

from signals.redact import redact, redact_value, type_name

LOGGERS = ("celery.app.trace", "celery.worker.request", "celeriac")

_formatter = logging.Formatter()


def redact_logs() -> None:
    """From now on in this process, records about tasks are redacted. Twice is once."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, RedactedRecords) for present in logger.filters):
            logger.addFilter(RedactedRecords())


class RedactedRecords(logging.Filter):
    """Lets every record pass, redacted; one without secrets stays as it is, its template and arguments included.

    Attach it to any other logger that shows what tasks raise.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            _redact_record(record)
        except Exception as error:  # noqa: BLE001  logging must not fail the task; what cannot be read is not shown
            record.msg, record.args = f"(a record that cannot be shown: reading it raises {type_name(error)})", None
            record.exc_info = None
        return True


def _redact_record(record: logging.LogRecord) -> None:
    message = record.getMessage()
    shown = redact(message)
    if shown != message:
        record.msg, record.args = shown, None
    if record.exc_info and record.exc_info[0] is not None:
        trace = record.exc_text or _formatter.formatException(record.exc_info)
        shown = redact(trace)
        if shown != trace:
            # Formatters take this text instead of making their own; who looks at the exception itself, as Sentry
            # does, redacts for himself.
            record.exc_text = shown
    data = getattr(record, "data", None)  # what Celery adds for formatters of the user's own
    if isinstance(data, dict):
        record.data = {
            name: redact(value) if isinstance(value, str) else redact_value(value) for name, value in data.items()
        }
