"""arcbackupctl restore, rollback and discard-replaced: what is shown, asked, carried out, and how it is left."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.ctl import following, render_restore, render_status
from arcbackupd.ctl import main as ctl
from arcbackupd.ctl.render import Screen
from arcbackupd.errors import Busy, Refused
from tests.unit.control_service import (
    RESTORE,
    Running,
    SmallService,
    backup_row,
    refusal,
    replaced_row,
    restore_plan,
    restore_report,
    serving,
    status_reply,
)
from tests.unit.test_ctl_main import Said, Terminal, completed, on_terminal

NAME = backup_row(1)["name"]
SECOND = backup_row(2)["name"]
SCREEN = Screen(datetime(2026, 1, 2, 13, 31, tzinfo=UTC), 10_000, lambda text, _: text)
Run = Callable[..., Said]


@pytest.fixture(name="environment", autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client finds its socket by the environment, and no colours are forced on it."""
    monkeypatch.setenv("ARCBACKUPD_SOCKET", str(tmp_path / "s"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(name="running")
def _running(tmp_path: Path) -> Iterator[Running]:
    """A daemon whose service the test may change."""
    with serving(tmp_path / "s") as running:
        yield running


@pytest.fixture(name="run")
def _run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the client in this process, on a pipe."""

    def run(*arguments: str) -> Said:
        capfd.readouterr()
        status = ctl.main(arguments)
        return Said(status, *capfd.readouterr())

    return run


def restores(running: Running) -> list[dict[str, Any]]:
    """Return the parameters of the restores that were begun."""
    return [call.parameters.model_dump(exclude_none=True) for call in running.service.begun]


# Without a terminal


def test_a_restore_by_name_with_yes_is_carried_out_and_tells_how_it_ended(running: Running, run: Run) -> None:
    said = run("restore", NAME, "--yes")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"Restore {NAME}, in place of all that is in the database arcsecond_docker.\n")
    assert said.out.endswith(
        f"Loading the backup\nRestored {NAME} into arcsecond_docker.\nServices were down for 8.2 s.\n"
        "What was there before is in the backup pre-restore-20260102-123100.sql.gz.\n"
        "To bring it back: arcbackupctl rollback. It is kept until 2026-01-03 12:31:00 UTC.\n"
    )
    assert restores(running) == [{"name": NAME}]


def test_the_options_reach_the_plan_and_the_restore(running: Running, run: Run) -> None:
    options = ["--force", "--no-safety-backup", "--in-place", "--create-missing-roles"]
    assert run("restore", NAME, "--yes", *options).status == 0
    how = {"force": True, "safety_backup": False, "in_place": True, "create_missing_roles": True}
    planned, begun = (call.parameters.model_dump() for call in running.service.calls)
    assert planned == begun == {"name": NAME, **how}


@pytest.mark.parametrize("options", [[], ["--yes"], ["--json"], ["--yes", "--json"]])
@pytest.mark.parametrize("reference", ["1", "latest", NAME[:-1]])
def test_without_a_terminal_a_backup_is_named_in_full_and_told_how(
    running: Running, run: Run, reference: str, options: list[str]
) -> None:
    said = run("restore", reference, *options)
    error = said.json["error"]["message"] + said.json["error"]["hint"] if "--json" in options else said.err
    assert said.status == 4
    assert f"{reference} means {NAME} now" in error
    assert f"arcbackupctl restore {NAME} --yes" in error
    assert restores(running) == []


def test_without_a_terminal_a_restore_needs_yes(running: Running, run: Run) -> None:
    said = run("restore", NAME)
    assert said.status == 4
    assert "--yes" in said.err
    assert run("restore", NAME, "--json").json["error"]["code"] == "confirmation-needed"
    assert run("rollback").status == 4
    assert run("rollback", "--json").json["error"]["code"] == "confirmation-needed"
    assert restores(running) == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["--yes"], ["--dry-run"], ["--json"], ["--attach", NAME], ["--attach", "--yes"], ["--attach", "--force"]],
)
def test_to_name_no_backup_without_a_terminal_is_wrong_usage_and_attach_stands_alone(
    running: Running, run: Run, arguments: list[str]
) -> None:
    assert run("restore", *arguments).status == 2
    assert running.service.calls == []


def test_a_dry_run_prints_every_command_and_touches_nothing(running: Running, run: Run) -> None:
    said = run("restore", "latest", "--dry-run")
    assert said.status == 0
    assert "  1. Load the backup beside the database\n     $ psql -X -v 'A=1'\n" in said.out
    assert "  2. Swap the two\n     $ psql -c 'ALTER DATABASE a RENAME TO b'\n" in said.out
    assert said.out.endswith("Nothing was touched.\n")
    assert run("restore", "latest", "--dry-run", "--json").json == running.service.planned
    assert run("rollback", "--dry-run", "--json").json == running.service.planned
    assert restores(running) == []


def test_the_plan_tells_what_comes_back_what_the_backend_adds_and_what_to_know() -> None:
    text = render_restore.plan(restore_plan(), SCREEN)
    for told in (
        "Taken      2026-01-02 12:00:00 UTC (1 h ago)",
        "Status     older snapshot",
        f"Restore {NAME}, in place of all that is in the database arcsecond_docker.",
        "stop for a short while",
        "The backend will apply 1 migration by itself to what comes back:\n  + targets.0002_more",
        "warning: The password in .env was not tried.",
    ):
        assert told in text
    in_place = render_restore.plan(restore_plan(in_place=True), SCREEN)
    assert "without a second copy" in in_place
    assert "stop for as long as the loading takes" in in_place
    rollback = render_restore.plan(restore_plan(kind="rollback", name=None, status=None, migrations=[]), SCREEN)
    assert "Roll back: the database arcsecond_docker becomes again what the last restore replaced." in rollback
    assert "None" not in rollback
    assert "Status" not in rollback


# Refusals


def test_a_refusal_ends_it_with_4_what_to_do_and_whether_force_helps(running: Running, run: Run) -> None:
    running.service.planned = restore_plan(refusals=[refusal()])
    said = run("restore", NAME, "--yes")
    assert said.status == 4
    assert "The code lacks a migration. Nothing was touched." in said.err
    assert "hint: Upgrade. --force overrides this." in said.err
    error = run("restore", NAME, "--yes", "--json").json["error"]
    assert (error["code"], error["hint"]) == ("incompatible", "Upgrade. --force overrides this.")
    assert restores(running) == []


def test_force_overrides_what_it_may_and_says_so(running: Running, run: Run) -> None:
    running.service.planned = restore_plan(refusals=[refusal()])
    said = run("restore", NAME, "--yes", "--force")
    assert said.status == 0
    assert "warning: The code lacks a migration. --force overrides this." in said.out
    assert restores(running) == [{"name": NAME, "force": True}]


def test_force_does_not_override_everything(running: Running, run: Run) -> None:
    full = refusal(code="disk-full", message="No room.", hint="Try --in-place.", forced=False)
    running.service.planned = restore_plan(refusals=[full, refusal()])
    said = run("restore", NAME, "--yes", "--force", "--json")
    assert said.status == 4
    assert said.json["error"] == {
        "code": "disk-full", "message": "No room. Nothing was touched.", "hint": "Try --in-place.",
    }  # fmt: skip
    assert "--force overrides" not in run("restore", NAME, "--yes", "--force").err.replace("Try --in-place.", "")
    message = run("restore", NAME, "--yes", "--json").json["error"]["message"]
    assert message == "No room. The code lacks a migration. Nothing was touched."
    assert restores(running) == []


def test_a_dry_run_shows_refusals_and_ends_with_4(running: Running, run: Run) -> None:
    running.service.planned = restore_plan(refusals=[refusal(hint="Upgrade, or say --force.")])
    said = run("restore", NAME, "--dry-run")
    assert (said.status, said.err) == (4, "")
    assert "refused: The code lacks a migration.\n  hint: Upgrade, or say --force.\n" in said.out
    said = run("restore", NAME, "--dry-run", "--json")
    assert (said.status, said.json) == (4, running.service.planned)
    assert run("restore", NAME, "--dry-run", "--force").status == 0


@pytest.mark.parametrize(
    ("error", "status"), [(Busy("busy", "A rollback runs."), 6), (Refused("not-permitted", "Not you."), 4)]
)
def test_what_the_daemon_answers_is_the_exit_status(
    running: Running, run: Run, error: Exception, status: int
) -> None:
    running.service.error = error
    assert run("restore", NAME, "--yes").status == status
    assert run("rollback", "--yes", "--json").status == status


# How it ended


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({}, 0, f"Restored {NAME} into arcsecond_docker."),
        ({"keep_until": None}, 0, "It is kept until you say: arcbackupctl discard-replaced."),
        (
            {"kind": "rollback", "outcome": "rolled-back", "name": None},
            0,
            "Rolled back: arcsecond_docker is again what was replaced before.",
        ),
        (
            {"problem": "The web server did not start.", "hint": "Look."},
            1,
            "problem: The web server did not start.",
        ),
        ({"outcome": "undone", "problem": "No room."}, 1, "Not restored: arcsecond_docker is what it was before."),
        ({"outcome": "undone", "kind": "rollback"}, 1, "Not rolled back: arcsecond_docker is what it was before."),
        ({"outcome": "unfinished", "problem": "x", "hint": "Wait."}, 1, "problem: x\n  hint: Wait."),
        ({"outcome": "new", "name": "b"}, 1, "new: b"),
    ],
)
def test_every_end_is_a_sentence_and_an_exit_status(
    running: Running, run: Run, changes: dict[str, Any], status: int, told: str
) -> None:
    running.service.report = restore_report(**changes)
    said = run("restore", NAME, "--yes")
    assert said.status == status
    assert told in said.out
    said = run("restore", NAME, "--yes", "--json")
    assert (said.status, said.json, said.err) == (status, running.service.report, "")


def test_a_restore_that_was_undone_says_nothing_of_a_rollback() -> None:
    text = render_restore.report(restore_report(outcome="undone"), SCREEN)
    assert "rollback" not in text
    assert "pre-restore" not in text


def test_an_end_that_the_daemon_does_not_tell_is_a_failure_with_a_hint(running: Running, run: Run) -> None:
    running.service.report = None
    said = run("restore", NAME, "--yes")
    assert said.status == 1
    assert "doesn't tell how" in said.err
    assert "arcbackupctl status" in said.err


# On a terminal


@pytest.mark.parametrize(("choice", "name"), [("2", SECOND), (SECOND, SECOND), ("latest", "latest")])
def test_the_picker_shows_the_list_and_takes_a_number_or_a_name(running: Running, choice: str, name: str) -> None:
    running.service.planned = restore_plan(name=SECOND)
    with on_terminal("restore") as terminal:
        terminal.read_until("nothing to leave:")
        assert NAME in terminal.text
        # The number means what was shown, whatever came meanwhile.
        running.service.rows.insert(0, backup_row(1, name="backup-20260103-000000.sql.gz"))
        terminal.type(f"{choice}\n")
        terminal.read_until("type the backup's file name:")
        assert f"Restore {SECOND}, in place of" in terminal.text
        terminal.type(f"{SECOND}\n")
        assert terminal.end() == 0
    assert [call.parameters.name for call in running.service.calls[1:]] == [name, SECOND]


@pytest.mark.parametrize(("choice", "status"), [("\n", 4), ("9\n", 3), ("\x04", 130)])
def test_to_choose_nothing_does_nothing(running: Running, choice: str, status: int) -> None:
    with on_terminal("restore") as terminal:
        terminal.read_until("nothing to leave:")
        terminal.type(choice)
        assert terminal.end() == status
    assert len(running.service.calls) == 1


def test_where_there_is_no_backup_there_is_nothing_to_pick(running: Running) -> None:
    running.service.rows = []
    with on_terminal("restore") as terminal:
        assert terminal.end() == 3
    assert "No backups yet" in terminal.text


@pytest.mark.parametrize(
    ("command", "name"), [(["restore", "1"], NAME), (["rollback"], "arcsecond_docker")], ids=["restore", "rollback"]
)
@pytest.mark.parametrize("typed", ["{}", "", "y", "yes", "{} ", "{}x"])
def test_only_the_name_itself_confirms_it(running: Running, command: list[str], name: str, typed: str) -> None:
    with on_terminal(*command) as terminal:
        terminal.read_until("name:")
        terminal.type(typed.format(name) + "\n")
        right = typed == "{}"
        assert terminal.end() == (0 if right else 4)
    assert len(restores(running)) == int(right)
    assert ("Nothing was done" in terminal.text) != right


def test_yes_asks_nothing_and_takes_names_only_on_a_terminal_too(running: Running) -> None:
    with on_terminal("restore", NAME, "--yes") as terminal:
        assert terminal.end() == 0
    assert "1.0 kB, 50 B/s, public.t1, 25 %, about 1 min 00 s left" in terminal.text
    with on_terminal("restore", "1", "--yes") as terminal:
        assert terminal.end() == 4
    assert len(restores(running)) == 1


# Ctrl-C


@pytest.mark.parametrize("command", [["restore", NAME, "--yes"], ["rollback", "--yes"]])
def test_ctrl_c_has_the_daemon_undo_it_and_follows_it_to_the_end(tmp_path: Path, command: list[str]) -> None:
    service = SmallService(hold=threading.Event(), status_is=status_reply(operation=RESTORE))
    with serving(tmp_path / "s", service), on_terminal(*command) as terminal:
        terminal.read_until("Loading the backup")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 1
    assert service.cancelled == ["op-7"]
    assert "told to undo it, or to finish if it has come too far; waiting" in terminal.text
    assert "Not restored: arcsecond_docker is what it was before." in terminal.text


class Stubborn(SmallService):
    """Takes note of a cancellation, and goes on."""

    async def cancel(self, call: Any) -> Any:
        self.cancelled.append(call.parameters.operation)
        return {"operation": RESTORE}


def test_a_second_ctrl_c_only_leaves(tmp_path: Path) -> None:
    service = Stubborn(hold=threading.Event())
    with serving(tmp_path / "s", service), on_terminal("restore", NAME, "--yes") as terminal:
        terminal.read_until("Loading the backup")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("waiting for that")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert service.cancelled == ["op-7"]
    assert "The daemon goes on without being watched. To see it: arcbackupctl restore --attach" in terminal.text
    assert "Traceback" not in terminal.text


def test_ctrl_c_leaves_a_dump_alone_that_a_rollback_waits_for(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event(), status_is=status_reply(operation=RESTORE | {"kind": "dump"}))
    with serving(tmp_path / "s", service), on_terminal("rollback", "--yes") as terminal:
        terminal.read_until("Loading the backup")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("can't be told to undo it: It has not begun yet.")
        assert service.cancelled == []


def test_ctrl_c_is_the_shells_again_after_a_restore(running: Running, run: Run) -> None:
    before = signal.getsignal(signal.SIGINT)
    run("restore", NAME, "--yes")
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_meant_for_somebody_else_a_restore_leaves_it_ignored(tmp_path: Path, run: Run) -> None:
    handlers = []

    class Looking(SmallService):
        async def restore(self, call: Any) -> Any:
            handlers.append(signal.getsignal(signal.SIGINT))
            return await super().restore(call)

    with serving(tmp_path / "s", Looking()):
        run("restore", NAME, "--yes")
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        run("restore", NAME, "--yes")
        signal.signal(signal.SIGINT, before)
    assert handlers[0] not in (before, signal.SIG_IGN)
    assert handlers[1] is signal.SIG_IGN


# A daemon that goes away


@contextmanager
def losing_the_daemon(path: Path) -> Iterator[Terminal]:
    """Run a client on a terminal whose daemon has just gone away in the middle."""
    with ExitStack() as client:
        with serving(path, SmallService(hold=threading.Event())) as running:
            terminal = client.enter_context(on_terminal("restore", NAME, "--yes"))
            terminal.read_until("Loading the backup")
            running.run(running.server.stop(0))
        terminal.read_until("Waiting up to 10 s for it to come back.")
        yield terminal


def test_a_daemon_that_comes_back_is_followed_again_to_the_end(tmp_path: Path) -> None:
    again = SmallService()
    with losing_the_daemon(tmp_path / "s") as terminal, serving(tmp_path / "s", again):
        assert terminal.end() == 0
    assert [getattr(call.parameters, "operation", None) for call in again.calls] == [None, "op-7"]
    assert again.begun == []
    assert "The daemon is back." in terminal.text
    assert f"Restored {NAME} into arcsecond_docker." in terminal.text


def test_a_restore_that_the_daemons_next_start_undid_is_a_failure(tmp_path: Path) -> None:
    again = SmallService(report=restore_report(outcome="undone", problem="The daemon was killed.", hint="Again."))
    with losing_the_daemon(tmp_path / "s") as terminal, serving(tmp_path / "s", again):
        assert terminal.end() == 1
    assert "problem: The daemon was killed.\r\n  hint: Again." in terminal.text


def test_ctrl_c_twice_does_not_wait_for_a_daemon_that_is_away(tmp_path: Path) -> None:
    with losing_the_daemon(tmp_path / "s") as terminal:
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("The daemon can't be told to undo it")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130


@dataclass
class Dying(SmallService):
    """Its daemon goes away in the middle of a restore, or before it has said anything of it."""

    silent: bool = False
    die: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def restore(self, call: Any) -> Any:
        if not self.silent:
            await call.send({"operation": "op-7"})
        assert self.die is not None
        await asyncio.wait([asyncio.ensure_future(self.die())])


@contextmanager
def dying(path: Path, then: Callable[[], object] = lambda: None, *, silent: bool = False) -> Iterator[Running]:
    """Serve until a restore is asked for; do something ``then``."""
    service = Dying(silent=silent)
    with serving(path, service) as running:

        async def die() -> None:
            await running.server.stop(0)
            then()

        service.die = die
        yield running


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_daemon_that_stays_away_is_5_and_its_next_start_settles_it(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(following, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(following, "_PAUSE_SECONDS", 0.05)
    with dying(tmp_path / "s"):
        said = run("restore", NAME, "--yes", *options)
    assert said.status == 5
    told = said.json["error"]["message"] if options else said.err
    assert "it finishes what was begun or undoes it" in told
    assert "The daemon went away during the call Restore. Waiting" in said.err


def test_where_systemd_listens_for_a_daemon_that_does_not_start_it_is_not_waited_for_longer(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_PATIENCE_SECONDS", 0.3)
    with socket.socket(socket.AF_UNIX) as systemd:

        def listen() -> None:
            systemd.bind(str(tmp_path / "s"))
            systemd.listen()

        with dying(tmp_path / "s", listen):
            begun = time.monotonic()
            assert run("restore", NAME, "--yes").status == 5
            assert time.monotonic() - begun < 5
        systemd.setblocking(False)
        systemd.accept()[0].close()  # it was dialled


def test_a_daemon_that_dies_before_it_has_begun_is_told_as_that(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as second, dying(tmp_path / "s", silent=True) as first:
        real = following.Following._found_again

        def found_again(self: following.Following) -> Any:
            second.enter_context(serving(tmp_path / "s"))
            return real(self)

        monkeypatch.setattr(following.Following, "_found_again", found_again)
        said = run("restore", NAME, "--yes")
        assert first.server.stopping
    assert said.status == 1
    assert "before it said that it had begun" in said.err


# Attach


@pytest.mark.parametrize("kind", ["restore", "rollback"])
def test_attach_follows_the_restore_that_runs_to_its_end(running: Running, run: Run, kind: str) -> None:
    running.service.status_is = status_reply(operation=RESTORE | {"kind": kind})
    said = run("restore", "--attach")
    assert said.status == 0
    assert said.out.startswith(f"Loading the backup\nRestored {NAME} into arcsecond_docker.\n")
    assert run("restore", "--attach", "--json").json == running.service.report
    assert restores(running) == []


@pytest.mark.parametrize("operation", [None, RESTORE | {"kind": "dump"}])
def test_attach_tells_how_the_last_one_ended_when_none_runs(
    running: Running, run: Run, operation: dict[str, Any] | None
) -> None:
    report = restore_report(outcome="undone", problem="No room.")
    running.service.status_is = status_reply(operation=operation, restore=report)
    said = run("restore", "--attach")
    assert said.status == 1
    assert said.out.startswith("No restore runs now. How the last one ended:\nNot restored: ")
    assert run("restore", "--attach", "--json").json == report


def test_attach_says_when_no_restore_ever_ran(running: Running, run: Run) -> None:
    said = run("restore", "--attach")
    assert (said.status, said.out) == (1, "")
    assert "No restore runs, and none is known to have run." in said.err


def test_ctrl_c_cancels_the_restore_that_is_attached_to(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event(), status_is=status_reply(operation=RESTORE))
    with serving(tmp_path / "s", service), on_terminal("restore", "--attach") as terminal:
        terminal.read_until("Loading the backup")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 1
    assert service.cancelled == ["op-7"]


# What is kept


def test_discarding_shows_what_would_go_and_asks(running: Running) -> None:
    running.service.status_is = status_reply(replaced=[replaced_row(snapshot=None, problem="pg_dump failed.")])
    with on_terminal("discard-replaced") as terminal:
        terminal.read_until("Drop what is kept, for good? [y/N]:")
        assert "No backup holds the same." in terminal.text
        assert "problem: pg_dump failed." in terminal.text
        terminal.type("n\n")
        assert terminal.end() == 4
    assert len(running.service.calls) == 1
    with on_terminal("discard-replaced") as terminal:
        terminal.read_until("Drop what is kept, for good? [y/N]:")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert "Discarded arcsecond_docker_replaced." in terminal.text


def test_discarding_needs_yes_without_a_terminal_unless_there_is_nothing(running: Running, run: Run) -> None:
    said = run("discard-replaced")
    assert (said.status, said.out) == (0, "No replaced database is kept: there is nothing to discard.\n")
    running.service.status_is = status_reply(replaced=[replaced_row()])
    assert run("discard-replaced").status == 4
    assert run("discard-replaced", "--json").json["error"]["code"] == "confirmation-needed"
    assert run("discard-replaced", "--yes").out == "Discarded arcsecond_docker_replaced.\n"
    assert run("discard-replaced", "--yes", "--json").json == {"discarded": ["arcsecond_docker_replaced"]}


def test_status_tells_of_a_restore_that_runs_one_that_failed_and_what_is_kept() -> None:
    event = {"type": "progress", "bytes": 1000, "total_bytes": 4000, "elapsed_s": 20.0}
    failed = restore_report(outcome="undone", problem="No room.", hint="Make room.")
    kept = [
        replaced_row(),
        replaced_row(database="older", keep_until=None, snapshot=None, problem="pg_dump failed."),
    ]
    reply = status_reply(operation=RESTORE | {"event": event}, restore=failed, replaced=kept)
    text = render_status.status(reply, SCREEN)
    assert (
        "Running now: restore (running, since 2026-01-02 12:30:00 UTC): "
        "1.0 kB, 50 B/s, 25 %, about 1 min 00 s left\n"
        "To follow it: arcbackupctl restore --attach\n\n"
        "The last restore, 1 h ago: Not restored: arcsecond_docker is what it was before.\n"
        "problem: No room.\n"
        "  hint: Make room.\n\n"
        "Kept for arcbackupctl rollback: arcsecond_docker_replaced, replaced 1 h ago, "
        "until 2026-01-03 12:31:00 UTC.\n"
        "  The backup pre-restore-20260102-123100.sql.gz holds the same.\n"
        "Kept for arcbackupctl rollback: older, replaced 1 h ago, until it is discarded by hand.\n"
        "  No backup holds the same.\n"
        "  problem: pg_dump failed.\n\n"
    ) in text


def test_status_says_nothing_of_restores_that_went_well_or_that_the_daemon_does_not_know() -> None:
    silent = status_reply()
    well = render_status.status(status_reply(restore=restore_report()), SCREEN)
    assert well == render_status.status(silent, SCREEN)
    del silent["restore"], silent["replaced"]
    assert well == render_status.status(silent, SCREEN)


# Completion


def test_only_whole_names_are_completed_for_a_restore(running: Running) -> None:
    assert completed("arcbackupctl restore ", 2) == [NAME, SECOND]
    assert "latest" not in completed("arcbackupctl restore l", 2)
