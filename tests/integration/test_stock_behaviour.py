"""One script after the other on the owned transport and on stock Celery, on three pools: both come to the same."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.integration import stock_canvas, stock_control, stock_queues
from tests.integration.works_kit import POOLS, Outcomes, Table, at_once, judge, sides

table = Table()
for part in (stock_canvas, stock_queues, stock_control):
    table.rows.update(part.table.rows)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    with ExitStack() as stack:
        everyone = list(sides(stack, tmp_path_factory.mktemp("works"), POOLS))
        workers = [side.worker(conf={"worker_prefetch_multiplier": 2}) for side in everyone]
        for worker in workers:
            worker.wait_ready(40)
        return at_once(table.run, everyone)


@pytest.mark.parametrize(("pool", "name"), table.cases)
def test_it_comes_out_as_on_stock_celery(outcomes: Outcomes, pool: str, name: str) -> None:
    judge(table, outcomes, pool, name)
