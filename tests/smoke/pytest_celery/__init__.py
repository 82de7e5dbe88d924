"""Celeriac under pytest-celery, Celery's own test plugin, on local processes or on Docker containers."""
