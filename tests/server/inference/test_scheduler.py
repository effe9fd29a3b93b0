"""What is decoded next."""

from __future__ import annotations

import pytest

from server.inference.scheduler import Scheduler, State, Ticket
from tests.server.inference.scripted import Source, window


def make() -> Scheduler:
    return Scheduler(["asr", "asr_multilingual"])


def order(scheduler: Scheduler, model: str = "asr", now: float = 100.0) -> list[int]:
    """The jobs in the order in which they are sent."""
    jobs = []
    while (ticket := scheduler.next(model, now)) is not None:
        jobs.append(ticket.job)
    return jobs


def next_of(scheduler: Scheduler, now: float = 100.0, model: str = "asr") -> Ticket:
    ticket = scheduler.next(model, now)
    assert ticket is not None
    return ticket


def test_nothing_waits_at_first() -> None:
    assert make().next("asr", 0.0) is None
    assert make().is_empty


def test_finals_go_before_partials_and_the_oldest_first() -> None:
    scheduler = make()
    sources = [Source(first_job=100 * n) for n in range(4)]
    scheduler.want_partial(sources[0], "asr", since=1.0, now=2.0)
    scheduler.decode(sources[1], "asr", window(7), now=3.0)
    scheduler.decode(sources[2], "asr", window(8), now=4.0)
    scheduler.want_partial(sources[3], "asr", since=0.5, now=5.0)
    assert order(scheduler) == [7, 8, 301, 1]


def test_models_do_not_share_a_line() -> None:
    scheduler = make()
    scheduler.decode(Source(), "asr", window(1), now=1.0)
    scheduler.decode(Source("es"), "asr_multilingual", window(2), now=1.0)
    assert order(scheduler, "asr_multilingual") == [2]
    assert order(scheduler, "asr") == [1]


def test_the_window_of_a_partial_is_taken_when_it_is_sent() -> None:
    scheduler, source = make(), Source()
    scheduler.want_partial(source, "asr", since=1.0, now=1.0)
    assert source.taken == []
    assert order(scheduler) == source.taken == [1001]


def test_a_source_without_a_window_is_passed_over() -> None:
    scheduler, empty, other = make(), Source(), Source(first_job=5)
    empty.gives_windows = False
    scheduler.want_partial(empty, "asr", since=1.0, now=1.0)
    scheduler.want_partial(other, "asr", since=2.0, now=2.0)
    assert order(scheduler) == [6]
    scheduler.forget(other)
    assert scheduler.is_empty


def test_a_source_that_raises_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Source):
        def take_partial(self) -> None:
            raise RuntimeError("broken")

    scheduler, other = make(), Source(first_job=5)
    scheduler.want_partial(Broken(), "asr", since=1.0, now=1.0)
    scheduler.want_partial(other, "asr", since=2.0, now=2.0)
    assert order(scheduler) == [6]
    assert "failed to give its window" in caplog.text


def test_wanting_again_gives_the_new_rank() -> None:
    scheduler, first, second = make(), Source(first_job=0), Source(first_job=10)
    scheduler.want_partial(first, "asr", since=1.0, now=1.0)
    scheduler.want_partial(second, "asr", since=2.0, now=2.0)
    scheduler.want_partial(first, "asr", since=3.0, now=3.0)
    assert order(scheduler) == [11, 1]


def test_a_partial_wanted_while_one_is_under_way_waits_for_it() -> None:
    scheduler, source = make(), Source()
    scheduler.want_partial(source, "asr", since=1.0, now=1.0)
    sent = next_of(scheduler)
    scheduler.want_partial(source, "asr", since=2.0, now=2.0)
    assert scheduler.next("asr", 3.0) is None
    scheduler.finish(sent)
    assert order(scheduler) == [1002]


def test_a_source_with_many_finals_takes_turns_with_the_others() -> None:
    scheduler, greedy, other = make(), Source(), Source()
    for job in range(1, 5):
        scheduler.decode(greedy, "asr", window(job), now=1.0)
    scheduler.decode(other, "asr", window(10), now=2.0)
    scheduler.decode(other, "asr", window(11), now=2.0)
    assert [next_of(scheduler, now=3.0).job for _ in range(6)] == [1, 10, 2, 11, 3, 4]


def test_turns_are_passed_on_by_a_final_that_is_cancelled() -> None:
    scheduler, source, other = make(), Source(), Source()
    for job in (1, 2, 3):
        scheduler.decode(source, "asr", window(job), now=float(job))
    scheduler.decode(other, "asr", window(9), now=2.5)
    assert scheduler.cancel(source, 1) is None
    assert scheduler.cancel(source, 3) is None
    assert order(scheduler) == [2, 9]


def test_a_final_takes_the_place_of_its_sources_partial_that_waits() -> None:
    scheduler, source = make(), Source()
    scheduler.want_partial(source, "asr", since=1.0, now=1.0)
    scheduler.decode(source, "asr", window(5), now=2.0)
    assert order(scheduler) == [5]


def test_a_partial_under_way_goes_on_beside_its_sources_final() -> None:
    scheduler, source = make(), Source()
    scheduler.want_partial(source, "asr", since=1.0, now=1.0)
    partial = next_of(scheduler)
    scheduler.decode(source, "asr", window(5), now=2.0)
    assert partial.state is State.SENT
    assert order(scheduler) == [5]
    assert scheduler.cancel(source, partial.job) is partial


def test_dropping_a_partial_leaves_finals_alone() -> None:
    scheduler, source = make(), Source()
    scheduler.decode(source, "asr", window(5), now=2.0)
    scheduler.want_partial(source, "asr", since=1.0, now=1.0)
    assert scheduler.drop_partial(source) is None
    assert order(scheduler) == [5]


def test_a_partial_under_way_is_cancelled_by_its_number() -> None:
    scheduler, source = make(), Source()
    scheduler.want_partial(source, "asr", since=1.0, now=1.0)
    partial = next_of(scheduler)
    assert scheduler.cancel(source, 999) is None
    assert scheduler.cancel(source, 1001) is partial
    assert scheduler.cancel(source, 1001) is None
    assert scheduler.is_empty


def test_forgetting_returns_what_is_under_way() -> None:
    scheduler, source = make(), Source()
    for job in (1, 2, 3):
        scheduler.decode(source, "asr", window(job), now=1.0)
    sent = next_of(scheduler)
    assert scheduler.forget(source) == [sent]
    assert scheduler.forget(source) == []
    assert scheduler.is_empty
    assert scheduler.next("asr", 9.0) is None
    assert scheduler.waiting_finals("asr") == 0


def test_a_source_that_forgets_itself_while_it_gives_a_window_is_not_sent() -> None:
    scheduler = make()

    class Leaving(Source):
        def take_partial(self):  # type: ignore[no-untyped-def]
            scheduler.forget(self)
            return super().take_partial()

    scheduler.want_partial(Leaving(), "asr", since=1.0, now=1.0)
    assert scheduler.next("asr", 2.0) is None
    assert scheduler.is_empty
    assert scheduler.sent("asr") == 0


def test_a_job_number_is_refused_while_it_is_under_way() -> None:
    scheduler, source = make(), Source()
    scheduler.decode(source, "asr", window(1), now=1.0)
    with pytest.raises(ValueError, match="job 1 is under way"):
        scheduler.decode(source, "asr", window(1), now=1.0)


def test_a_retry_waits_for_its_pause_and_then_goes_by_its_age() -> None:
    scheduler, old, young = make(), Source(), Source()
    scheduler.decode(old, "asr", window(1), now=1.0)
    failed = next_of(scheduler)
    scheduler.retry(failed, at=5.0)
    scheduler.decode(young, "asr", window(2), now=2.0)
    assert scheduler.next_retry("asr") == 5.0
    assert next_of(scheduler, now=4.0).job == 2
    assert scheduler.next("asr", 4.9) is None
    scheduler.decode(young, "asr", window(3), now=4.95)
    assert order(scheduler, now=5.0) == [1, 3]
    assert failed.tries == 2


def test_a_retry_is_cancelled_in_its_pause_and_after_it() -> None:
    scheduler, source = make(), Source()
    for job in (1, 2):
        scheduler.decode(source, "asr", window(job), now=1.0)
        scheduler.retry(next_of(scheduler, now=2.0), at=5.0)
    scheduler.cancel(source, 1)
    assert scheduler.next("asr", 4.0) is None
    scheduler.decode(source, "asr", window(3), now=4.0)
    assert next_of(scheduler, now=6.0).job == 2
    assert order(scheduler, now=6.0) == [3]


def test_a_retry_behind_others_does_not_hold_up_its_sources_next_final() -> None:
    scheduler, source = make(), Source()
    for job in (1, 2):
        scheduler.decode(source, "asr", window(job), now=1.0)
    scheduler.retry(next_of(scheduler), at=5.0)
    assert next_of(scheduler, now=2.0).job == 2


def test_expired_finals_are_found_wherever_they_wait() -> None:
    scheduler, source = make(), Source()
    for job in (1, 2, 3):
        scheduler.decode(source, "asr", window(job), now=float(job))
    scheduler.retry(next_of(scheduler), at=50.0)
    assert {ticket.job for ticket in scheduler.expired("asr", before=2.0)} == {1, 2}
    assert scheduler.waiting_finals("asr") == 3
    assert scheduler.oldest_final() == 1.0


def test_a_partial_moves_to_the_line_of_the_model_for_its_window() -> None:
    scheduler, source = make(), Source("es")
    scheduler.want_partial(source, "asr", since=1.0, now=1.0)
    ticket = next_of(scheduler)
    scheduler.reroute(ticket, "asr_multilingual")
    assert scheduler.sent("asr") == 0
    assert next_of(scheduler, model="asr_multilingual") is ticket
    assert source.taken == [1001]


def test_a_partial_that_moves_counts_the_time_without_a_triton_of_its_new_model() -> None:
    scheduler, source = make(), Source("es")
    scheduler.want_partial(source, "asr", since=1.0, now=1.0, down_before=600.0)
    ticket = next_of(scheduler)
    scheduler.reroute(ticket, "asr_multilingual", down_before=7.0)
    assert ticket.down_before == 7.0


def test_the_partial_that_has_waited_longest_is_known_of_each_model() -> None:
    scheduler, first, second, other = make(), Source(), Source(), Source("es")
    assert scheduler.first_partials() == []
    scheduler.want_partial(second, "asr", since=2.0, now=2.0)
    scheduler.want_partial(first, "asr", since=1.0, now=2.0)
    scheduler.want_partial(other, "asr_multilingual", since=3.0, now=3.0)
    assert [ticket.source for ticket in scheduler.first_partials()] == [first, other]


def test_counts() -> None:
    scheduler, source, other = make(), Source(), Source()
    scheduler.decode(source, "asr", window(1), now=1.0)
    scheduler.decode(source, "asr", window(2), now=1.0)
    scheduler.want_partial(other, "asr", since=1.0, now=1.0)
    next_of(scheduler)
    assert (scheduler.sent("asr"), scheduler.waiting_finals("asr"), scheduler.waiting_partials("asr")) == (1, 1, 1)
    assert len(scheduler.forget_all()) == 1
    assert (scheduler.sent("asr"), scheduler.waiting_finals("asr"), scheduler.waiting_partials("asr")) == (0, 0, 0)
    assert scheduler.is_empty
