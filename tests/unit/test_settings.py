"""Configuration: what wins, what is refused and how, and that nothing secret shows; the example; ``.env``."""

from __future__ import annotations

import os
import re
import tomllib
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from arcbackupd.durations import parse_duration
from arcbackupd.errors import ArcbackupdError, OperationFailed, UsageError
from arcbackupd.installation import Installation, read_installation
from arcbackupd.jobs.discard import DiscardJob
from arcbackupd.jobs.drill import DrillJob
from arcbackupd.jobs.dump import DumpJob
from arcbackupd.jobs.prune import PruneJob
from arcbackupd.settings import (
    CONFIG_VARIABLE,
    DEFAULT_CONFIG,
    Engine,
    LocalEngine,
    Settings,
    config_path,
    load_settings,
)

SECRET = "hunter2-S3cr3t"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests gets in."""
    for name in [name for name in os.environ if name.startswith("ARCBACKUPD_")]:
        monkeypatch.delenv(name)
    for name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An empty configuration."""
    path = tmp_path / "config.toml"
    path.write_text("")
    return path


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty credentials directory, as systemd makes it."""
    path = tmp_path / "credentials"
    path.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path))
    return path


def refused(config: Path, text: str | bytes | None = None) -> UsageError:
    """The error for this configuration, after a look whether anything secret shows."""
    if text is not None:
        config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        load_settings(config)
    assert caught.value.code == "configuration"
    assert caught.value.hint
    assert str(config) in caught.value.message
    shows_nothing(caught.value)
    return caught.value


def shows_nothing(error: ArcbackupdError) -> None:
    told = [error.message, error.hint, repr(error), str(error.as_dict()), *traceback.format_exception(error)]
    assert SECRET not in "".join(told)


# Precedence


def test_an_empty_file_gives_the_defaults_of_a_standard_installation(config: Path) -> None:
    loaded = load_settings(config)
    assert loaded.install_dir == Path("/srv/arcsecond")
    assert loaded.state_dir == Path("/var/lib/arcbackupd")
    assert (loaded.engine.kind, loaded.engine.database, loaded.engine.backend) == (
        "docker",
        "arcsecond-db",
        "arcsecond-api",
    )
    assert (loaded.control.socket, loaded.control.group) == (Path("/run/arcbackupd/control.sock"), "arcbackup")
    assert (loaded.retention.keep_days, loaded.retention.keep_last) == (14, 3)
    assert (loaded.dump.mode, loaded.jobs) == (0o640, {})


def test_the_environment_goes_before_a_credential_and_that_before_the_file(
    config: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_days() -> int:
        return load_settings(config).retention.keep_days

    assert keep_days() == 14
    config.write_text("[retention]\nkeep_days = 15\nkeep_last = 9\n")
    assert keep_days() == 15
    (credentials / "retention__keep_days").write_text("16\n")
    assert keep_days() == 16
    monkeypatch.setenv("ARCBACKUPD_RETENTION__KEEP_DAYS", "17")
    assert keep_days() == 17
    assert load_settings(config).retention.keep_last == 9


def test_settings_of_jobs_come_from_the_environment_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[jobs.dump]\nschedule = "daily"\n')
    monkeypatch.setenv("ARCBACKUPD_JOBS__DUMP__SCHEDULE", "every 30m")
    assert load_settings(config).jobs["dump"]["schedule"] == "every 30m"


def test_variables_that_are_no_settings_are_left_alone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCBACKUPD_SOCKET", "/x")
    monkeypatch.setenv("ARCBACKUPD_CONFIG", "/y")
    assert load_settings(config).control.socket == Path("/run/arcbackupd/control.sock")


def test_credentials_that_are_no_settings_and_none_at_all_are_no_error(
    config: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (credentials / "tls.key").write_text(SECRET)
    assert load_settings(config).retention.keep_days == 14
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/nonexistent")
    assert load_settings(config).retention.keep_days == 14


@pytest.mark.parametrize(
    ("variable", "in_file", "expected"),
    [
        (None, None, "/var/lib/arcbackupd"),
        ("", None, "/var/lib/arcbackupd"),
        ("/a", None, "/a"),
        ("/a:/b", None, "/a"),
        ("/a", "/c", "/c"),
    ],
)
def test_the_state_directory_is_systemds_unless_it_is_set(
    variable: str | None, in_file: str | None, expected: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("STATE_DIRECTORY", variable)
    if in_file:
        config.write_text(f'state_dir = "{in_file}"')
    assert load_settings(config).state_dir == Path(expected)


def test_the_file_is_the_one_given_or_the_environment_s_or_the_standard_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert config_path() == DEFAULT_CONFIG
    monkeypatch.setenv(CONFIG_VARIABLE, "/a")
    assert config_path() == Path("/a")
    assert config_path(Path("/b")) == Path("/b")
    monkeypatch.setenv(CONFIG_VARIABLE, "")
    assert config_path() == DEFAULT_CONFIG


# Errors


def test_a_missing_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    error = refused(tmp_path / "missing.toml")
    assert "There is no configuration file" in error.message
    assert "config.example.toml" in error.hint


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    assert "Is a directory" in refused(tmp_path).message


@pytest.mark.parametrize(
    "text",
    [
        f"password = {SECRET}",
        f'a = "{SECRET}',
        f'a = "x"\na = "{SECRET}"',
        f"= {SECRET}",
        f'a = """{SECRET}',
        f'"{SECRET}'.encode() + b"\xff\xfe",
        b'a = "' + SECRET.encode() + b'\xff"',
        "a = " + "[" * 5000,
        "[[engine]]\n[engine]\n",
    ],
)
def test_what_is_no_toml_is_refused_without_showing_it(config: Path, text: str | bytes) -> None:
    message = refused(config, text).message
    assert "not valid TOML" in message or "UTF-8" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("instal_dir = '{}'", "instal_dir: there is no such setting"),
        ("[engine]\npassword = '{}'", "engine.password: there is no such setting"),
        ("[engine.local]\npasword = '{}'", "engine.local.pasword: there is no such setting"),
        ("[retension]\nkeep_days = '{}'", "retension: there is no such setting"),
        ("install_dir = '{}'", "install_dir: must be an absolute path"),
        ("install_dir = 5", "install_dir: "),
        ("log_level = '{}'", "log_level: should be 'debug', 'info', 'warning' or 'error'"),
        ("engine = '{}'", "engine: "),
        ("[engine]\nkind = '{}'", "engine.kind: should be 'docker', 'podman' or 'local'"),
        ("[engine]\ndatabase = '--{}'", "engine.database: "),
        ("[engine]\nservices = '{}'", "engine.services: "),
        ("[engine]\nservices = ['ok', '--{}']", "engine.services.1: "),
        ("[engine]\nmanage = []", "engine.manage: "),
        ("[engine]\nkind = 'local'\n[engine.local]\nport = 0", "engine.local.port: "),
        ("[engine]\nkind = 'local'\n[engine.local]\nport = '{}'", "engine.local.port: "),
        ("[control]\nsocket = '{}'", "control.socket: must be an absolute path"),
        ("[control]\nadmins = '{}'", "control.admins: "),
        ("[dump]\nmode = '{}'", 'dump.mode: must be a file mode such as "0640", readable by its owner'),
        ("[dump]\nmode = '0040'", "dump.mode: "),
        ("[dump]\nmode = '0777'", "dump.mode: "),
        ("[dump]\nmode = '0o640'", "dump.mode: "),
        ("[dump]\nmode = true", "dump.mode: "),
        ("[dump]\ncompression_level = 10", "dump.compression_level: "),
        ("[dump]\nniceness = 20", "dump.niceness: "),
        ("[dump]\nio_class = '{}'", "dump.io_class: "),
        ("[engine]\ndata_path = '{}'", "engine.data_path: "),
        ("[dump]\nlock_timeout = '{}'", 'dump.lock_timeout: not a duration such as "90s"'),
        ("[dump]\nlock_timeout = '0s'", "dump.lock_timeout: "),
        ("[dump]\nlock_timeout = -5", "dump.lock_timeout: "),
        ("[dump]\nlock_timeout = true", "dump.lock_timeout: "),
        ("[dump]\nlock_timeout = nan", "dump.lock_timeout: "),
        ("[dump]\nlock_timeout = '99999999999999w'", "dump.lock_timeout: "),
        ("[dump]\nlink_unchanged = '{}'", "dump.link_unchanged: "),
        ("[retention]\nkeep_days = 0", "retention.keep_days: "),
        ("[retention]\nkeep_last = 0", "retention.keep_last: "),
        ("[retention]\nkeep_daily = -1", "retention.keep_daily: "),
        ("[retention]\nkeep_days = '{}'", "retention.keep_days: "),
        ("[retention]\nkeep_days = 1.5", "retention.keep_days: "),
        ("jobs = 5", "jobs: "),
        ("[jobs]\ndump = '{}'", "jobs.dump: "),
    ],
)
def test_what_is_wrong_is_told_by_its_key_and_never_shown(config: Path, text: str, reason: str) -> None:
    assert reason in refused(config, text.replace("{}", SECRET)).message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[engine.local]\nport = 5432", 'engine: [engine.local] needs kind = "local"'),
        ("[engine]\nservices = ['arcsecond-db']", "engine: the database can't be one of the services"),
        (
            "[status]\nwarn_after = '6h'\ncritical_after = '2h'",
            "status: warn_after must not be longer than critical_after",
        ),
    ],
)
def test_impossible_combinations_are_refused(config: Path, text: str, reason: str) -> None:
    assert reason in refused(config, text).message


def test_all_that_is_wrong_is_told_at_once(config: Path) -> None:
    message = refused(
        config, "nonsense = 1\nlog_level = 'x'\n[retention]\nkeep_days = 0\n[dump]\nmode = 'x'\n"
    ).message
    assert all(key in message for key in ("nonsense", "log_level", "retention.keep_days", "dump.mode"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ARCBACKUPD_RETENTION", SECRET),
        ("ARCBACKUPD_RETENTION", f'{{"{SECRET}'),
        ("ARCBACKUPD_ENGINE__SERVICES", SECRET),
        ("ARCBACKUPD_RETENTION__KEEP_DAYS", SECRET),
        ("ARCBACKUPD_ENGINE__PASSWORD", SECRET),
        ("ARCBACKUPD_LOG_LEVEL", SECRET),
        ("ARCBACKUPD_INSTALL_DIR", SECRET),
        ("ARCBACKUPD_JOBS", SECRET),
    ],
)
def test_what_is_wrong_in_the_environment_is_refused_without_showing_it(
    config: Path, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    key = variable.removeprefix("ARCBACKUPD_").lower().split("__")[0]
    assert key in refused(config).message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention", SECRET.encode()),
        ("retention__keep_days", SECRET.encode()),
        ("log_level", SECRET.encode()),
        ("retention__keep_days", SECRET.encode() + b"\xff\xfe"),
    ],
)
def test_what_is_wrong_in_a_credential_is_refused_without_showing_it(
    config: Path, credentials: Path, name: str, value: bytes
) -> None:
    (credentials / name).write_bytes(value)
    refused(config)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_garbage_is_refused_or_loaded_and_never_a_crash(config: Path, text: bytes) -> None:
    config.write_bytes(text)
    try:
        load_settings(config)
    except UsageError as error:
        assert error.code == "configuration"  # noqa: PT017  # most garbage is refused, some is a comment


def test_settings_cannot_be_changed(config: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(config).retention.keep_days = 1


@pytest.mark.parametrize(
    ("text", "mode"), [("'0640'", 0o640), ("'600'", 0o600), ("0o640", 0o640), ("'0400'", 0o400)]
)
def test_a_file_mode_is_octal(config: Path, text: str, mode: int) -> None:
    config.write_text(f"[dump]\nmode = {text}")
    assert load_settings(config).dump.mode == mode


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("14d", 14 * 86400),
        ("2w", 14 * 86400),
        ("500ms", 0.5),
        ("1 h 30 m", 5400),
        (" 5s ", 5),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "5",
        "s",
        "5 s 3",
        "-5s",
        "1.5h",
        "5x",
        "5s;",
        "\u0665s",
        "1h-30m",
        "P1D",
        "1:30",
        "inf",
        "9" * 5000 + "s",
        "9999999999w",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|digits"):
        parse_duration(text)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(["ms", "s", "m", "h", "d", "w"])), min_size=1))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    whole = parse_duration("".join(f"{number}{unit}" for number, unit in parts))
    assert whole == sum((parse_duration(f"{number}{unit}") for number, unit in parts), timedelta())


# The example

ASSIGNMENT = re.compile(r"#([a-z_]+) = (.+?)(  # not set by default)?")
HEADING = re.compile(r"#?\[([a-z_.]+)\]")
DEFAULTS_OF_JOBS = MappingProxyType(
    {job.name: job.default_schedule for job in (DumpJob, PruneJob, DrillJob, DiscardJob)}
)


@pytest.fixture
def example(repository: Path) -> Path:
    """The documented example."""
    return repository / "config.example.toml"


def documented(example: Path) -> Iterator[tuple[str, Any, bool]]:
    """Every setting in the example: its key, the value shown, and whether it is set by default."""
    table = ""
    for line in example.read_text().splitlines():
        if heading := HEADING.fullmatch(line):
            table = heading[1] + "."
        elif table.startswith(("destinations.", "alarms.")):  # an example by itself
            continue
        elif found := ASSIGNMENT.fullmatch(line):
            yield table + found[1], tomllib.loads(f"x = {found[2]}")["x"], found[3] is None


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of the model, with its default."""
    defaults = model.model_construct()
    for name in model.model_fields:
        value = getattr(defaults, name)
        if name == "local":
            yield from keys(LocalEngine, f"{prefix}local.")
        elif isinstance(value, BaseModel):
            yield from keys(type(value), f"{prefix}{name}.")
        elif name not in ("jobs", "destinations", "alarms"):
            yield prefix + name, value


def test_the_example_loads_and_changes_nothing(example: Path, config: Path) -> None:
    assert load_settings(example).model_dump(exclude={"jobs"}) == load_settings(config).model_dump(exclude={"jobs"})


def test_every_setting_is_in_the_example_once_and_no_other_is(example: Path) -> None:
    shown = [key for key, _, _ in documented(example) if not key.startswith("jobs.")]
    assert sorted(shown) == sorted(key for key, _ in keys(Settings))
    assert {key for key, _, _ in documented(example) if key.startswith("jobs.")} == {
        "jobs.dump.schedule",
        "jobs.prune.schedule",
        "jobs.drill.schedule",
        "jobs.discard.schedule",
    }


def test_every_default_in_the_example_is_the_default(example: Path, config: Path) -> None:
    defaults = dict(keys(Settings)) | {f"jobs.{job}.schedule": text for job, text in DEFAULTS_OF_JOBS.items()}
    for key, value, is_set in documented(example):
        default = defaults[key]
        if not is_set:
            assert default is None, key
        elif isinstance(default, timedelta):
            assert parse_duration(value) == default, key
        elif key == "dump.mode":
            assert int(value, 8) == default
        else:
            assert (tuple(value) if isinstance(value, list) else value) == (
                str(default) if isinstance(default, Path) else default
            ), key


def test_every_line_of_the_example_is_right_when_its_comment_sign_is_taken_off(example: Path, config: Path) -> None:
    lines = example.read_text().splitlines()
    bare = "\n".join(
        line.removeprefix("#") if ASSIGNMENT.fullmatch(line) or HEADING.fullmatch(line) else line for line in lines
    )
    config.write_text(bare.replace('kind = "docker"', 'kind = "local"'))
    loaded = load_settings(config)
    assert loaded.engine.local is not None
    assert loaded.jobs == {job: {"schedule": text} for job, text in DEFAULTS_OF_JOBS.items()}


def test_the_example_goes_in_the_order_of_the_settings_and_says_what_is_not_in_force(example: Path) -> None:
    text = example.read_text()
    headings = [found[1] for line in text.splitlines() if (found := HEADING.fullmatch(line))]
    assert headings == [
        "engine",
        "engine.local",
        "control",
        "dump",
        "boot",
        "retention",
        "anomalies",
        "restore",
        "drill",
        "destinations.nas",
        "upload.dumps",
        "upload.secrets",
        "upload.data",
        "jobs.dump",
        "jobs.prune",
        "jobs.drill",
        "jobs.discard",
        "status",
        "metrics",
        "alarms.night",
    ]


def test_engine_names_are_those_of_arcsecond() -> None:
    assert "arcsecond-broker" not in Engine().services
    assert "arcsecond-platesolver" not in Engine().services


# The installation's .env


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An install directory without a .env."""
    for name in ("POSTGRES_PASSWORD", "POSTGRES_USER", "POSTGRES_DB", "SHARED_DATA_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "arcsecond"
    path.mkdir()
    return path


def env(install: Path, text: str | bytes) -> Path:
    path = install / ".env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def unusable(install: Path) -> OperationFailed:
    with pytest.raises(OperationFailed) as caught:
        read_installation(install)
    assert caught.value.hint
    shows_nothing(caught.value)
    return caught.value


def test_the_installation_is_what_its_env_says(install: Path) -> None:
    env(install, f"SHARED_DATA_PATH=/data\nPOSTGRES_PASSWORD='{SECRET}'\nPOSTGRES_USER=me\nPOSTGRES_DB=mine\n")
    found = read_installation(install)
    assert (found.shared_data_path, found.backups_dir) == (Path("/data"), Path("/data/db_backups"))
    assert (found.user, found.database, found.world_readable) == ("me", "mine", False)
    assert found.password.get_secret_value() == SECRET
    assert SECRET not in repr(found) + str(found) + found.model_dump_json()


def test_user_and_database_have_defaults_and_a_relative_path_starts_at_the_install_directory(install: Path) -> None:
    env(install, "SHARED_DATA_PATH=./shared\nPOSTGRES_PASSWORD=x\nPOSTGRES_DB=\n")
    found = read_installation(install)
    assert found.shared_data_path == install / "shared"
    assert (found.user, found.database) == ("arcsecond_docker", "arcsecond_docker")


def test_the_env_is_read_anew_every_time(install: Path) -> None:
    for password in ("one", "two"):
        env(install, f"SHARED_DATA_PATH=/d\nPOSTGRES_PASSWORD={password}")
        assert read_installation(install).password.get_secret_value() == password


def test_a_world_readable_env_is_noticed(install: Path) -> None:
    path = env(install, "SHARED_DATA_PATH=/d\nPOSTGRES_PASSWORD=x")
    path.chmod(0o644)
    assert read_installation(install).world_readable


def test_a_password_that_is_no_utf8_comes_back_byte_for_byte(install: Path) -> None:
    env(install, b"SHARED_DATA_PATH=/d\nPOSTGRES_PASSWORD='\xe9t\xe9'")
    assert os.fsencode(read_installation(install).password.get_secret_value()) == b"\xe9t\xe9"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "POSTGRES_PASSWORD=",
        "POSTGRES_PASSWORD=''",
        "# POSTGRES_PASSWORD=x",
        "POSTGRES_PASSWORD=$UNSET_VARIABLE",
    ],
)
def test_a_missing_password_is_told_in_the_words_that_operators_know(install: Path, text: str) -> None:
    env(install, f"SHARED_DATA_PATH=/d\n{text}\n")
    error = unusable(install)
    assert (error.code, error.message) == ("password-missing", "POSTGRES_PASSWORD missing from .env")


def test_a_missing_shared_path_is_told(install: Path) -> None:
    env(install, f"POSTGRES_PASSWORD={SECRET}")
    assert (unusable(install).code, "SHARED_DATA_PATH" in unusable(install).message) == (
        "shared-path-missing",
        True,
    )


def test_a_missing_env_is_told(install: Path) -> None:
    error = unusable(install)
    assert error.code == "env-missing"
    assert str(install / ".env") in error.message


def test_an_env_that_is_wrong_is_told_by_its_line_and_never_shown(install: Path) -> None:
    env(install, f"SHARED_DATA_PATH=/d\nPOSTGRES_PASSWORD='{SECRET}\n")
    error = unusable(install)
    assert error.code == "env-invalid"
    assert "line 2: " in error.message


def test_an_env_that_cannot_be_read_is_told(install: Path) -> None:
    (install / ".env").mkdir()
    assert (unusable(install).code, "Is a directory" in unusable(install).message) == ("env-unreadable", True)


def test_an_installation_says_nothing_of_its_password_when_it_is_wrong() -> None:
    with pytest.raises(ValueError, match="shared_data_path") as caught:
        Installation.model_validate({"password": SECRET, "shared_data_path": [SECRET]})
    assert SECRET not in str(caught.value)
