"""Stacks of real containers, shared by the session's tests: each test gets one as if new, but for its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.e2e.restoring import Quick, quick_stack
from tests.harness import images
from tests.harness.engine import Engine, EngineUnavailable
from tests.harness.stack import ArcsecondStack
from tests.require import require

SEEDED_ROWS = 20_000


@pytest.fixture(scope="session")
def stack_of(docker_engine: Engine) -> Iterator[Callable[[int], ArcsecondStack]]:
    """Return what gives the session's stack with a major of PostgreSQL."""
    with ExitStack() as running:

        @cache
        def started(major: int) -> ArcsecondStack:
            try:
                images.postgres(docker_engine, major)
                images.backend(docker_engine)
            except EngineUnavailable as error:
                require("docker", str(error))
            stack = running.enter_context(ArcsecondStack(docker_engine, major))
            stack.seed(SEEDED_ROWS)
            return stack

        yield started


@pytest.fixture(params=images.MAJORS, ids=lambda major: f"postgres{major}")
def stack(request: pytest.FixtureRequest, stack_of: Callable[[int], ArcsecondStack]) -> ArcsecondStack:
    """Return a stack of each major in turn, running, without backups and without the daemon's memory."""
    return tidied(stack_of(request.param))


@pytest.fixture
def stack16(stack_of: Callable[[int], ArcsecondStack]) -> ArcsecondStack:
    """Return such a stack of the major that Arcsecond has."""
    return tidied(stack_of(16))


def tidied(stack: ArcsecondStack) -> ArcsecondStack:
    """Put right what a test, perhaps a failed one, changed on a stack."""
    for path in (stack.backups, stack.state_dir):
        shutil.rmtree(path, ignore_errors=True)
    stack.write_env()
    if not stack.state(stack.database)["Running"]:
        stack.start_container(stack.database)
        stack.wait_database()
    if stack.backend in stack.services and not stack.state(stack.backend)["Running"]:
        stack.start_container(stack.backend)
        stack.wait_backend()
    return stack


@pytest.fixture(scope="session")
def _quick_stack(docker_engine: Engine) -> Iterator[Quick]:
    try:
        with quick_stack(docker_engine) as quick:
            yield quick
    except EngineUnavailable as error:
        require("docker", str(error))


@pytest.fixture
def quick(_quick_stack: Quick) -> Quick:
    """Return the session's quick stack as new: see tests/e2e/restoring.py."""
    return _quick_stack.reset()
