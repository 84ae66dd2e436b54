"""The bench's pure parts: medians and ratios, targets, and the report."""

from __future__ import annotations

from typing import Any

import pytest

from bench.figures import Spread, parse_size, ratios, show_size
from bench.parameters import parse
from bench.report import notes_by_key, render
from bench.results import Kept, differences
from bench.targets import TARGETS, verdicts


def _runs(**figures: list[float]) -> list[dict[str, Any]]:
    rounds = zip(*figures.values(), strict=True)
    return [{"round": n, **dict(zip(figures, values, strict=True))} for n, values in enumerate(rounds, start=1)]


def _dump_part(ours: list[float], pipe: list[float]) -> dict[str, Any]:
    def method(label: str, walls: list[float], cpu: float, size: int) -> dict[str, Any]:
        zero = [0.0] * len(walls)
        more = dict.fromkeys(("cpu_commands", "cpu_engine", "cpu_daemon", "cpu_database"), zero)
        return {
            "label": label,
            "runs": _runs(wall=walls, cpu_outside=[cpu] * len(walls), size=[size] * len(walls), **more),
        }

    methods = {
        "pipe": method("the pipe", pipe, 40.0, 300),
        "limit": method("the limit", [10.0] * len(pipe), 0.5, 0),
        "ours": method("arcbackupd", ours, 6.0, 320),
        "arcsecond": {"label": "Arcsecond's client", "runs": []},
    }
    return {"length": 1000, "methods": methods, "skipped": {"arcsecond": "there is no Python 3.12 here"}}


def _kept(figures: Any, run: str = "one") -> Kept:
    return Kept(run, {"size": 1000}, {"date": f"day {run}"}, {"arcbackupd": "1.0"}, figures)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    above, below = _runs(wall=[10.0, 90.0, 40.0]), _runs(wall=[5.0, 10.0, 10.0])
    assert ratios(above, below, "wall") == Spread(4.0, 2.0, 9.0, 3)


def test_a_round_that_only_one_of_them_ran_counts_for_nothing() -> None:
    assert ratios(_runs(wall=[10.0]), _runs(wall=[5.0, 1.0]), "wall") == Spread(2.0, 2.0, 2.0, 1)


def test_nothing_measured_is_no_zero() -> None:
    with pytest.raises(ValueError, match="nothing to take a median of"):
        ratios([], _runs(wall=[5.0]), "wall")


def test_a_single_run_is_shown_without_a_range() -> None:
    assert Spread.of([1.234]).text() == "1.23"
    assert Spread.of([1.0, 3.0, 2.0]).text(1) == "2.0 (1.0 to 3.0)"


@pytest.mark.parametrize(("text", "size"), [("1.1GB", 1_100_000_000), ("300 MB", 300_000_000), ("17", 17)])
def test_a_size_is_read_in_powers_of_ten(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_sizes_are_shown_as_people_read_them() -> None:
    assert [show_size(size) for size in (1_100_000_000, 25_000_000, 12)] == ["1.10 GB", "25.0 MB", "12 B"]


def test_a_target_is_reached_or_not_by_the_median() -> None:
    figures = {"dump": _dump_part(ours=[12.0, 30.0, 12.5], pipe=[50.0, 50.0, 50.0])}
    told = {verdict.target.key: verdict.good for verdict in verdicts(figures)}
    assert told["dump-speed"] is True
    assert told["dump-limit"] is True
    assert told["dump-cpu"] is True
    assert {good for key, good in told.items() if not key.startswith("dump")} == {None}


def test_a_target_that_was_missed_is_told_with_a_profile_and_its_note() -> None:
    parts = {"dump": _kept(_dump_part(ours=[20.0], pipe=[50.0]))}
    text = render(parts, notes_by_key("before\n\n## dump-speed\n\nIt is the engine's stream.\n"))
    assert "| Dump: times faster than the pipe | at least 4 times | 2.50 times | **no** |" in text
    assert "It is the engine's stream.\n\n### Dump: times the limit" in text
    assert "Wall time along the way: the limit 10.0 s; arcbackupd 20.0 s; the pipe 50.0 s." in text
    assert "Not measured: arcsecond: there is no Python 3.12 here." in text


def test_what_was_not_run_is_told_so() -> None:
    text = render({"dump": _kept(_dump_part(ours=[12.0], pipe=[50.0]))}, {})
    assert "not measured: the part growth wasn't run" in text
    assert "All that was measured was reached." in text


def test_parts_of_different_runs_are_told_apart() -> None:
    assert differences({"dump": _kept({}), "list": _kept({})}) == []
    [note] = differences({"dump": _kept({}), "list": _kept({}, "two")})
    assert "2 runs: dump of day one (1.0); list of day two (1.0)." in note


def test_the_keys_of_targets_are_unlike() -> None:
    assert len({target.key for target in TARGETS}) == len(TARGETS)


def test_the_parameters_of_a_small_run_are_read() -> None:
    parameters = parse(["--size", "20MB", "--only", "dump,list", "--growth", "1MB,2MB"])
    assert parameters.only == ("dump", "list")
    assert (parameters.size, parameters.growth) == (20_000_000, (1_000_000, 2_000_000))
