"""A publisher process of the shop: sends orders at a steady pace, waits for every answer, prints what it saw."""

import json
import sys
import time

from tasks import app, charge

first, count, pause_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
results, states = [], set()
for number in range(first, first + count):
    results.append(charge.delay(number))
    states.add(app.resilience.breakers.get_state("payments"))
    time.sleep(pause_s)
answers = [result.get(timeout=40) for result in results]
sys.stdout.write(json.dumps({"answers": answers, "states": sorted(states)}))
