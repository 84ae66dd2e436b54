"""Configuration: TOML, environment and credentials into validated values, of which this is the only reader.

What comes first wins: ``ARCBACKUPD_SECTION__KEY`` in the environment, a file
``section__key`` in systemd's credentials directory, the TOML file, the default.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from arcbackupd.durations import parse_duration
from arcbackupd.encryption import check_recipients
from arcbackupd.errors import UsageError
from arcbackupd.niceness import IoClass

DEFAULT_CONFIG = Path("/etc/arcbackupd/config.toml")
CONFIG_VARIABLE = "ARCBACKUPD_CONFIG"
OR_CREDENTIAL = " (a credential of the service is seen by the service alone: `arcbackupctl doctor`)"
"""What to add where a secret lacks: an operator's shell, unlike the daemon, has no credentials directory."""
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}


def _duration(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError('not a duration such as "90s"')  # noqa: TRY004  # pydantic makes errors of ValueErrors only
    return parse_duration(value) if isinstance(value, str) else value


def _duration_or_never(value: object) -> object:
    return None if value == "never" else _duration(value)


def _rate(value: object) -> object:
    match = re.fullmatch(r"(\d+) ?([kKMG]?)B?/s", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('not a rate such as "500 kB/s" or "10 MB/s"')
    return int(match[1]) * _UNITS[match[2].upper()]


def _recipients(value: tuple[str, ...]) -> tuple[str, ...]:
    check_recipients(value)
    return value


def _positive(value: timedelta | None) -> timedelta | None:
    if value is not None and value <= timedelta():
        raise ValueError("must be longer than nothing")
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("must be an absolute path")
    return value


def _textfile(value: Path) -> Path:
    if value.suffix != ".prom":
        raise ValueError("must end with .prom: the collector reads no other")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta())]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
ContainerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
DurationOrNever = Annotated[timedelta | None, BeforeValidator(_duration_or_never), AfterValidator(_positive)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Rate = Annotated[int, BeforeValidator(_rate), Field(gt=0)]
"""Bytes per second."""
Recipients = Annotated[tuple[str, ...], AfterValidator(_recipients)]
_PREFIX = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"


class Section(BaseModel):
    """A table of the configuration: what it doesn't know is an error, and values never show in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class LocalEngine(Section):
    """PostgreSQL without a container: a bare-metal installation, the demo, tests."""

    bin_dir: AbsolutePath | None = None
    host: str | None = None
    port: Annotated[int, Field(gt=0, lt=65536)] = 5432
    os_user: str = "postgres"
    manage_dir: AbsolutePath | None = None
    manage_os_user: str | None = None
    backend_pidfile: AbsolutePath | None = None
    service_manager: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


class Engine(Section):
    """What runs the installation's containers, and their names."""

    kind: Literal["docker", "podman", "local"] = "docker"
    socket: str | None = None
    data_path: Literal["auto", "direct", "stream"] = "auto"
    database: ContainerName = "arcsecond-db"
    backend: ContainerName = "arcsecond-api"
    services: tuple[ContainerName, ...] = (
        "arcsecond-api",
        "arcsecond-worker",
        "arcsecond-dataworker",
        "arcsecond-alerts",
        "arcsecond-beat",
        "arcsecond-web",
    )
    manage: Annotated[tuple[str, ...], Field(min_length=1)] = ("python", "manage.py")
    local: LocalEngine | None = None

    @model_validator(mode="after")
    def _local_only_for_local(self) -> Engine:
        if self.local is not None and self.kind != "local":
            raise ValueError('[engine.local] needs kind = "local"')
        if self.database in self.services:
            raise ValueError("the database can't be one of the services that are stopped for a restore")
        return self


class Control(Section):
    """The control socket and who may do what on it."""

    socket: AbsolutePath = Path("/run/arcbackupd/control.sock")
    group: str = "arcbackup"
    admins: tuple[str, ...] = ("root",)


class Dump(Section):
    """How dumps are taken and written."""

    compression_level: Annotated[int, Field(ge=0, le=9)] = 1
    niceness: Annotated[int, Field(ge=0, le=19)] = 10
    io_class: IoClass = "low"
    lock_timeout: Duration = timedelta(minutes=1)
    stall_timeout: Duration = timedelta(minutes=5)
    wait_for_database: Duration = timedelta(minutes=2)
    yield_after: DurationOrNever = timedelta(seconds=30)
    link_unchanged: bool = True
    mode: int = 0o640
    owner: str | None = None
    group: str | None = None

    @field_validator("mode", mode="before")
    @classmethod
    def _octal(cls, value: object) -> object:
        if isinstance(value, str):
            value = int(value, 8) if value.strip("01234567") == "" and value else -1
        if not isinstance(value, int) or not 0o400 <= value <= 0o666 or not value & stat.S_IRUSR:
            raise ValueError('must be a file mode such as "0640", readable by its owner')
        return value


class Boot(Section):
    """The dump on every start of the backend."""

    hold: bool = True
    max_hold: Duration = timedelta(seconds=120)
    min_interval: Duration = timedelta(minutes=10)


class Retention(Section):
    """Which dumps are kept. Everything is a union: a dump that any rule keeps stays."""

    keep_days: Annotated[int, Field(ge=1, le=36500)] = 14
    keep_last: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    keep_hourly: Count = 0
    keep_daily: Count = 0
    keep_weekly: Count = 0
    keep_monthly: Count = 0
    keep_yearly: Count = 0


class Anomalies(Section):
    """When a dump is flagged for what it lost against its history; ``ignore``: patterns of tables' names."""

    max_loss: Annotated[float, Field(gt=0, le=1)] = 0.5
    min_rows: Annotated[int, Field(ge=1)] = 100
    history: Duration = timedelta(days=14)
    ignore: tuple[str, ...] = (
        "public.django_session",
        "public.django_celery_results_*",
        "public.celery_*meta",
        "public.token_blacklist_*",
        "public.oauth2_provider_*token",
        "public.oauth2_provider_grant",
    )


class OffHostRetention(Retention):
    """Which dumps are kept at a destination: for longer than here, that is what it is for."""

    keep_days: Annotated[int, Field(ge=1, le=36500)] = 90
    keep_monthly: Count = 12


class DestinationTable(Section):
    """What every ``[destinations.NAME]`` may have; all its other keys are its type's own."""

    model_config = ConfigDict(extra="allow")

    type: str
    retention: OffHostRetention = OffHostRetention()
    bandwidth_limit: Rate | None = None


class Stream(Section):
    """Where to a stream goes: under which prefix, and encrypted to which age recipients."""

    to: tuple[str, ...] = ()
    prefix: Annotated[str, Field(pattern=_PREFIX)]
    encrypt_to: Recipients = ()


class DumpsStream(Stream):
    """The dumps."""

    prefix: Annotated[str, Field(pattern=_PREFIX)] = "dumps"


class SecretsStream(Stream):
    """``.env`` and the Compose files."""

    prefix: Annotated[str, Field(pattern=_PREFIX)] = "secrets"


class DataStream(Stream):
    """The shared data, without the dumps."""

    prefix: Annotated[str, Field(pattern=_PREFIX)] = "data"


class Upload(Section):
    """What goes off this host, and where to."""

    dumps: DumpsStream = DumpsStream()
    secrets: SecretsStream = SecretsStream()
    data: DataStream = DataStream()

    @model_validator(mode="after")
    def _prefixes_apart(self) -> Upload:
        prefixes = [self.dumps.prefix, self.secrets.prefix, self.data.prefix]
        if any(one != other and f"{one}/".startswith(f"{other}/") for one in prefixes for other in prefixes):
            raise ValueError("no prefix may be within another stream's")
        if len(set(prefixes)) < len(prefixes):
            raise ValueError("each stream needs a prefix of its own")
        return self


class Restore(Section):
    """How long what was replaced is kept, and services may take to come up."""

    keep_replaced: Duration = timedelta(hours=24)
    services_timeout: Duration = timedelta(minutes=10)


class Drill(Section):
    """Where drills load a backup; up to which load of the host, for each processor, scheduled ones are done."""

    place: Literal["database", "container"] = "database"
    max_load: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Status(Section):
    """From which age on `status` isn't ok: of the newest good dump, and of the last complete upload to a place.

    Left out: two, six periods of the dump job; the same of the upload job, but no less than one day, three days.
    """

    warn_after: Duration | None = None
    critical_after: Duration | None = None
    upload_warn_after: Duration | None = None
    upload_critical_after: Duration | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Status:
        if self.warn_after and self.critical_after and self.warn_after > self.critical_after:
            raise ValueError("warn_after must not be longer than critical_after")
        warn, critical = self.upload_warn_after, self.upload_critical_after
        if warn and critical and warn > critical:
            raise ValueError("upload_warn_after must not be longer than upload_critical_after")
        return self


class Metrics(Section):
    """The file that node_exporter's textfile collector reads."""

    textfile: Annotated[AbsolutePath, AfterValidator(_textfile)] | None = None


class AlarmTable(Section):
    """What every ``[alarms.NAME]`` has; all its other keys are its type's own."""

    model_config = ConfigDict(extra="allow")

    type: str


def _state_dir() -> Path:
    directories = os.environ.get("STATE_DIRECTORY", "")
    return Path(directories.split(":")[0] or "/var/lib/arcbackupd")


class Settings(BaseSettings):
    """All settings. ``jobs`` holds each job's own table as it stands; the job's plugin validates it."""

    model_config = SettingsConfigDict(
        env_prefix="ARCBACKUPD_",
        env_nested_delimiter="__",
        secrets_nested_delimiter="__",
        secrets_prefix="",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    install_dir: AbsolutePath = Path("/srv/arcsecond")
    state_dir: AbsolutePath = Field(default_factory=_state_dir)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    engine: Engine = Engine()
    control: Control = Control()
    dump: Dump = Dump()
    boot: Boot = Boot()
    retention: Retention = Retention()
    anomalies: Anomalies = Anomalies()
    restore: Restore = Restore()
    drill: Drill = Drill()
    destinations: dict[str, DestinationTable] = {}
    upload: Upload = Upload()
    status: Status = Status()
    metrics: Metrics = Metrics()
    alarms: dict[str, AlarmTable] = {}
    jobs: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _containers_for_drills(self) -> Settings:
        if self.drill.place == "container" and self.engine.kind == "local":
            raise ValueError(
                'drill.place = "container" needs docker or podman: engine.kind = "local" has no containers'
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment, credentials, file; nothing else is a source."""
        del init_settings, dotenv_settings
        return (
            env_settings,
            NestedSecretsSettingsSource(file_secret_settings, secrets_dir_missing="ok"),
            TomlConfigSettingsSource(settings_cls),
        )


def config_path(given: Path | None = None) -> Path:
    """The configuration file to read: the one given, the environment's, or the standard one."""
    return given or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def load_settings(path: Path) -> Settings:
    """Read and validate the configuration. Raise UsageError naming file, key and reason, never a value."""
    _check_readable(path)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path, secrets_dir=os.environ.get("CREDENTIALS_DIRECTORY"))

    try:
        return FromFile()
    except tomllib.TOMLDecodeError as error:
        raise configuration_error(path, f"not valid TOML: {error}") from None
    except ValidationError as error:
        raise configuration_error(path, *validation_reasons(error)) from None
    except SettingsError as error:
        raise configuration_error(path, str(error)) from None
    except UnicodeDecodeError:
        raise configuration_error(path, "it, or a credential, is not text in UTF-8") from None
    except RecursionError:
        raise configuration_error(path, "not valid TOML: nested too deeply") from None


def state_dir_of(path: Path) -> Path:
    """The state directory, also when the configuration has become a wrong one: then as it is by default."""
    try:
        return load_settings(path).state_dir
    except UsageError:
        return _state_dir()


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        hint = (
            "`sudo arcbackupd setup` writes it. Or copy config.example.toml there, or name another file with"
            f" --config or {CONFIG_VARIABLE}."
        )
        raise UsageError("configuration", f"There is no configuration file {path}.", hint=hint) from None
    except OSError as error:
        hint = "Run it as root, or give this user the right to read the file."
        raise UsageError("configuration", f"{path}: {error.strerror}.", hint=hint) from None


def configuration_error(path: Path, *reasons: str) -> UsageError:
    """The error for a configuration that can't be used, with all its reasons."""
    lines = "\n  ".join(reasons)
    return UsageError(
        "configuration",
        f"{path}: {lines}" if len(reasons) == 1 else f"{path}:\n  {lines}",
        hint="Correct it and try again: `arcbackupctl check-config` tells without starting anything.",
    )


def validation_reasons(error: ValidationError, prefix: str = "") -> list[str]:
    """``key: reason`` for everything that is wrong; pydantic's own words, without the values."""
    return [_reason(prefix, detail["loc"], detail["type"], detail["msg"]) for detail in error.errors()]


def _reason(prefix: str, location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(filter(None, [prefix, *(str(part) for part in location)]))
    if kind == "extra_forbidden":
        return f"{key}: there is no such setting"
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message
