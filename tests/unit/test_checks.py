"""The checks behind `doctor` and `setup`: how one leads to the next, and those that need nothing but files."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.checks import (
    Check,
    Finding,
    State,
    Verdict,
    containers,
    examine,
    failed,
    files,
    host,
    ok,
    skipped,
    warning,
    worst,
)
from arcbackupd.checks.all import CHECKS, checks_of
from arcbackupd.checks.subject import Living, Subject
from arcbackupd.errors import OperationFailed
from arcbackupd.settings import DestinationTable, Settings, load_settings
from arcbackupd.stack import ServiceState, open_engine


def nothing_runs() -> str | None:
    return None


LIVING = Living(datetime.now(UTC), nothing_runs, lambda: None, lambda: None, timedelta(hours=2))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """A configuration of an installation whose files are all right."""
    (tmp_path / "shared").mkdir()
    env = tmp_path / ".env"
    env.write_text(f"SHARED_DATA_PATH={tmp_path}/shared\nPOSTGRES_PASSWORD=secret\n")
    env.chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(f'install_dir = "{tmp_path}"\nstate_dir = "{tmp_path}/state"\n[engine]\nkind = "local"\n')
    settings = load_settings(config)
    return Subject(config, settings, open_engine(settings.engine))


def living(subject: Subject, **changes: Any) -> Subject:
    """The same, and a daemon that lives by it."""
    return Subject(subject.config, subject.settings, subject.engine, {}, Living(**{**vars(LIVING), **changes}))


# One after another


def check(name: str, verdict: Verdict, *needs: str) -> Check:
    return Check(name, f"the {name}", lambda _: verdict, needs)


def states(subject: Subject, *checks: Check) -> dict[str, str]:
    return {finding.name: finding.state for finding in examine(checks, subject)}


def test_what_needs_a_check_that_failed_is_skipped_and_so_is_what_needs_that(subject: Subject) -> None:
    checks = (
        check("engine", failed("No.", "Start it.")),
        check("database", ok("Yes."), "engine"),
        check("dump", ok("Yes."), "database"),
        check("clock", ok("Yes.")),
    )
    assert states(subject, *checks) == {"engine": "failed", "database": "skipped", "dump": "skipped", "clock": "ok"}
    *_, dump, _ = examine(checks, subject)
    assert "the engine" in dump.message


@pytest.mark.parametrize("verdict", [warning("Hm.", "Look."), skipped("Not here."), ok("Yes.")])
def test_anything_but_a_failure_lets_the_next_one_be_looked_at(subject: Subject, verdict: Verdict) -> None:
    assert states(subject, check("a", verdict), check("b", ok("Yes."), "a"))["b"] == "ok"


def test_an_error_that_a_check_raises_is_a_failure_with_its_hint(subject: Subject) -> None:
    def look(_: Subject) -> Verdict:
        raise OperationFailed("code", "It broke.", hint="Mend it.")

    (finding,) = examine([Check("x", "the x", look)], subject)
    assert finding == Finding("x", "the x", State.FAILED, "It broke.", "Mend it.")


def test_an_error_of_the_system_is_a_failure_too(subject: Subject) -> None:
    def look(_: Subject) -> Verdict:
        raise PermissionError(13, "Permission denied", "/x")

    (finding,) = examine([Check("x", "the x", look)], subject)
    assert (finding.state, "Permission denied" in finding.message) == ("failed", True)


@given(st.lists(st.sampled_from(list(State))))
def test_the_whole_is_as_bad_as_its_worst_and_what_was_skipped_does_not_count(found: list[State]) -> None:
    whole = worst(Finding("x", "x", state, "", "") for state in found)
    expected = State.FAILED if State.FAILED in found else State.WARNING if State.WARNING in found else State.OK
    assert whole is expected


def test_every_check_needs_only_checks_before_it_and_has_a_name_of_its_own() -> None:
    names: list[str] = []
    for one in CHECKS:
        assert set(one.needs) <= set(names)
        names.append(one.name)
    assert len(names) == len(set(names))


def test_each_destination_has_a_check(subject: Subject) -> None:
    settings = Settings.model_construct(destinations={"nas": DestinationTable(type="directory")})
    assert [one.name for one in checks_of(settings)][len(CHECKS) :] == ["destination-nas"]


# Files


def test_a_complete_env_of_its_owner_alone_is_well(subject: Subject) -> None:
    assert files.env(subject).state is State.OK


def test_an_env_for_all_eyes_is_a_warning_with_the_command(subject: Subject) -> None:
    env = subject.settings.install_dir / ".env"
    env.chmod(0o644)
    verdict = files.env(subject)
    assert (verdict.state, verdict.hint) == (State.WARNING, f"Let only its owner read it: `chmod 600 {env}`.")


@pytest.mark.parametrize("line", ["POSTGRES_PASSWORD=secret\n", "SHARED_DATA_PATH=/x\n"])
def test_an_env_that_lacks_something_is_a_failure(subject: Subject, line: str) -> None:
    (subject.settings.install_dir / ".env").write_text(line)
    (finding,) = examine([one for one in CHECKS if one.name == "env"], subject)
    assert finding.state is State.FAILED
    assert "missing from" in finding.message


def test_the_directory_is_written_to_and_nothing_stays(subject: Subject) -> None:
    assert "will be made by the first backup" in files.directory(subject).message
    place = files.backups_dir(subject)
    place.mkdir()
    assert files.directory(subject).message == f"{place} can be written."
    assert list(place.iterdir()) == []
    assert list(place.parent.iterdir()) == [place]


def test_something_else_in_the_place_of_the_directory_is_a_failure(subject: Subject) -> None:
    files.backups_dir(subject).touch()
    (finding,) = examine([Check("directory", "", files.directory)], subject)
    assert (finding.state, "is not a directory" in finding.message) == (State.FAILED, True)


def test_a_shared_path_that_is_not_there_is_a_failure(subject: Subject) -> None:
    files.backups_dir(subject).parent.rmdir()
    (finding,) = examine([Check("directory", "", files.directory)], subject)
    assert (finding.state, "does not exist" in finding.message) == (State.FAILED, True)


def test_what_is_on_disk_is_compared_with_what_the_daemon_lives_by(subject: Subject) -> None:
    daemon = living(subject)
    assert "in force" in files.configuration(daemon).message
    subject.config.write_text(subject.config.read_text() + "[retention]\nkeep_days = 30\n")
    verdict = files.configuration(daemon)
    assert (verdict.state, "not in force yet" in verdict.message) == (State.WARNING, True)
    subject.config.write_text("[retention]\nkeep_days = 0\n")
    (finding,) = examine([Check("configuration", "", files.configuration)], daemon)
    assert (finding.state, "retention.keep_days" in finding.message) == (State.FAILED, True)


def test_before_a_configuration_is_written_its_settings_are_checked_without_it(subject: Subject) -> None:
    subject.config.unlink()
    assert files.configuration(subject).state is State.OK
    jobs = {"dump": {"schedule": "never and ever"}}
    settings = subject.settings.model_copy(update={"jobs": jobs})
    (finding,) = examine([Check("configuration", "", files.configuration)], replace(subject, settings=settings))
    assert (finding.state, "jobs.dump.schedule" in finding.message) == (State.FAILED, True)


@pytest.mark.parametrize(
    ("free", "state"), [(1 << 20, State.FAILED), (200 << 20, State.WARNING), (100 << 30, State.OK)]
)
def test_the_space_is_told_in_backups(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, free: int, state: State
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": free}))
    newest = type("", (), {"size": 10 << 20})
    assert files.space(living(subject, newest_good=lambda: newest)).state is state


def test_the_newest_backup_is_too_old_from_the_age_on_that_status_warns_at(subject: Subject) -> None:
    def aged(hours: float) -> State:
        newest = type("", (), {"name": "x", "taken_at": datetime.now(UTC) - timedelta(hours=hours)})
        return files.last_backup(living(subject, newest_good=lambda: newest)).state

    assert (aged(1.9), aged(2.1)) == (State.OK, State.WARNING)
    assert files.last_backup(living(subject)).state is State.WARNING
    assert files.last_backup(subject).state is State.SKIPPED


# The containers


def test_a_service_that_was_unhealthy_when_it_ended_stands_still(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ServiceState("arcsecond-api", running=False, started_at="", health="unhealthy")
    monkeypatch.setattr(type(subject.engine), "services", lambda _: [ended])
    verdict = containers.services(subject)
    assert (verdict.state, "arcsecond-api stand still" in verdict.message) == (State.OK, True)


# The host


def test_a_group_that_does_not_exist_is_a_warning(subject: Subject) -> None:
    control = subject.settings.control.model_copy(update={"group": "no-such-group"})
    settings = subject.settings.model_copy(update={"control": control})
    verdict = host.group(Subject(subject.config, settings, subject.engine))
    assert (verdict.state, "systemd-sysusers" in verdict.hint) == (State.WARNING, True)


def test_a_clock_that_jumped_is_a_warning_whatever_it_says_now(subject: Subject) -> None:
    verdict = host.clock(living(subject, clock_doubt=lambda: "The clock jumped."))
    assert (verdict.state, verdict.message) == (State.WARNING, "The clock jumped.")
