"""Which services are stopped first, and when one counts as up."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcbackupd.operations.restore import services
from arcbackupd.operations.restore.services import _SETTLED_SECONDS, _not_yet_up, stop_order
from arcbackupd.stack import ServiceState

NAMES = "abcdef"


def state(name: str, *needs: str, running: bool = True, **told: object) -> ServiceState:
    fields: dict[str, object] = {"started_at": "t", **told}
    return ServiceState(name, running=running, needs=frozenset(needs), **fields)  # type: ignore[arg-type]


@st.composite
def acyclic(draw: st.DrawFn) -> list[ServiceState]:
    """Services of which each needs only some that come before it in a hidden order, in another order."""
    hidden = draw(st.permutations(NAMES))
    states = [
        state(name, *(draw(st.sets(st.sampled_from(hidden[:place]))) if place else ()))
        for place, name in enumerate(hidden)
    ]
    return draw(st.permutations(states))


any_graph = st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES + "z")), min_size=1).map(
    lambda graph: [state(name, *needs) for name, needs in graph.items()]
)


@given(acyclic())
def test_whatever_needs_another_one_is_stopped_before_it(states: list[ServiceState]) -> None:
    order = stop_order(states)
    assert sorted(order) == sorted(NAMES)
    for one in states:
        assert all(order.index(one.name) < order.index(need) for need in one.needs)


@given(any_graph)
@example([state("a", "b"), state("b", "a")])
@example([state("a", "a")])
@example([state("a", "b"), state("b", "c"), state("c", "a")])
def test_every_service_is_stopped_once_circles_and_strangers_notwithstanding(states: list[ServiceState]) -> None:
    assert sorted(stop_order(states)) == sorted(one.name for one in states)


def test_services_that_need_nothing_keep_the_given_order() -> None:
    assert stop_order([state(name) for name in "cab"]) == ["c", "a", "b"]


# Up


class Clock:
    """Stands in for the passing of seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(services, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (None, "it ended: its container is gone"),
        (state("a", running=False), "it ended"),
        (state("a", running=False, health="healthy"), "it ended"),
        (state("a", health="healthy"), ""),
        (state("a", health="starting"), "its health check says starting"),
        (state("a", health="unhealthy"), "its health check says unhealthy"),
        (state("a"), "it has just been started"),
        (state("a", restarting=True), "it ends, and is started again by the engine"),
    ],
)
def test_a_service_is_not_up_for_a_reason_that_is_told(seen: ServiceState | None, why: str, clock: Clock) -> None:
    assert _not_yet_up(seen, {}) == why


def test_without_a_health_check_it_is_up_when_the_same_run_has_lasted(clock: Clock) -> None:
    since: dict[str, tuple[str, float]] = {}
    assert _not_yet_up(state("a"), since)
    clock.now += _SETTLED_SECONDS - 0.1
    assert _not_yet_up(state("a"), since)
    clock.now += 0.2
    assert not _not_yet_up(state("a"), since)


def test_a_new_start_begins_the_time_anew(clock: Clock) -> None:
    since: dict[str, tuple[str, float]] = {}
    assert _not_yet_up(state("a"), since)
    clock.now += _SETTLED_SECONDS + 1
    assert _not_yet_up(state("a", started_at="later"), since)
    clock.now += _SETTLED_SECONDS - 0.1
    assert _not_yet_up(state("a", started_at="later"), since)
    clock.now += 0.2
    assert not _not_yet_up(state("a", started_at="later"), since)


def test_each_service_has_a_time_of_its_own(clock: Clock) -> None:
    since: dict[str, tuple[str, float]] = {}
    assert _not_yet_up(state("a"), since)
    clock.now += _SETTLED_SECONDS + 1
    assert not _not_yet_up(state("a"), since)
    assert _not_yet_up(state("b"), since)


def test_one_that_is_being_restarted_is_never_up_however_long_it_lasts(clock: Clock) -> None:
    since: dict[str, tuple[str, float]] = {}
    _not_yet_up(state("a", restarting=True), since)
    clock.now += 10 * _SETTLED_SECONDS
    assert _not_yet_up(state("a", restarting=True), since)
