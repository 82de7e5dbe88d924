"""Celeriac's pages and JSON API inside Flower, without a fork; `celery -A app dashboard` starts them."""
