"""Runs the tasks named on the command line eagerly, in this process, as a unit test of the project would."""

import contextlib
import sys

import tasks

for name in sys.argv[1:]:
    # SystemExit too: whoever runs a task eagerly gets what it raises
    with contextlib.suppress(Exception, SystemExit):
        getattr(tasks, name).delay()
tasks.app.resilience.breakers.close()
