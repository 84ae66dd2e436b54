"""What `arcbackupd setup` decides, from what it finds and what it is told; and how it finds an installation."""

from __future__ import annotations

import dataclasses
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.checks.host import SERVICE, SOCKET
from arcbackupd.ctl.render import Screen
from arcbackupd.errors import Busy, OperationFailed, Refused, UsageError
from arcbackupd.setup import installs
from arcbackupd.setup.dialogue import Dialogue
from arcbackupd.setup.drop_in import quoted, wanted_text
from arcbackupd.setup.first_backup import refuse_during_restore
from arcbackupd.setup.host import DROP_IN, Host, find_engine, settings_of
from arcbackupd.setup.plan import Answers, Plan, make_plan
from arcbackupd.setup.run import Wanted, answered
from arcbackupd.setup.steps import RunProgram, WriteFile
from arcbackupd.stack.containers import ContainerEngine
from arcbackupd.stack.engine import Labelled
from tests.unit.control_service import RESTORE, SmallService, serving, status_reply

SCREEN = Screen(datetime.now(UTC), 80, lambda text, _: text)
SHARED = Path("/srv/arcsecond/data")
STANDARD = settings_of(Path("/etc/arcbackupd/config.toml"), "").engine
RUNNING = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}


@pytest.fixture
def install(tmp_path: Path) -> Path:
    """An installation's directory."""
    (tmp_path / "docker-compose.yml").write_text("services: {}\n")
    (tmp_path / ".env").write_text(f"SHARED_DATA_PATH={SHARED}\nPOSTGRES_PASSWORD=p\n")
    return tmp_path


def host(config_text: str | None = "", **changes: Any) -> Host:
    """A host that is set up but for what is changed."""
    config = Path("/etc/arcbackupd/config.toml")
    settings = settings_of(config, config_text or "")
    known: dict[str, Any] = {
        "config": config,
        "config_text": config_text,
        "settings": settings,
        "drop_in_text": None,
        "units": {unit: {**RUNNING, "ReadWritePaths": str(SHARED)} for unit in (SERVICE, SOCKET)},
        "group_exists": True,
        "members": frozenset(),
        "engine": settings.engine,
        "containers": (),
        "installs": (),
    }
    return Host(**{**known, **changes})


def units(**changes: str) -> dict[str, dict[str, str]]:
    return {unit: {**RUNNING, "ReadWritePaths": "", **changes} for unit in (SERVICE, SOCKET)}


def answers(install_dir: Path, **changes: Any) -> Answers:
    same = Answers(install_dir, STANDARD.database, STANDARD.backend, STANDARD.services)
    return dataclasses.replace(same, **changes)


def programs(plan: Plan) -> list[str]:
    return [" ".join(step.argv) for step in plan.steps if isinstance(step, RunProgram)]


def written(plan: Plan) -> dict[str, str]:
    return {str(step.path): step.new for step in plan.steps if isinstance(step, WriteFile)}


# The plan


def test_where_all_is_as_it_should_be_nothing_changes(install: Path) -> None:
    plan = make_plan(host(f'install_dir = "{install}"\n'), answers(install))
    assert not plan.changes
    assert (written(plan), programs(plan)) == ({}, [])


def test_on_a_fresh_host_everything_is_written_in_order(install: Path) -> None:
    fresh = host(None, group_exists=True, units=units(ActiveState="inactive", UnitFileState="disabled"))
    plan = make_plan(fresh, answers(install, users=("ada",)))
    assert list(written(plan)) == [str(fresh.config), str(DROP_IN)]
    assert f'install_dir = "{install}"\n' in written(plan)[str(fresh.config)]
    assert f"ReadWritePaths={SHARED}\n" in written(plan)[str(DROP_IN)]
    assert programs(plan) == [
        "usermod --append --groups arcbackup ada",
        "systemctl daemon-reload",
        f"systemctl enable {SOCKET} {SERVICE}",
        f"systemctl start {SOCKET} {SERVICE}",
    ]


def test_only_what_differs_from_a_default_is_written(install: Path) -> None:
    plan = make_plan(host(None), answers(install, database="db-1"))
    (text,) = written(plan).values()
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert settings == [f'install_dir = "{install}"', "[engine]", 'database = "db-1"']


def test_a_running_service_is_restarted_for_what_is_written(install: Path) -> None:
    assert programs(make_plan(host(), answers(install)))[-1] == f"systemctl restart {SERVICE}"


def test_a_unit_that_systemd_has_not_read_is_read(install: Path) -> None:
    stale = host(f'install_dir = "{install}"\n', units={
        SERVICE: {**RUNNING, "NeedDaemonReload": "yes", "ReadWritePaths": str(SHARED)},
        SOCKET: RUNNING,
    })  # fmt: skip
    assert "systemctl daemon-reload" in programs(make_plan(stale, answers(install)))


def test_a_member_is_not_added_again(install: Path) -> None:
    plan = make_plan(host(members=frozenset({"ada"})), answers(install, users=("ada", "grace")))
    assert [line for line in programs(plan) if "usermod" in line] == ["usermod --append --groups arcbackup grace"]


def test_a_missing_group_is_made_first_and_the_socket_anew(install: Path) -> None:
    plan = programs(make_plan(host(group_exists=False), answers(install, users=("ada",))))
    assert plan[0] == "groupadd --system arcbackup"
    assert plan[-2:] == [f"systemctl stop {SOCKET} {SERVICE}", f"systemctl start {SOCKET} {SERVICE}"]


def test_a_service_without_its_socket_is_stopped_first_since_the_socket_would_not_start_beside_it(
    install: Path,
) -> None:
    alone = {SERVICE: units()[SERVICE], SOCKET: {**units()[SOCKET], "ActiveState": "inactive"}}
    plan = programs(make_plan(host(units=alone), answers(install)))
    assert plan[-2:] == [f"systemctl stop {SOCKET} {SERVICE}", f"systemctl start {SOCKET} {SERVICE}"]


def test_what_somebody_wrote_is_told_and_kept_in_a_copy(install: Path) -> None:
    plan = make_plan(host('install_dir = "/old"\n'), answers(install))
    assert plan.replaced == (f"install_dir is '/old', and would become '{install}'",)
    (step,) = [step for step in plan.steps if isinstance(step, WriteFile)]
    assert step.copy


def test_one_admin_more_replaces_nothing(install: Path) -> None:
    old = f'install_dir = "{install}"\n[control]\nadmins = ["root", "%keepers"]\n'
    plan = make_plan(host(old), answers(install, users=("ada",), admins=("ada",)))
    assert plan.replaced == ()
    assert 'admins = ["root", "%keepers", "ada"]' in written(plan)["/etc/arcbackupd/config.toml"]


def test_without_a_shared_path_there_is_no_plan(install: Path) -> None:
    (install / ".env").write_text("POSTGRES_PASSWORD=p\n")
    with pytest.raises(OperationFailed) as raised:
        make_plan(host(), answers(install))
    assert raised.value.code == "shared-path-missing"


# The drop-in


def test_what_setup_wrote_is_written_anew_when_the_path_has_changed() -> None:
    first = wanted_text(None, (), SHARED)
    assert first is not None
    assert wanted_text(first, [str(SHARED)], SHARED) is None
    assert wanted_text(first, [str(SHARED)], Path("/data")) == wanted_text(None, (), Path("/data"))


def test_what_somebody_wrote_behind_what_setup_wrote_stays() -> None:
    first = wanted_text(None, (), SHARED)
    assert first is not None
    more = "# the tape\nReadWritePaths=/mnt/tape\n"
    assert wanted_text(first + more, [str(SHARED), "/mnt/tape"], SHARED) is None
    moved = wanted_text(first + more, [str(SHARED), "/mnt/tape"], Path("/data"))
    assert moved == f"{wanted_text(None, (), Path('/data'))}{more}"


def test_what_somebody_wrote_gets_lines_behind_it_once() -> None:
    mine = "[Service]\n# the tape\nReadWritePaths=/mnt/tape\n"
    text = wanted_text(mine, ["/mnt/tape"], SHARED)
    assert text is not None
    assert text.startswith(mine)
    assert f"ReadWritePaths={SHARED}\n" in text
    assert wanted_text(text, ["/mnt/tape"], SHARED) is None


@pytest.mark.parametrize("allowed", ["/srv/arcsecond/data", "/srv", "-/srv/arcsecond", "/"])
def test_a_path_that_may_be_written_to_already_needs_nothing(allowed: str) -> None:
    assert wanted_text(None, ["/var/lib", allowed], SHARED) is None
    assert wanted_text("[Service]\n", ["/var/lib", allowed], SHARED) is None


def test_a_path_beside_it_does_not_count() -> None:
    assert wanted_text(None, ["/srv/arcsecond/dat"], SHARED) is not None


@pytest.mark.parametrize(
    ("path", "word"),
    [("/a/b", "/a/b"), ("/a b", '"/a b"'), ("/100%", "/100%%"), ('/q"', '"/q\\""'), ("/b\\", '"/b\\\\"')],
)
def test_a_path_is_a_word_of_a_unit_file(path: str, word: str) -> None:
    assert quoted(Path(path)) == word


# Finding it


def labelled(name: str, directory: Path | str, service: str, image: str = "x", *, running: bool = True) -> Labelled:
    labels = {installs.PROJECT_DIR: str(directory), "com.docker.compose.service": service}
    return Labelled(name, image, running, labels)


def test_an_installation_has_a_compose_file_and_an_env_with_the_shared_path(install: Path) -> None:
    assert installs.is_install(install)
    (install / ".env").write_text("OTHER=1\n")
    assert not installs.is_install(install)
    (install / ".env").write_text("SHARED_DATA_PATH=/x\n")
    (install / "docker-compose.yml").rename(install / "other.yml")
    assert not installs.is_install(install)
    assert not installs.is_install(install / "nowhere")


def test_what_runs_comes_first_and_each_installation_once(tmp_path: Path) -> None:
    (tmp_path / "arcsecond-2").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "arcsecond-2")
    running = [labelled("a", tmp_path / "link", "db"), labelled("b", tmp_path / "link", "api")]
    places = installs.candidates(running, [tmp_path], Path("/cwd"))
    assert places[0] == tmp_path / "link"
    assert {Path("/srv/arcsecond"), Path("/opt/arcsecond"), tmp_path, Path("/cwd")} <= set(places)
    assert installs.installs(places, lambda place: "arcsecond-2" in str(place.resolve())) == [tmp_path / "link"]


@pytest.mark.parametrize(
    ("docker", "podman", "found"),
    [
        ((), (), "docker"),
        ((), ("elsewhere",), "podman"),
        (("elsewhere",), ("elsewhere",), "docker"),
        (("elsewhere",), ("install",), "podman"),
        (("install",), ("install",), "docker"),
    ],
)
def test_of_two_engines_it_is_the_one_that_has_the_observatory(
    install: Path, monkeypatch: pytest.MonkeyPatch, docker: tuple[str, ...], podman: tuple[str, ...], found: str
) -> None:
    places = {"install": install, "elsewhere": install / "elsewhere"}
    runs = {"docker": docker, "podman": podman}

    def of_engine(engine: ContainerEngine, _: str) -> list[Labelled]:
        kind = "podman" if "podman" in str(vars(engine)) else "docker"
        return [labelled("db", places[name], "arcsecond-db") for name in runs[kind]]

    monkeypatch.setattr(ContainerEngine, "labelled", of_engine)
    assert find_engine(STANDARD, None)[0].kind == found
    assert find_engine(STANDARD, "podman")[0].kind == "podman"


def test_the_databases_container_is_found_by_name_service_or_image(tmp_path: Path) -> None:
    def found(*project: Labelled) -> list[str]:
        return installs.databases(project)

    other = labelled("api", tmp_path, "api")
    assert found(other, labelled("arcsecond-db", tmp_path, "db", "custom")) == ["arcsecond-db"]
    assert found(other, labelled("dome-db-1", tmp_path, "arcsecond-db", "custom")) == ["dome-db-1"]
    assert found(other, labelled("dome-pg", tmp_path, "pg", "docker.io/library/postgres:16")) == ["dome-pg"]
    two = labelled("one", tmp_path, "a", "postgres:16"), labelled("two", tmp_path, "b", "postgis/postgis:16")
    assert found(*two) == ["one", "two"]
    assert found(other) == []


def test_services_are_called_as_compose_called_them(tmp_path: Path) -> None:
    project = [labelled("dome-api-1", tmp_path, "arcsecond-api"), labelled("arcsecond-web", tmp_path, "web")]
    names = installs.names(project)
    assert names.backend == "dome-api-1"
    assert names.services[0] == "dome-api-1"
    assert names.services[1:] == STANDARD.services[1:]


def test_only_containers_of_that_directory_are_the_installations(tmp_path: Path) -> None:
    ours, theirs = labelled("ours", tmp_path, "db"), labelled("theirs", tmp_path / "other", "db")
    assert installs.of_project([ours, theirs], tmp_path) == [ours]


# What is asked


def test_options_go_before_what_is_written_and_that_before_what_is_found(install: Path) -> None:
    talk = Dialogue(yes=True)
    containers = (labelled("dome-pg", install, "pg", "postgres:16"),)
    found = answered(host(containers=containers, installs=(install,)), Wanted(yes=True), talk)
    assert (found.install_dir, found.database) == (install, "dome-pg")
    old = '[engine]\ndatabase = "written"\nservices = ["a"]\n'
    kept = answered(host(old, containers=containers, installs=(install,)), Wanted(yes=True), talk)
    assert (kept.database, kept.services) == ("written", ("a",))
    said = answered(host(old, installs=()), Wanted(yes=True, install_dir=install, database="said"), talk)
    assert (said.install_dir, said.database) == (install, "said")


@pytest.mark.parametrize(("found", "code"), [((), "no-install"), (("/a", "/b"), "several-installs")])
def test_where_nobody_can_be_asked_a_doubt_is_an_error_that_names_the_option(
    found: tuple[str, ...], code: str
) -> None:
    with pytest.raises(UsageError) as raised:
        answered(host(installs=tuple(map(Path, found))), Wanted(yes=True), Dialogue(yes=True))
    assert (raised.value.code, "--install-dir" in raised.value.hint) == (code, True)


def test_a_user_that_does_not_exist_is_refused(install: Path) -> None:
    with pytest.raises(UsageError, match="no-such-user-here"):
        answered(host(installs=(install,)), Wanted(yes=True, user=("no-such-user-here",)), Dialogue(yes=True))


def test_what_somebody_wrote_is_replaced_by_force_only() -> None:
    Dialogue(yes=True).confirm(["x"], force=True)
    Dialogue(yes=True).confirm([], force=False)
    with pytest.raises(Refused) as raised:
        Dialogue(yes=True).confirm(["install_dir is '/a'"], force=False)
    assert "--force" in raised.value.hint
    with pytest.raises(Refused, match="no terminal"):
        Dialogue(yes=False).confirm([], force=False)


# Writing


def test_a_file_keeps_its_mode_and_a_copy_if_so_wished(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old\n")
    path.chmod(0o604)
    WriteFile(path, "old\n", "new\n", 0o640, copy=True).do(lambda _: None, SCREEN)
    assert path.read_text() == "new\n"
    (copy,) = tmp_path.glob("config.toml.*.bak")
    assert copy.read_text() == "old\n"
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, copy)] == [0o604, 0o604]


def test_a_new_file_is_made_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        WriteFile(tmp_path / "a" / "b.conf", None, "x\n", 0o644).do(lambda _: None, SCREEN)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b.conf").stat().st_mode) == 0o644
    assert not list((tmp_path / "a").glob("*.bak"))


def test_a_change_is_described_as_a_diff() -> None:
    text = WriteFile(Path("/etc/x"), "a\nb\n", "a\nc\n", 0o644).described()
    assert text.startswith("Change /etc/x:\n")
    assert [line.strip() for line in text.splitlines()][-2:] == ["-b", "+c"]


def test_a_program_that_fails_is_an_error_with_the_command() -> None:
    with pytest.raises(OperationFailed) as raised:
        RunProgram("Look", ("ls", "/no/such/place")).do(lambda _: None, SCREEN)
    assert "ls /no/such/place" in raised.value.hint


@given(st.lists(st.text("/abc %\"\\;'", min_size=1, max_size=8), min_size=1, max_size=4))
def test_a_quoted_path_has_no_bare_specifier(parts: list[str]) -> None:
    word = quoted(Path("/", *parts))
    assert "%" not in word.replace("%%", "")


# Beside a restore


@pytest.mark.parametrize("kind", ["restore", "rollback"])
def test_while_a_restore_runs_nothing_is_restarted(tmp_path: Path, kind: str) -> None:
    with (
        serving(tmp_path / "s", SmallService(status_is=status_reply(operation=RESTORE | {"kind": kind}))),
        pytest.raises(Busy, match=f"a {kind} runs"),
    ):
        refuse_during_restore(str(tmp_path / "s"))


def test_beside_a_dump_or_without_a_daemon_setup_goes_on(tmp_path: Path) -> None:
    refuse_during_restore(str(tmp_path / "s"))
    with serving(tmp_path / "s", SmallService(status_is=status_reply(operation=RESTORE | {"kind": "dump"}))):
        refuse_during_restore(str(tmp_path / "s"))
