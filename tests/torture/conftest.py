"""How long and by which chance to torture, the rig, and the closing table.

TORTURE_SECONDS is how long the whole suite goes on, shared by its faults; without it, each fault strikes as often
as it says itself. TORTURE_SEED makes a run's choices those of another.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.e2e.restoring import Quick, quick_stack
from tests.e2e.support import small_disk
from tests.harness import images
from tests.harness.engine import Engine, EngineUnavailable
from tests.harness.faked_clock import FakedClock
from tests.harness.faulty_fs import FaultyFilesystem
from tests.harness.loop_disk import LoopDisk
from tests.harness.own_engine import OwnEngine
from tests.require import require
from tests.torture.rig import BULK, JOBS, Rig, rig_on

SEED = int(os.environ.get("TORTURE_SEED") or secrets.randbelow(1_000_000))
SECONDS = float(os.environ.get("TORTURE_SECONDS") or 0)
_ROW = "torture"

Ground = Literal["plain", "failing", "loop", "small", "clock", "nas"]
"""What a daemon is tortured on: a filesystem or a clock of its own."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each torture test time enough for its share."""
    for item in items:
        if SECONDS and "tests/torture" in item.nodeid:
            item.add_marker(pytest.mark.timeout(SECONDS + 600))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Return the test's own chance: the same for the same seed, whichever tests run beside it."""
    return random.Random(f"{SEED} {request.node.name}")


Note = Callable[[str, int, list[str]], None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Return what puts a line into the closing table; it travels with the test's report, also between processes."""
    properties = request.node.user_properties
    return lambda fault, rounds, findings: properties.append((_ROW, (fault, rounds, findings, SEED)))


@pytest.fixture(scope="session")
def tortured_stack(docker_engine: Engine) -> Iterator[Quick]:
    """Return a quick stack with dumps that last long enough to be caught in their middle."""
    try:
        with quick_stack(docker_engine, more=BULK) as quick:
            yield quick
    except EngineUnavailable as error:
        require("docker", str(error))


class Grounds:
    """Where daemons are tortured: one at a time, the same for cases that follow each other on the same ground."""

    def __init__(self, quick: Quick, directory: Path) -> None:
        self._quick = quick
        self._directory = directory
        self._open = ExitStack()
        self._key: object = None
        self._rig: Rig | None = None

    def rig(self, ground: Ground, settings: dict[str, Any]) -> Rig:
        """Return the daemon that is there for it, or a new one on a stack as new."""
        if self._rig is None or self._key != (ground, settings):
            self.close()
            self._rig, self._key = self._open.enter_context(self._made(ground, settings)), (ground, settings)
        return self._rig

    def close(self) -> None:
        """End the daemon, and all below it."""
        self._rig = None
        self._open.close()

    @contextmanager
    def _made(self, ground: Ground, settings: dict[str, Any]) -> Iterator[Rig]:
        stack = self._quick.stack
        disk = mount = clock = None
        with ExitStack() as places:
            if ground == "failing":
                disk = places.enter_context(FaultyFilesystem(stack.directory / "disk", stack.shared_data))
            elif ground == "loop":
                mount = places.enter_context(LoopDisk(self._directory / "below", stack.shared_data))
            elif ground == "small":
                places.enter_context(small_disk(stack.shared_data, "300m"))
            elif ground == "clock":
                clock = FakedClock(self._directory)
            elif ground == "nas":
                settings = {**settings, **nas_settings(stack.directory / "nas")}
            with rig_on(self._quick, clock, **settings) as tortured:
                tortured.disk, tortured.mount = disk, mount
                yield tortured


@pytest.fixture(scope="session")
def grounds(tortured_stack: Quick, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    """Return where daemons are tortured."""
    made = Grounds(tortured_stack, tmp_path_factory.mktemp("grounds"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def own_ground(docker_engine: Engine, grounds: Grounds) -> Iterator[tuple[OwnEngine, Rig]]:
    """Return an engine that may be restarted, and a daemon on it."""
    grounds.close()
    try:
        tags = [images.postgres(docker_engine, 16), images.backend(docker_engine)]
        with (
            OwnEngine(docker_engine, tags) as own,
            quick_stack(own.engine, more=BULK) as quick,
            rig_on(quick) as made,
        ):
            yield own, made
    except EngineUnavailable as error:
        require("docker", str(error))


def nas_settings(directory: Path) -> dict[str, Any]:
    """Return the settings of a daemon that uploads its dumps to a directory, made anew."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    place = {"type": "directory", "path": str(directory), "mount": False}
    jobs = {**JOBS, "upload": {"enabled": False}}
    return {"destinations": {"nas": place}, "upload": {"dumps": {"to": ["nas"]}}, "jobs": jobs}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was struck, how often, and what was found."""
    ended = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    rows = [
        row for report in ended if report.when == "call" for name, row in report.user_properties if name == _ROW
    ]
    if not rows:
        return
    terminalreporter.section(f"torture, TORTURE_SEED={rows[0][-1]}")
    width = max(len(fault) for fault, *_ in rows)
    terminalreporter.write_line(f"{'fault':{width}}  rounds  findings")
    for fault, rounds, findings, _ in rows:
        terminalreporter.write_line(f"{fault:{width}}  {rounds:6}  {len(findings) or 'none'}")
        for finding in findings:
            terminalreporter.write_line(f"{'':{width}}          {finding}")
