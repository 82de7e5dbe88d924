"""Subcommands of `celery` that operators type: `celery -A app pool|breaker|quarantine|recovery|dashboard`."""
