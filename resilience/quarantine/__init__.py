"""Messages that nobody can run, or that were given up: kept whole in Redis until an operator decides."""
