"""The embedded pool: Redis, workers, beat and Flower as children that end with the process that started them.

Nothing is imported here, so that `child.py`, which every child passes through, starts in milliseconds.
"""
