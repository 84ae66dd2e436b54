"""A restore that is killed at any step, in any way: the next start finishes it or undoes it, and says which.

The cases are made from the plan itself, so that a step that is added is covered. The daemon that dies is
tests/harness/dying.py: the real one, which kills itself before or after a step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arcbackupd.errors import DaemonUnreachable
from arcbackupd.operations.restore.journal import REPLACED_PREFIX, Journal
from arcbackupd.operations.restore.run import plan
from arcbackupd.operations.restore.work import RestoreStep, Work
from arcbackupd.postgres.databases import Properties
from tests.e2e.restoring import BY_HAND, NEW, SECONDS, Quick, call, inserted
from tests.e2e.support import fingerprint, wait_for_no_process
from tests.harness.daemon import Daemon
from tests.harness.dying import VARIABLE
from tests.harness.process import wait_until

ROOT = Path(__file__).parents[2]

LIVE = Properties(
    oid=1, datname="live", owner="o", encoding_name="UTF8", datcollate="C", datctype="C", tablespace="pg_default",
    datconnlimit=-1, datistemplate=False, datallowconn=True,
)  # fmt: skip


def _steps(kind: str, *, in_place: bool = False) -> list[RestoreStep]:
    """Return the steps of a plan, as the product makes it."""
    journal = Journal(
        operation="1", kind=cast(Any, kind), backup=NEW, database="live", live=LIVE, incoming="incoming",
        replaced_as=None if in_place else "replaced", safety_backup=True,
    )  # fmt: skip
    return plan(cast(Work, SimpleNamespace(journal=journal)))


def _places(kind: str, no_return: str, *, in_place: bool = False) -> list[Any]:
    """Return each place to die at: before and after every step, and whether the way from there is back or on."""
    names = [step.name for step in _steps(kind, in_place=in_place)]
    last = names.index(no_return)
    return [
        pytest.param(f"{when}:{name}", number > last or (number == last and when == "after"), id=f"{when}-{name}")
        for number, name in enumerate(names)
        for when in ("before", "after")
    ]


STAGED = _places("restore", "swap")
IN_PLACE = _places("restore", "drop", in_place=True)
ROLLBACK = _places("rollback", "swap")
UNDOABLE = [step.name for step in _steps("restore") if type(step).undo is not RestoreStep.undo]


class DyingDaemon(Daemon):
    """The real daemon, run by what lets it die."""

    module = "tests.harness.dying"


class Mortal:
    """A daemon on the quick stack that dies where it is told to."""

    def __init__(self, quick: Quick, daemon: Daemon) -> None:
        self.quick = quick
        self.daemon = daemon

    def dies(self, *places: str) -> None:
        """Let it die as it has come through these places."""
        place(self.quick).write_text("\n".join(places), encoding="ascii")

    def killed_in(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call, see it die on the way, and return the journal that it leaves."""
        with pytest.raises(DaemonUnreachable):
            call(self.daemon, method, **parameters)
        return self.dead()

    def dead(self) -> dict[str, Any]:
        """Wait for its end, and return the journal that it leaves."""
        assert self.daemon.wait(SECONDS) == -9
        assert not place(self.quick).exists()
        return dict(json.loads(self.quick.journal.read_text(encoding="utf-8")))

    def taken_up(self, journal: dict[str, Any]) -> dict[str, Any]:
        """Start it again, wait until it has finished or undone what it finds, and return its report."""
        self.daemon.start()

        def report() -> dict[str, Any] | None:
            self.daemon.require_running()
            status = call(self.daemon, "Status")
            last = status["restore"]
            mine = last and last["operation"] == journal["operation"] and last["outcome"] != "unfinished"
            return dict(last) if mine and status["operation"] is None else None

        ended = wait_until(report, f"the end of the {journal['kind']}", seconds=SECONDS)
        assert ended is not None
        return ended

    def assert_is(self, new: bool, report: dict[str, Any], *, done: str = "restored") -> None:
        """See that the live database is wholly the one or the other, that all is well, and that the log says it."""
        quick = self.quick
        assert fingerprint(quick.stack) == (quick.new if new else quick.old)
        assert report["outcome"] == (done if new else "undone")
        if not new:
            assert report["problem"].endswith(f"{quick.stack.db} is what it was before.")
        said = report["problem"] or {"restored": "Restored ", "rolled-back": "Rolled back "}[done]
        assert len(self.daemon.log_lines(said)) == 1
        assert quick.stack.state(quick.service)["Running"]
        quick.assert_tidy(self.daemon)


def place(quick: Quick) -> Path:
    """Return the file that says where to die."""
    return quick.stack.directory / "dying-at"


@contextmanager
def mortal_on(quick: Quick) -> Iterator[Mortal]:
    """Run such a daemon."""
    place(quick).unlink(missing_ok=True)
    environment = {VARIABLE: str(place(quick)), "PYTHONPATH": str(ROOT)}
    with DyingDaemon(quick.stack, environment=environment, jobs=BY_HAND) as daemon:
        yield Mortal(quick, daemon)


@pytest.fixture
def mortal(quick: Quick) -> Iterator[Mortal]:
    """Return a daemon that dies where it is told to, on the quick stack."""
    with mortal_on(quick) as mortal:
        yield mortal


# Before and after every step


@pytest.mark.parametrize(("where", "new"), STAGED)
def test_a_restore_killed_at_a_step(mortal: Mortal, where: str, new: bool) -> None:
    """Killed anywhere, a restore is undone up to the swap and finished from there on, with nothing left over."""
    mortal.dies(where)
    journal = mortal.killed_in("Restore", name=NEW, safety_backup=False)
    mortal.assert_is(new, mortal.taken_up(journal))


@pytest.mark.parametrize(("where", "new"), IN_PLACE)
def test_a_restore_in_place_killed_at_a_step(mortal: Mortal, where: str, new: bool) -> None:
    """Killed anywhere, a restore in place is undone up to the drop and finished from there on."""
    mortal.dies(where)
    journal = mortal.killed_in("Restore", name=NEW, in_place=True)
    mortal.assert_is(new, mortal.taken_up(journal))


@pytest.mark.parametrize(("where", "new"), ROLLBACK)
def test_a_rollback_killed_at_a_step(quick: Quick, where: str, new: bool) -> None:
    """Killed anywhere, a rollback is undone up to the swap and finished from there on; nothing is lost."""
    replaced = f"{REPLACED_PREFIX}20260101_000000_abcdef"
    quick.stack.psql(f"CREATE DATABASE {replaced} TEMPLATE state_new", "postgres")
    with mortal_on(quick) as mortal:
        wait_until(lambda: call(mortal.daemon, "Status")["replaced"], "it to be found", seconds=SECONDS)
        mortal.dies(where)
        report = mortal.taken_up(mortal.killed_in("Rollback"))
        mortal.assert_is(new, report, done="rolled-back")
        assert len(quick.databases()) == 1
        assert (replaced in quick.databases()) is not new


# Other ends


def test_a_crash_between_closing_and_swap_opens_the_database_again(mortal: Mortal) -> None:
    """Killed while the live database takes no connections, the next start lets everybody in again."""
    mortal.dies("before:swap")
    journal = mortal.killed_in("Restore", name=NEW)
    stack = mortal.quick.stack
    allowed = f"SELECT datallowconn FROM pg_database WHERE datname = '{stack.db}'"
    assert stack.psql(allowed, "postgres") == "f"
    assert not stack.state(mortal.quick.service)["Running"]
    mortal.assert_is(False, mortal.taken_up(journal))
    assert stack.psql(allowed, "postgres") == "t"


@pytest.mark.parametrize("step", UNDOABLE)
def test_a_restore_killed_while_it_is_undone(mortal: Mortal, step: str) -> None:
    """Killed once more after any step was undone, the start after that undoes the rest."""
    mortal.dies("before:swap")
    journal = mortal.killed_in("Restore", name=NEW)
    mortal.dies(f"undone:{step}")
    mortal.daemon.start()
    assert mortal.dead()["operation"] == journal["operation"]
    mortal.assert_is(False, mortal.taken_up(journal))


def test_a_restore_killed_again_while_it_is_finished(mortal: Mortal) -> None:
    """Killed after the swap, and again by the start that finishes it, the start after that finishes it."""
    mortal.dies("after:swap")
    journal = mortal.killed_in("Restore", name=NEW, safety_backup=False)
    mortal.dies("before:start")
    mortal.daemon.start()
    mortal.dead()
    mortal.assert_is(True, mortal.taken_up(journal))


@pytest.mark.parametrize("where", ["after:drop", "before:create", "before:swap"])
def test_a_crash_while_the_snapshot_is_put_back(mortal: Mortal, where: str) -> None:
    """Killed as the snapshot of a failed restore in place is put back, or before, the next start puts it back."""
    name = mortal.quick.drop_in(inserted(mortal.quick.sql, "SELECT no_such_column;\n"))
    mortal.dies(*(["before:create"] if where == "before:create" else []), where)
    journal = mortal.killed_in("Restore", name=name, in_place=True)
    report = mortal.taken_up(journal)
    assert fingerprint(mortal.quick.stack) == mortal.quick.old
    assert report["outcome"] == "undone"
    assert f"was put back from {report['snapshot']}." in report["problem"]
    assert mortal.quick.stack.state(mortal.quick.service)["Running"]
    mortal.quick.assert_tidy(mortal.daemon)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_daemon_killed_in_the_middle_of_a_load(mortal: Mortal, in_place: bool) -> None:
    """Killed while psql loads, a restore is undone, in place it is loaded anew; the psql of before is gone."""
    quick, daemon = mortal.quick, mortal.daemon
    name = quick.drop_in_held()
    with quick.held():
        call(daemon, "PlanRestore", name=name)
        with daemon.client("restore", name, "--yes", *(["--in-place"] if in_place else [])):
            quick.wait_held()
            daemon.kill()
        journal = json.loads(quick.journal.read_text(encoding="utf-8"))
        if in_place:
            quick.let_go()
        report = mortal.taken_up(journal)
    wait_for_no_process(quick.stack, "psql", seconds=SECONDS)
    mortal.assert_is(in_place, report)


def test_the_database_container_killed_in_the_middle_of_a_load(mortal: Mortal) -> None:
    """When the server dies while it loads, the restore fails; as soon as the server is back all is as before."""
    quick, stack = mortal.quick, mortal.quick.stack
    name = quick.drop_in_held()
    started_at = quick.started_at()
    with quick.held(), mortal.daemon.client("restore", name, "--yes") as client:
        quick.wait_held()
        stack.kill_container(stack.database)
        stack.start_container(stack.database)
        stack.wait_database()
        said, _ = client.communicate(timeout=SECONDS)
        assert client.returncode == 1, said
        assert f"{stack.db} is what it was before." in said
    mortal.assert_is(False, call(mortal.daemon, "Status")["restore"])
    assert quick.started_at() == started_at


def test_the_database_container_killed_in_the_middle_of_a_load_in_place(mortal: Mortal) -> None:
    """When the server dies while it loads in place, the safety backup is put back as soon as it is up again."""
    quick, stack = mortal.quick, mortal.quick.stack
    name = quick.drop_in_held()
    with quick.held(), mortal.daemon.client("restore", name, "--yes", "--in-place") as client:
        quick.wait_held()
        stack.kill_container(stack.database)
        stack.start_container(stack.database)
        said, _ = client.communicate(timeout=SECONDS)
    assert client.returncode == 1, said
    assert "was put back from pre-restore-" in said
    assert fingerprint(stack) == quick.old
    assert stack.state(quick.service)["Running"]
    quick.assert_tidy(mortal.daemon)
