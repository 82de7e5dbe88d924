"""The arithmetic of the benches: whose turn it is, what counts, what is compared with what."""

from __future__ import annotations

from tests.bench.harness import Contender, Figure, Row, Table, interleave


def recorded(name: str, journal: list[str], values: list[float]) -> Contender:
    """A contender that writes down its turns and hands out the given values."""

    def measure() -> dict[str, float]:
        journal.append(name)
        return {"us": values.pop(0)}

    return Contender(name, measure)


def test_the_order_turns_round_each_round_and_the_first_round_does_not_count() -> None:
    journal: list[str] = []
    a, b = recorded("a", journal, [99, 1, 2]), recorded("b", journal, [99, 3, 4])
    rows = interleave([a, b], rounds=2)
    assert journal == ["b", "a", "a", "b", "b", "a"]
    assert rows == (Row("a", {"us": Figure((1, 2))}), Row("b", {"us": Figure((3, 4))}))


def test_without_a_warm_up_every_round_counts() -> None:
    rows = interleave([recorded("a", [], [1, 2])], rounds=2, warm_up=False)
    assert rows == (Row("a", {"us": Figure((1, 2))}),)


def test_a_ratio_is_taken_within_its_round() -> None:
    """The machine was twice as slow in the second round, which says nothing about the contenders."""
    rows = (Row("a", {"us": Figure((1, 2))}), Row("b", {"us": Figure((3, 6))}))
    assert Table("", "", rows, reference="a").ratios["b"] == Figure((3.0, 3.0))


def test_a_table_without_a_reference_has_no_ratios() -> None:
    assert Table("", "", (Row("a", {"us": Figure((1,))}),)).ratios == {}


def test_a_figure_shows_its_median_and_spread_unless_all_rounds_agree() -> None:
    assert str(Figure((1.0, 3.14159, 1000.4))) == "3.14 (1 .. 1,000)"
    assert str(Figure((2.0, 2.0))) == "2"
