import pytest

from perf.ramp import Step, capacity, next_streams


def ramp(limit: int, first: int = 2, most: int = 256) -> list[int]:
    """The numbers tried on a server that holds up to `limit` streams."""
    steps: list[Step] = []
    while (streams := next_streams(steps, first, most)) is not None:
        steps.append(Step(streams, streams <= limit))
        assert len(steps) < 50
    return [step.streams for step in steps]


def test_doubles_then_halves_what_is_open() -> None:
    assert ramp(11) == [2, 4, 8, 16, 12, 10, 11]


def test_stops_where_everything_holds() -> None:
    assert ramp(1000, most=24) == [2, 4, 8, 16, 24]


def test_goes_down_when_the_first_breaks() -> None:
    assert ramp(3, first=8) == [8, 4, 2, 3]
    assert ramp(0, first=2) == [2, 1]


@pytest.mark.parametrize("limit", [1, 2, 5, 7, 17, 40, 100, 255])
def test_finds_the_border_to_an_eighth(limit: int) -> None:
    found = max(streams for streams in ramp(limit) if streams <= limit)
    assert found >= limit - max(1, limit // 8)


def test_capacity_lies_below_every_failure() -> None:
    steps = [Step(2, True), Step(4, False), Step(8, True)]
    assert capacity(steps) == 2
    assert capacity([]) == 0
