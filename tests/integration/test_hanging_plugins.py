"""A third party's plugin that hangs, or raises whatever, as it is set up: it can't be used, and all else can."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from arcbackupd import plugins
from arcbackupd.alarms.plugins import FailedAlarm, LoadedAlarm, load_alarms
from arcbackupd.destinations import Destination
from arcbackupd.destinations.plugins import FailedDestination, load_destinations
from arcbackupd.jobs import JobContext
from arcbackupd.log import get_logger
from arcbackupd.scheduling import FailedJob, LoadedJob, load_jobs

PLUGIN = """
    import threading
    from MODULE import BASE, SETTINGS
    from arcbackupd.errors import UsageError
    from pydantic import model_validator

    def at(place, *arguments):
        if place == "PLACE":
            DEED

    at("import")

    class OwnSettings(SETTINGS):
        @model_validator(mode="after")
        def checked(self):
            at("validation")
            return self

    class Own(BASE):
        Settings = OwnSettings
        @property
        def location(self):
            at("location")
            return "own:"
        default_schedule = "daily"
        def __init__(self, *arguments):
            at("construction", *arguments)
            super().__init__(*arguments)
        @classmethod
        def problem(cls): at("problem")
        async def run(self): ...
        def check(self): ...
        def list(self, prefix): ...
        def put(self, source, key, transfer): ...
        def get(self, key, target, transfer): ...
        def read(self, key, length): ...
        def delete(self, key): ...
        def tell(self, news): ...
        def test(self): ...
"""
BASES = {
    "jobs": ("Job", "JobSettings"),
    "destinations": ("Destination", "DestinationSettings"),
    "alarms": ("StateAlarm", "StateAlarmSettings"),
}
HANG = "threading.Event().wait()"
DEEDS = {
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise SystemExit(3)": "SystemExit: 3",
    "raise UsageError('configuration', 'no')": "no",
}
PLACES = ["import", "validation", "construction"]
_NUMBERS = itertools.count()
"""A module that hangs as it is imported does so for each who imports it by that name."""

Load = Callable[..., list[Any]]


@pytest.fixture(name="load")
def _load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return what loads a plugin that does a deed in a place, once for each of some names."""
    monkeypatch.syspath_prepend(tmp_path)
    module = f"own_plugin_{next(_NUMBERS)}"

    def load(kind: str, place: str, deed: str, *names: str) -> list[Any]:
        base, settings = BASES[kind]
        source = textwrap.dedent(PLUGIN).replace("MODULE", f"arcbackupd.{kind}").replace("SETTINGS", settings)
        source = source.replace("BASE", base).replace("PLACE", place).replace("DEED", deed)
        (tmp_path / f"{module}.py").write_text(source)
        found = [EntryPoint("own", f"{module}:Own", f"arcbackupd.{kind}")]
        tables: dict[str, tuple[str, dict[str, Any]]] = {name: ("own", {}) for name in names or ("own",)}
        if kind == "jobs":
            return [*load_jobs({"own": {}}, _context, host_id="host", always=(), found=found)]
        if kind == "destinations":
            return [*load_destinations(tables, tmp_path, found=found).values()]
        return [*load_alarms(tables, "dome", found=found).values()]

    return load


def _context(name: str) -> JobContext:
    nothing: Any = None
    return JobContext(nothing, nothing, nothing, nothing, get_logger(), Path("/nowhere"), name)


@pytest.mark.parametrize("kind", BASES)
def test_one_that_does_neither_is_used(kind: str, load: Load) -> None:
    (made,) = load(kind, "nowhere", HANG)
    assert isinstance(made, LoadedJob | Destination | LoadedAlarm), made


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *itertools.product(BASES, PLACES),
        ("destinations", "problem"),
        ("destinations", "location"),
        ("alarms", "problem"),
    ],
)
def test_one_that_hangs_is_left_alone(kind: str, place: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_SET_UP_SECONDS", 0.3)
    (failed,) = load(kind, place, HANG)
    assert isinstance(failed, FailedJob | FailedDestination | FailedAlarm), failed
    assert failed.problem == "it isn't set up after 0.3 s"
    assert "systemctl restart arcbackupd" in failed.hint


@pytest.mark.parametrize(("kind", "place"), [*itertools.product(BASES, PLACES), ("destinations", "location")])
@pytest.mark.parametrize("deed", DEEDS)
def test_one_that_raises_whatever_takes_nothing_down(kind: str, place: str, deed: str, load: Load) -> None:
    (failed,) = load(kind, place, deed)
    assert isinstance(failed, FailedJob | FailedDestination | FailedAlarm), failed
    assert DEEDS[deed] in failed.problem
    assert failed.hint


@pytest.mark.parametrize("kind", ["destinations", "alarms"])
def test_an_import_that_hangs_is_not_waited_for_again(
    kind: str, load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugins, "_SET_UP_SECONDS", 0.3)
    first, second = load(kind, "import", f"print('hangs'); {HANG}", "first", "second")
    assert first.problem == second.problem == "it isn't set up after 0.3 s"
    assert capsys.readouterr().out == "hangs\n"


@pytest.mark.parametrize("kind", ["destinations", "alarms"])
def test_one_whose_server_hangs_takes_no_other_of_its_type_away(
    kind: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_SET_UP_SECONDS", 0.3)
    first, second = load(kind, "construction", f"arguments[0] == 'first' and {HANG}", "first", "second")
    assert first.problem == "it isn't set up after 0.3 s"
    assert isinstance(second, Destination | LoadedAlarm), second


@pytest.mark.parametrize("kind", ["destinations", "alarms"])
def test_many_that_hang_take_little_longer_than_one(kind: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_SET_UP_SECONDS", 0.3)
    monkeypatch.setattr(plugins, "_HANGING_SECONDS", 0.5)
    monkeypatch.setattr(plugins, "_LEAST_SECONDS", 0.1)
    failed = load(kind, "construction", HANG, *"abcd")
    assert [one.problem for one in failed] == [f"it isn't set up after {n} s" for n in (0.3, 0.2, 0.1, 0.1)]
