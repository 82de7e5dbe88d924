"""Messages and their owners on a Redis broker: who holds what, and how it comes back when the holder dies."""
