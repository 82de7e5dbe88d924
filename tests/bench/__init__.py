"""Benches: figures beside those of peers, in the same run. `make bench`; no test asserts a time."""
