"""What couldn't be delivered isn't lost: it comes again, or what is newer does, also after a restart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arcbackupd.alarms import JobAlarm, JobBegan, JobEnded, courier
from arcbackupd.alarms import memory as memory_module
from arcbackupd.alarms.alarms import Alarms, trouble
from arcbackupd.alarms.courier import Courier
from arcbackupd.alarms.memory import AlarmMemory
from arcbackupd.alarms.plugins import LoadedAlarm, load_alarms
from arcbackupd.errors import describe
from arcbackupd.log import redact, redacted
from arcbackupd.operations.health import Problem, Severity
from arcbackupd.settings import AlarmTable, Settings
from tests.harness.alarm_server import AlarmServer
from tests.harness.process import wait_until

NOW = datetime.now(UTC)
OLD = Problem("last-good-old", "It is old.", "Take one.", Severity.CRITICAL)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AlarmServer]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(courier, "_PAUSES", ())
    monkeypatch.setattr(courier, "_QUIET_SECONDS", (0.01, 0.02))
    with AlarmServer() as running:
        yield running


def ended(run: str, problem: str | None = None, job: str = "dump") -> JobEnded:
    return JobEnded(job, run, datetime.now(UTC), "published", problem)


class Night:
    """An alarm of type ping, as it is from one start of the daemon to the next."""

    def __init__(self, server: AlarmServer, state_dir: Path, jobs: tuple[str, ...] = ("dump",)) -> None:
        loaded = load_alarms({"night": ("ping", {"url": f"{server.url}/c", "jobs": jobs})}, "dome")["night"]
        assert isinstance(loaded, LoadedAlarm)
        assert isinstance(loaded.alarm, JobAlarm)
        self.server = server
        self.memory = AlarmMemory(state_dir)
        self.memory.keep({"night": jobs})
        self.courier = Courier(loaded.alarm, self.memory)

    def hear_in_vain(self, signal: JobBegan | JobEnded) -> None:
        """Let it be told while the server is down, and wait until that has failed."""
        came, self.server.behave = len(self.server.received), 503
        self.courier.hear(signal)
        wait_until(lambda: len(self.server.received) > came and self.courier._busy_since is None, "the failure")

    def until_told(self) -> None:
        """Let the monitor look until nothing is owed."""

        def look() -> bool:
            self.courier.consider([], NOW)
            return not self.memory.of("night").owed

        wait_until(look, "what is owed to be delivered")

    def end(self) -> None:
        self.courier.close()
        self.courier.join(20)


def runs(server: AlarmServer) -> list[str]:
    return [f"{request.path.partition('?')[0]} {request.path.rpartition('=')[2]}" for request in server.received]


def test_how_a_run_ended_is_told_later_when_it_could_not_be_told_at_once(
    server: AlarmServer, tmp_path: Path
) -> None:
    night = Night(server, tmp_path)
    night.hear_in_vain(ended("1", "The disk is full."))
    server.received.clear()
    server.behave = "well"
    night.until_told()
    night.end()
    assert runs(server) == ["/c/fail 1"]
    assert server.received[0].text == "dome: dump: The disk is full."


def test_only_the_newest_outcome_of_each_job_is_owed(server: AlarmServer, tmp_path: Path) -> None:
    night = Night(server, tmp_path, ("dump", "drill"))
    for signal in (ended("1", "It failed."), ended("2", "No.", "drill"), JobBegan("dump", "3"), ended("3")):
        night.hear_in_vain(signal)
    server.received.clear()
    server.behave = "well"
    night.until_told()
    night.end()
    assert sorted(runs(server)) == ["/c 3", "/c/fail 2"]


def test_a_run_s_start_is_told_after_the_end_of_the_run_before_it(server: AlarmServer, tmp_path: Path) -> None:
    """After a restart the first run may begin before anybody has looked what is owed."""
    before = Night(server, tmp_path)
    before.hear_in_vain(ended("1", "The disk is full."))
    before.end()
    server.received.clear()
    server.behave = "well"
    after = Night(server, tmp_path)
    after.courier.hear(JobBegan("dump", "2"))
    after.until_told()
    after.courier.hear(ended("2"))
    after.end()
    assert runs(server) == ["/c/fail 1", "/c/start 2", "/c 2"]


def test_a_run_s_start_is_left_out_while_the_end_before_it_cannot_be_told(
    server: AlarmServer, tmp_path: Path
) -> None:
    night = Night(server, tmp_path)
    night.hear_in_vain(ended("1"))
    night.hear_in_vain(JobBegan("dump", "2"))
    server.behave = "well"
    night.until_told()
    night.end()
    assert set(runs(server)) == {"/c 1"}


def test_what_could_not_be_told_before_the_daemon_s_end_is_told_by_the_next(
    server: AlarmServer, tmp_path: Path
) -> None:
    table = AlarmTable.model_validate({"type": "ping", "url": server.url})
    settings = Settings.model_construct(alarms={"night": table})
    server.behave = "hang"
    alarms = Alarms(settings, ["dump"], AlarmMemory(tmp_path), "dome")
    alarms.hear(JobBegan("dump", "1"))
    server.wait("/start")
    alarms.hear(ended("1"))
    alarms.close()
    alarms.join(0.5)
    assert AlarmMemory(tmp_path).of("night").owed["dump"].run == "1"
    server.ending.set()
    alarms.join(20)


def test_a_restart_goes_on_with_what_is_owed_and_knows_that_it_could_not_be_delivered(
    server: AlarmServer, tmp_path: Path
) -> None:
    before = Night(server, tmp_path)
    before.hear_in_vain(ended("1", "The disk is full."))
    before.end()
    server.received.clear()
    server.behave = "well"
    after = Night(server, tmp_path)
    assert after.courier.failure == before.courier.failure is not None
    after.until_told()
    after.end()
    assert runs(server) == ["/c/fail 1"]
    again = Night(server, tmp_path)
    assert again.courier.failure is None
    assert again.courier.told_at is not None
    again.courier.consider([], NOW)
    assert again.courier._thread is None, "nothing is owed any more"


def test_what_a_killed_daemon_was_at_delivering_is_delivered_by_the_next(
    server: AlarmServer, tmp_path: Path
) -> None:
    killed = Night(server, tmp_path)
    server.behave = "hang"
    killed.courier.hear(ended("1"))
    server.wait("/c")
    server.behave = "well"
    after = Night(server, tmp_path)  # of the file as it is now
    after.until_told()
    after.end()
    assert runs(server) == ["/c 1", "/c 1"]
    server.ending.set()
    killed.end()


def test_what_is_told_late_says_when_it_was(server: AlarmServer, tmp_path: Path) -> None:
    night = Night(server, tmp_path)
    when = datetime.now(UTC) - timedelta(hours=3)
    night.courier.hear(replace(ended("1"), ended_at=when))
    night.end()
    assert server.received[0].text == f"dome: dump: published (it ended at {when:%Y-%m-%d %H:%M} UTC)"


def test_what_is_owed_of_a_job_that_the_alarm_is_not_for_any_more_is_forgotten(
    server: AlarmServer, tmp_path: Path
) -> None:
    before = Night(server, tmp_path, ("drill",))
    server.behave = 503
    before.courier.hear(ended("1", job="drill"))
    before.end()
    for jobs, owed in ((("drill", "dump"), {"drill"}), (("dump",), set())):
        assert set(Night(server, tmp_path, jobs).memory.of("night").owed) == owed


def test_what_a_run_says_is_kept_whatever_characters_are_in_it_and_not_beyond_measure(
    server: AlarmServer, tmp_path: Path
) -> None:
    night = Night(server, tmp_path)
    night.hear_in_vain(ended("1", "\udcff\n" + "long " * 10**6))
    night.end()
    assert AlarmMemory(tmp_path).of("night").owed["dump"].problem == ("long " * 100).strip()


def test_no_half_of_a_secret_is_kept_or_told_where_a_text_is_cut(server: AlarmServer, tmp_path: Path) -> None:
    redact("hunter2-S3cr3t")
    night = Night(server, tmp_path)
    server.behave = 503
    for before in range(480, 500):
        night.courier.hear(ended("1", f"{'x' * before}hunter2-S3cr3t"))
        assert "hunter" not in (night.memory.of("night").owed["dump"].problem or "")
        assert "hunter" not in redacted(describe(ValueError(f"{'x' * (before - 20)} hunter2-S3cr3t")))
    night.end()


def test_an_outcome_that_was_told_settles_none_that_came_meanwhile(tmp_path: Path) -> None:
    memory = AlarmMemory(tmp_path)
    first, second = ended("1"), ended("2")
    memory.owe("night", first)
    memory.owe("night", second)
    memory.settle("night", first)
    assert memory.of("night").owed == {"dump": second}
    memory.settle("night", second)
    assert memory.of("night").owed == {}


def test_a_disk_that_hangs_while_it_is_written_down_holds_up_nobody_who_asks_or_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, hangs, at_it = AlarmMemory(tmp_path), threading.Event(), threading.Event()

    def hang(*_arguments: object) -> None:
        at_it.set()
        hangs.wait(60)

    monkeypatch.setattr(memory_module, "write_atomically", hang)
    memory.owe("night", ended("1"))
    saving = threading.Thread(target=memory.save)
    saving.start()
    assert at_it.wait(20)

    def ask_and_tell() -> None:
        memory.of("night")
        memory.owe("night", ended("2"))
        memory.keep({"night": {"dump"}})

    other = threading.Thread(target=ask_and_tell, daemon=True)
    other.start()
    other.join(20)
    assert not other.is_alive()
    hangs.set()
    saving.join()


def test_a_reload_solves_nothing_unless_the_alarm_has_other_settings(server: AlarmServer, tmp_path: Path) -> None:
    def household(memory: AlarmMemory, timeout: str) -> Alarms:
        table = AlarmTable.model_validate({"type": "webhook", "url": server.url, "timeout": timeout})
        return Alarms(Settings.model_construct(alarms={"chat": table}), [], memory, "dome")

    memory = AlarmMemory(tmp_path)
    server.behave = 404
    first = household(memory, "10s")
    first.consider([OLD], NOW)
    wait_until(lambda: list(trouble(first.states())), "the failure")
    same, other = household(memory, "10s"), household(memory, "20s")
    same.succeed(first)
    (problem,) = trouble(same.states())
    assert "arcbackupctl alarms test chat" in problem.hint
    other.succeed(same)
    assert list(trouble(other.states())) == []
    server.behave = "well"
    for one in (first, same, other):
        one.close()
        one.join(20)
