"""The pool's own Celery app and its work: the reference application, run with `celery -A tasks ...`."""
