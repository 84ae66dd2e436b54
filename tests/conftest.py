"""What all tests share: the machine's parts as fixtures, markers by fixtures, and the closing list of skips.

A test says what it needs by the fixtures it asks for, and gets its markers from that:

    docker_engine     a Docker engine that answers, started when it must be
    podman_engine     podman behind its API socket
    postgres_image    postgres_image(16): the name of an image of that major
    embedded_postgres a running PostgreSQL 18 without containers, empty, for the whole session
    embedded_major    embedded_major(16): the same of another major
    s3_server         a real S3 server; it needs nothing that isn't installed with the tests
    systemd_host      (where a directory of tests defines it) the systemd container

When the machine lacks one, the test is skipped or fails: see tests/require.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.harness import images
from tests.harness.embedded import EmbeddedPostgres, EmbeddedPostgresError, available_majors
from tests.harness.engine import Engine, EngineUnavailable, docker, podman
from tests.harness.s3 import S3Server
from tests.require import require, required

MARKER_OF_FIXTURE = {
    "docker_engine": "docker",
    "podman_engine": "podman",
    "systemd_host": "systemd",
    "embedded_postgres": "postgres",
    "embedded_major": "postgres",
}

SORTS = {
    "systemd": tuple(f"tests/e2e/test_{name}" for name in ("systemd", "setup", "package")),
    "containers": ("tests/e2e/",),
    "torture": ("tests/torture/",),
}
"""Tests that look at the host, and at engines that all of them share: of each sort one runs at a time."""

ROOT = Path(__file__).parents[1]

# Who starts us in the background lets us ignore Ctrl-C, and the clients under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The machine's parts


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the directory of the checkout."""
    return ROOT


@pytest.fixture(name="s3_server", scope="session")
def _s3_server() -> Iterator[S3Server]:
    """A real S3 server for the whole session; make buckets of your own in it."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def docker_engine() -> Engine:
    """Return a Docker engine that answers."""
    try:
        return docker()
    except EngineUnavailable as error:
        require("docker", str(error))


@pytest.fixture(scope="session")
def podman_engine() -> Engine:
    """Return podman behind its API socket."""
    try:
        return podman()
    except EngineUnavailable as error:
        require("podman", str(error))


@pytest.fixture(scope="session")
def postgres_image(docker_engine: Engine) -> Callable[[int], str]:
    """Return what gives the name of an image of a major of PostgreSQL, made if need be."""

    def image(major: int) -> str:
        try:
            return images.postgres(docker_engine, major)
        except EngineUnavailable as error:
            require("docker", str(error))

    return image


@pytest.fixture(scope="session")
def embedded_major() -> Iterator[Callable[[int], EmbeddedPostgres]]:
    """Return what gives a running PostgreSQL of a major, one for the whole session."""
    with ExitStack() as running:

        @cache
        def server(major: int) -> EmbeddedPostgres:
            if major not in available_majors():
                require("postgres", f"there is no wheel of PostgreSQL {major} in this environment")
            try:
                return running.enter_context(EmbeddedPostgres(major))
            except EmbeddedPostgresError as error:
                require("postgres", f"PostgreSQL {major} doesn't start: {error}")

        yield server


@pytest.fixture(scope="session")
def embedded_postgres(embedded_major: Callable[[int], EmbeddedPostgres]) -> EmbeddedPostgres:
    """Return a running PostgreSQL 18; make databases of your own in it."""
    return embedded_major(18)


# Markers


@pytest.hookimpl(tryfirst=True)  # before -m looks at them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the fixtures it uses, directly or not."""
    for item in items:
        for name in set(getattr(item, "fixturenames", ())) & MARKER_OF_FIXTURE.keys():
            item.add_marker(MARKER_OF_FIXTURE[name])


# Several processes


class _Sorts(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Keeps each sort of tests in one process; all others go wherever there is room."""

    def _split_scope(self, nodeid: str) -> str:
        return next((sort for sort, places in SORTS.items() if nodeid.startswith(places)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Tell which tests stay together: by where they are, since their markers are not known yet."""
    return _Sorts(config, log)


# Skips

_skipped = pytest.StashKey[dict[str, list[str]]]()
"""Ids of skipped tests by reason."""


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing skipped."""
    config.stash[_skipped] = {}


class _Skips:
    """Notes what is skipped: tests, and whole modules at collection."""

    def __init__(self, reasons: dict[str, list[str]]) -> None:
        self._reasons = reasons

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Note a report, if it is one of a skip and not of an expected failure."""
        if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            self._reasons.setdefault(reason, []).append(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to note skips."""
    session.config.pluginmanager.register(_Skips(session.config.stash[_skipped]))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let the run fail when something was skipped where everything is required, however it was skipped."""
    if required("all") and session.config.stash[_skipped] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print what was skipped, and why, as the last thing: after pytest's own closing line."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly:
        return
    reporter.write_line("")
    for line in closing_lines(config.stash[_skipped], len(reporter.stats.get("deselected", []))):
        reporter.write_line(line)


def closing_lines(skipped: dict[str, list[str]], left_out: int) -> list[str]:
    """Return the list of what was skipped, by reason; ``left_out`` were never asked for (-m, -k)."""
    note = f" ({left_out} left out by the choice of tests.)" if left_out else ""
    if not skipped:
        return [f"Nothing was skipped.{note}"]
    count = sum(map(len, skipped.values()))
    verdict = " ARCBACKUPD_TEST_REQUIRE=all allows none." if required("all") else ""
    lines = [f"Skipped: {count}.{note}{verdict}"]
    for reason, tests in skipped.items():
        lines += [f"  {reason}", *(f"    {test}" for test in tests)]
    return lines
