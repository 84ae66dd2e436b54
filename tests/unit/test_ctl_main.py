"""arcbackupctl as it is used: exit statuses, JSON, what is asked, and what is said when something is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from arcbackupd import __version__
from arcbackupd.control import dispatch
from arcbackupd.ctl import main as ctl
from arcbackupd.ctl.session import Session
from arcbackupd.ctl.watching import fitting
from arcbackupd.errors import KINDS, ArcbackupdError, DaemonUnreachable, Refused
from tests.unit.control_service import (
    Busybody,
    Failing,
    Running,
    SmallService,
    backup_row,
    inspection_row,
    replaced_row,
    restore_plan,
    restore_report,
    serving,
    status_reply,
)

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["list"],
    ["inspect", "1"],
    ["backup"],
    ["verify", "latest"],
    ["prune", "--yes"],
    ["prune", "--dry-run"],
    ["status"],
    ["jobs"],
    ["jobs", "list"],
    ["jobs", "run", "dump"],
    ["jobs", "pause", "dump"],
    ["jobs", "resume", "dump"],
    ["restore", backup_row()["name"], "--yes"],
    ["restore", "latest", "--dry-run"],
    ["rollback", "--yes"],
    ["rollback", "--dry-run"],
    ["discard-replaced", "--yes"],
    ["alarms"],
    ["alarms", "test"],
]
CONTRACT_ROW = [
    "name", "index", "kind", "taken_at", "size", "status", "problem", "reason", "migrations", "total_rows",
    "only_in_backup", "only_in_code", "leftover", "manifest", "before_migrations", "stored", "anomalies",
    "proved_at", "proved_in_s",
]  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client finds its socket by the environment, and no colours are forced on it."""
    monkeypatch.setenv("ARCBACKUPD_SOCKET", str(tmp_path / "s"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "_ARCBACKUPCTL_COMPLETE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A daemon whose service the test may change."""
    with serving(tmp_path / "s") as running:
        yield running


class Said:
    """What a run of the client printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the client in this process, on a pipe."""

    def run(*arguments: str) -> Said:
        capfd.readouterr()
        status = ctl.main(arguments)
        return Said(status, *capfd.readouterr())

    return run


# JSON


def test_list_prints_the_contract_and_nothing_else(running: Running, run: Callable[..., Said]) -> None:
    running.service.notice = "A paragraph."
    said = run("list", "--json")
    assert said.status == 0
    assert said.json == {"backups": running.service.rows}
    assert [list(row) for row in said.json["backups"]] == [CONTRACT_ROW, CONTRACT_ROW]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_prints_one_line_of_json_wherever_the_option_stands(
    running: Running, run: Callable[..., Said], command: list[str]
) -> None:
    first, second = run("--json", *command), run(*command, "--json")
    assert first.json == second.json
    assert first.out.count("\n") == 1
    assert (first.status, first.err) == (0, "")


def test_backup_ends_with_its_result(running: Running, run: Callable[..., Said]) -> None:
    assert run("backup", "--json").json == running.service.result


def test_not_waiting_for_a_backup_tells_the_operation(running: Running, run: Callable[..., Said]) -> None:
    assert run("backup", "--no-wait", "--json").json == {"name": None, "outcome": "queued", "operation": "op-1"}
    assert "op-1" in run("backup", "--no-wait").out


def test_inspect_gives_all_tables_and_what_verifying_has_shown(running: Running, run: Callable[..., Said]) -> None:
    said = run("inspect", "latest", "--verify", "--json")
    assert said.json == {"backup": running.service.inspected, "verified": running.service.verified}
    assert run("inspect", "latest", "--json").json["verified"] is None


# Exit statuses


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_ends_with_its_status_a_sentence_and_a_hint(
    running: Running, run: Callable[..., Said], kind: type[ArcbackupdError]
) -> None:
    running.service.error = kind("some-code", "What happened.", hint="What to do.")
    status = 1 if kind is DaemonUnreachable else kind.exit_status
    said = run("list")
    assert (said.status, said.out) == (status, "")
    assert said.err == "arcbackupctl: What happened.\n  hint: What to do.\n"
    said = run("list", "--json")
    assert (said.status, said.err) == (status, "")
    assert said.json == {"error": {"code": "some-code", "message": "What happened.", "hint": "What to do."}}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_daemon_every_command_ends_with_5_and_says_how_to_start_it(
    run: Callable[..., Said], command: list[str]
) -> None:
    said = run(*command)
    assert said.status == 5
    assert "not running" in said.err
    assert "systemctl start arcbackupd" in said.err
    assert run(*command, "--json").json["error"]["code"] == "daemon-not-running"


def test_no_such_backup_is_3_and_busy_is_6_and_a_failure_1(tmp_path: Path, run: Callable[..., Said]) -> None:
    with serving(tmp_path / "s"):
        assert run("inspect", "nothing").status == 3
    with serving(tmp_path / "s", Busybody()):
        assert run("backup").status == 6
    with serving(tmp_path / "s", Failing()):
        said = run("backup")
    assert said.status == 1
    assert said.out == "Dumping arcsecond_docker\n"


@pytest.mark.parametrize(
    "arguments", [["lost"], ["inspect"], ["list", "--no-such-option"], ["jobs", "run"], ["completion", "tcsh"]]
)
def test_wrong_usage_is_2_also_with_json(run: Callable[..., Said], arguments: list[str]) -> None:
    said = run(*arguments)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("arcbackupctl: ")
    assert "--help" in said.err
    said = run(*arguments, "--json")
    assert (said.status, said.err) == (2, "")
    assert said.json["error"]["code"] == "usage"


def test_no_command_at_all_shows_the_help_and_is_wrong_usage(run: Callable[..., Said]) -> None:
    said = run()
    assert said.status == 2
    assert "Commands:" in said.err


@pytest.mark.parametrize(
    ("state", "status"), [("ok", 0), ("warning", 1), ("critical", 2), ("unknown", 3), ("new", 3)]
)
def test_status_exits_as_a_monitoring_plugin(
    running: Running, run: Callable[..., Said], state: str, status: int
) -> None:
    running.service.status_is = status_reply(state=state)
    assert run("status").status == status
    assert run("status", "--json").status == status


def test_status_answers_first_also_when_it_cannot_be_asked(running: Running, run: Callable[..., Said]) -> None:
    running.service.error = Refused("not-permitted", "You may not.")
    said = run("status")
    assert (said.status, said.out, said.err) == (
        3,
        "It is not known whether you are safe.\n",
        "arcbackupctl: You may not.\n",
    )
    assert "error" in run("status", "--json").json


def test_status_is_unknown_when_it_is_refused_or_used_wrongly(running: Running, run: Callable[..., Said]) -> None:
    running.service.error = Refused("not-permitted", "No.")
    assert run("status").status == 3
    assert run("status", "--no-such-option").status == 3
    assert run("status", "--no-such-option", "--json").status == 3


def test_a_backup_that_does_not_verify_is_a_failure(running: Running, run: Callable[..., Said]) -> None:
    running.service.verified = {"ok": False, "problem": "the hash differs", "bytes": 10}
    said = run("inspect", "1", "--verify")
    assert said.status == 1
    assert "NOT whole: the hash differs" in said.out
    assert run("inspect", "1", "--verify", "--json").status == 1


def test_the_version_and_the_help_need_no_daemon(run: Callable[..., Said]) -> None:
    assert run("--version").out == f"arcbackupctl {__version__}\n"
    assert run("--help").status == 0
    assert run("jobs", "run", "-h").status == 0


# Text


def test_a_backup_on_a_pipe_is_told_a_line_a_step(running: Running, run: Callable[..., Said]) -> None:
    assert run("backup").out.splitlines() == [
        "Dumping arcsecond_docker",
        "The server is newer than pg_dump",
        "  hint: Upgrade pg_dump",
        "Publishing",
        "backup-20260102-130000.sql.gz: 1.2 MB (10.0 MB of SQL), in 5.2 s.",
    ]


def test_no_backups_yet_comes_with_what_to_do(running: Running, run: Callable[..., Said]) -> None:
    running.service.rows = []
    out = run("list").out
    assert out.startswith("No backups yet in /srv/data/db_backups.\n")
    assert "arcbackupctl backup" in out


def test_an_option_names_the_socket(tmp_path: Path, run: Callable[..., Said]) -> None:
    with serving(tmp_path / "other"):
        assert run("list").status == 5
        assert run("list", "--socket", str(tmp_path / "other")).status == 0
        assert run("--socket", str(tmp_path / "other"), "list").status == 0


def test_a_daemon_of_another_version_is_noted_in_one_line_and_no_error(
    running: Running, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "__version__", "9.9.9")
    said = run("list", "--json")
    assert said.status == 0
    assert said.json["backups"]
    assert said.err.count("\n") == 1
    assert "9.9.9" in said.err


HOSTILE = "evil\x1b[2J\x9b31m\x07\r\n\u202eabc\u2066\x00\ud800"


def test_nothing_from_a_dump_or_the_daemon_reaches_the_terminal_raw(
    running: Running, run: Callable[..., Said]
) -> None:
    service = running.service
    service.rows = [backup_row(problem=HOSTILE, status="broken", reason=HOSTILE, name=HOSTILE)]
    service.notice = HOSTILE
    service.inspected = inspection_row(
        database=HOSTILE, rows={HOSTILE: 1}, only_in_code=[HOSTILE], notes=[HOSTILE], roles=[HOSTILE], path=HOSTILE
    )
    service.result = {"name": HOSTILE, "outcome": HOSTILE}
    service.planned = restore_plan(
        database=HOSTILE,
        taken_at=HOSTILE,
        status=HOSTILE,
        warnings=[HOSTILE],
        migrations=[HOSTILE],
        steps=[{"name": HOSTILE, "text": HOSTILE, "commands": [HOSTILE]}],
    )
    service.report = restore_report(
        name=HOSTILE, database=HOSTILE, snapshot=HOSTILE, keep_until=HOSTILE, problem=HOSTILE, hint=HOSTILE
    )
    event = {"type": "step", "text": HOSTILE}
    service.status_is = status_reply(
        problems=[{"code": "c", "message": HOSTILE, "hint": HOSTILE, "severity": HOSTILE}],
        operation={
            "id": "1",
            "kind": HOSTILE,
            "state": "running",
            "started_at": HOSTILE,
            "event": event,
        },
        restore=restore_report(
            kind=HOSTILE, outcome=HOSTILE, name=HOSTILE, problem=HOSTILE, hint=HOSTILE, finished_at=HOSTILE
        ),
        replaced=[replaced_row(database=HOSTILE, snapshot=HOSTILE, keep_until=HOSTILE, problem=HOSTILE)],
    )
    printed = "".join(run(*command).out for command in COMMANDS)
    service.error = Refused("c", HOSTILE, hint=HOSTILE)
    printed += run("list").err + run("list", "--json").out
    assert "evil" in printed
    assert set(re.findall(r"[^ -~]", printed)) <= {"\n", "…"}


def test_a_reply_that_was_not_agreed_on_is_an_error_with_a_hint(running: Running, run: Callable[..., Said]) -> None:
    running.service.rows = [{"name": "x"}]
    said = run("list")
    assert said.status == 1
    assert "not what this client expects" in said.err


# Prune


def test_prune_without_a_terminal_shows_what_it_would_do_and_does_it_only_with_yes(
    running: Running, run: Callable[..., Said]
) -> None:
    service = running.service
    service.removable = [service.rows[1]["name"]]
    said = run("prune")
    assert said.status == 4
    assert f"remove  {service.removable[0]}" in said.out
    assert "--yes" in said.err
    assert run("prune", "--json").json["error"]["code"] == "confirmation-needed"
    assert service.prunes == 0
    assert run("prune", "--yes").out.endswith("1 backup removed, 1 B freed; 1 kept.\n")
    assert run("prune", "--yes", "--json").json["removed"] == service.removable
    assert service.prunes == 2


def test_a_dry_run_says_why_each_backup_goes_or_stays_and_removes_nothing(
    running: Running, run: Callable[..., Said]
) -> None:
    service = running.service
    service.removable = [service.rows[1]["name"]]
    out = run("prune", "--dry-run", "--yes").out
    assert re.search(r"^remove .* older than 14 days$", out, re.MULTILINE)
    assert re.search(r"^keep .* among the newest 3$", out, re.MULTILINE)
    assert "1 backup to remove, 1 B to free; 1 kept." in out
    assert service.prunes == 0


def test_prune_with_nothing_to_remove_asks_nothing(running: Running, run: Callable[..., Said]) -> None:
    said = run("prune")
    assert said.status == 0
    assert "0 backups to remove; 2 kept." in said.out
    assert running.service.prunes == 0


# Processes: signals, pipes, terminals


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "arcbackupd.ctl.main", *arguments]


class Terminal:
    """The client on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, **environment: str) -> None:
        self.fd, theirs = pty.openpty()
        os.set_blocking(self.fd, False)
        env = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **environment}
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            cwd=ROOT,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, what: str) -> None:
        while what not in self.text and self._read():
            pass
        assert what in self.text, self.text

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def _read(self) -> bool:
        if not select.select([self.fd], [], [], 20)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.text += data.decode()
        return True

    def end(self) -> int:
        while self._read():
            pass
        return self.process.wait(20)


@contextmanager
def on_terminal(*arguments: str, **settings: Any) -> Iterator[Terminal]:
    """Run the client on a terminal."""
    terminal = Terminal(*arguments, **settings)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.fd)


@pytest.mark.parametrize(
    ("answer", "status", "prunes"), [("y\n", 0, 1), ("n\n", 4, 0), ("\n", 4, 0), ("\x04", 130, 0)]
)
def test_prune_asks_on_a_terminal(running: Running, answer: str, status: int, prunes: int) -> None:
    service = running.service
    service.removable = [service.rows[1]["name"]]
    with on_terminal("prune") as terminal:
        terminal.read_until("Remove them, for good? [y/N]")
        assert "older than 14 days" in terminal.text
        terminal.type(answer)
        assert terminal.end() == status
    assert service.prunes == prunes


def test_on_a_terminal_a_backup_is_shown_live(running: Running) -> None:
    with on_terminal("backup") as terminal:
        assert terminal.end() == 0
    assert "1.0 kB, 2.0 kB/s, public.t1, 50 %, about 0.5 s left" in terminal.text
    assert "Dumping arcsecond_docker" in terminal.text
    assert "\x1b[" in terminal.text


def test_a_terminal_gets_colours_unless_they_are_unwanted(running: Running) -> None:
    running.service.rows = [backup_row(status="broken", problem="it is empty")]
    with on_terminal("list") as terminal:
        assert terminal.end() == 0
        assert "\x1b[31mbroken (it is empty)\x1b[0m" in terminal.text
    with on_terminal("list", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.text
    with on_terminal("list", "--no-color") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.text
    with on_terminal("list", TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.text


def test_an_error_is_no_wider_than_the_terminal(running: Running) -> None:
    running.service.error = Refused("some-code", "What happened is told at length. " * 9, hint="What to do. " * 9)
    with on_terminal("list", columns=60) as terminal:
        assert terminal.end() == 4
    assert max(map(len, terminal.text.splitlines())) <= 60
    assert "\n  hint: What to do." in terminal.text.replace("\r", "")


def test_the_list_is_no_wider_than_the_terminal(running: Running) -> None:
    running.service.rows = [
        backup_row(status="incompatible", only_in_backup=["a.1"], only_in_code=["b.1", "b.2", "b.3"]),
        backup_row(2, status="broken", problem="the text lacks its trailer, which every complete dump has"),
    ]
    running.service.notice = "The newest backup is incompatible. " * 5
    for columns in (60, 80, 100, 132):
        with on_terminal("list", "--no-color", columns=columns) as terminal:
            assert terminal.end() == 0
        assert max(map(len, terminal.text.splitlines())) <= columns
        words = " ".join(re.sub(r"\n +", " ", terminal.text.replace("\r", "")).split())
        assert "incompatible (-1 not in code, +3 applied since)" in words


def test_ctrl_c_ends_with_130_and_says_that_the_backup_goes_on(tmp_path: Path) -> None:
    class Slow(SmallService):
        async def backup(self, call: Any) -> Any:
            return await self.attach(call)

    with serving(tmp_path / "s", Slow(hold=threading.Event())), on_terminal("backup") as terminal:
        terminal.read_until("Dumping arcsecond_docker")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert "The daemon goes on with the backup" in terminal.text
        assert "Traceback" not in terminal.text


def test_a_daemon_that_dies_in_the_middle_is_5(tmp_path: Path) -> None:
    class Slow(SmallService):
        async def backup(self, call: Any) -> Any:
            return await self.attach(call)

    with serving(tmp_path / "s", Slow(hold=threading.Event())) as running, on_terminal("backup") as terminal:
        terminal.read_until("Dumping arcsecond_docker")
        running.run(running.server.stop(0))
        assert terminal.end() == 5
        assert "went away during the call Backup" in terminal.text


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["backup"]])
def test_a_reader_that_goes_away_is_no_error_to_talk_about(running: Running, arguments: list[str]) -> None:
    running.service.rows = [backup_row(number) for number in range(1, 2000)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(*arguments), stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_what_is_printed_to_a_full_disk_is_told_in_a_sentence(running: Running) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command("list"), stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"arcbackupctl: What is printed can't be written: No space left on device.\n"


def test_who_wants_the_exit_status_only_may_close_the_output(running: Running) -> None:
    running.service.status_is = status_reply(state="critical")
    script = ["sh", "-c", '"$@" >&-', "sh", *command("status")]
    done = subprocess.run(script, stderr=subprocess.PIPE, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (2, b"")


def test_a_terminal_without_utf_8_is_no_reason_to_fail(running: Running) -> None:
    running.service.notice = "Größe …"
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command("list"), env=env, capture_output=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0
    assert b"Gr\xf6\xdfe \\u2026" in done.stdout


# check-config and completion


def test_check_config_is_the_daemons_own_check(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Said]) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: became.append([program, *arguments]))
    run("check-config", "--config", "/etc/x.toml", "--json")
    run("check-config")
    check = [sys.executable, sys.executable, "-P", "-m", "arcbackupd", "check-config"]
    assert became == [[*check, "--config", "/etc/x.toml", "--json"], check]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(run: Callable[..., Said], shell: str) -> None:
    said = run("completion", shell)
    assert said.status == 0
    assert f"_ARCBACKUPCTL_COMPLETE={shell}_complete" in said.out
    assert run("completion", shell, "--json").json["shell"] == shell


def completed(words: str, position: int) -> list[str]:
    env = {
        **os.environ,
        "_ARCBACKUPCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(position),
    }
    done = subprocess.run(command(), env=env, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_names_of_backups_and_jobs_are_completed_from_the_daemon(running: Running) -> None:
    names = [row["name"] for row in running.service.rows]
    assert completed("arcbackupctl inspect ", 2) == ["latest", *names]
    assert completed("arcbackupctl inspect backup-20260102-22", 2) == names[1:]
    assert completed("arcbackupctl jobs pause p", 3) == ["prune"]
    assert "check-config" in completed("arcbackupctl ch", 1)
    running.service.status_is = status_reply(destinations=[{"name": "nas"}, {"name": "s3"}])
    assert completed("arcbackupctl upload n", 2) == ["nas"]


def test_completion_is_silent_and_quick_without_a_daemon_or_with_one_that_hangs(tmp_path: Path) -> None:
    assert completed("arcbackupctl inspect ", 2) == ["latest"]

    class Hanging(SmallService):
        async def list_backups(self, call: Any) -> Any:
            return await self.attach(call)

    with serving(tmp_path / "s", Hanging(hold=threading.Event())):
        begun = time.monotonic()
        assert completed("arcbackupctl inspect ", 2) == ["latest"]
        assert time.monotonic() - begun < 5


# Watching


def test_watching_shows_the_status_again_when_it_is_another_one_and_waits_for_a_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Said]
) -> None:
    replies = iter([status_reply(), status_reply(), None, status_reply(state="critical")])

    def ask(_session: Session, _method: str) -> dict[str, Any]:
        reply = next(replies, ...)
        if reply is ...:
            raise KeyboardInterrupt
        if reply is None:
            raise DaemonUnreachable("daemon-unreachable", "The daemon is not there.")
        return reply

    monkeypatch.setattr(Session, "ask", ask)
    monkeypatch.setattr("arcbackupd.ctl.watching._SECONDS", 0)
    said = run("status", "--watch")
    assert said.status == 130
    answers = [re.match(r"Safe|NOT SAFE|The daemon is not there", line) for line in said.out.splitlines()]
    assert [answer.group() for answer in answers if answer] == ["Safe", "The daemon is not there", "NOT SAFE"]


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_on_a_terminal_it_is_shown_in_place_until_ctrl_c(running: Running, variables: dict[str, str]) -> None:
    with on_terminal("status", "--watch", **variables) as terminal:
        terminal.read_until("Safe.")
        running.service.status_is = status_reply(state="critical")
        terminal.read_until("NOT SAFE.")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert terminal.text.count("\x1b[H") >= 2
    assert "Traceback" not in terminal.text


def test_on_a_dumb_terminal_no_cursor_is_moved(running: Running) -> None:
    with on_terminal("status", "--watch", TERM="dumb") as terminal:
        terminal.read_until("Safe.")
        running.service.status_is = status_reply(state="critical")
        terminal.read_until("NOT SAFE.")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert "\x1b" not in terminal.text


def test_the_answer_never_scrolls_off_a_small_screen() -> None:
    lines = ["\x1b[32mSafe.\x1b[0m", "a" * 25, "b" * 20, "c"]
    assert fitting(lines, columns=10, rows=4) == lines[:2]
    assert fitting(lines, columns=10, rows=5) == lines[:2]
    assert fitting(lines, columns=10, rows=6) == lines[:3]
    assert fitting(lines, columns=2, rows=1) == lines[:1]
