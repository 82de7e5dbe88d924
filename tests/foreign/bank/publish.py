"""Sends `count` transfers, `per_s` a second, or until a line comes on stdin; prints what came of each."""

import json
import select
import sys
import time

import redis
from celery.exceptions import TimeoutError as NoAnswerError
from kombu.exceptions import OperationalError

from tasks import transfer

first, count, per_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
began, sent, unsure = time.monotonic(), {}, []
for number in range(first, first + count):
    pause_s = max(0.0, began + (number - first) / per_s - time.monotonic())
    if select.select([sys.stdin], [], [], pause_s)[0]:
        break
    try:
        sent[number] = transfer.delay(number)
    except (OperationalError, redis.RedisError, OSError):
        unsure.append(number)


def outcome(result):
    try:
        return result.get(timeout=60)
    except NoAnswerError:
        return "no answer"
    except Exception as error:  # noqa: BLE001  what its task failed with
        return repr(error)


found = {number: outcome(result) for number, result in sent.items()}
sys.stdout.write(json.dumps({"found": found, "unsure": unsure}))
