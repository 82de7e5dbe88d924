"""The pool's members: who is alive, who died with work in hand, who answers health checks."""
