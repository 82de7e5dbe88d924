"""Faces of the event bus: each sink shows events in one place and knows nothing else."""
