"""What `setup` finds on the host before it asks anything."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.checks.host import SERVICE, SOCKET
from arcbackupd.errors import ArcbackupdError, OperationFailed, Refused, UsageError
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.settings import Settings, load_settings
from arcbackupd.setup import installs
from arcbackupd.setup.config_text import explicit
from arcbackupd.stack.command import Command
from arcbackupd.stack.containers import ContainerEngine
from arcbackupd.stack.engine import Labelled
from arcbackupd.stack.process import run

DROP_IN = Path("/etc/systemd/system/arcbackupd.service.d/paths.conf")
_SECONDS = 30.0
_PROPERTIES = "LoadState,ActiveState,UnitFileState,NeedDaemonReload,ReadWritePaths"
_FIRST_LOGIN, _LAST_LOGIN = 1000, 60000
"""Users of people (login.defs: UID_MIN, UID_MAX)."""


@dataclass(frozen=True)
class Host:
    """What there is. Texts are ``None`` where there is no such file."""

    config: Path
    config_text: str | None
    settings: Settings
    """What the configuration says, defaults included."""
    drop_in_text: str | None
    units: Mapping[str, Mapping[str, str]]
    """Properties of the service and the socket, by the units' names."""
    group_exists: bool
    members: frozenset[str]
    engine: EngineSettings
    """The engine that answers, or that should."""
    containers: tuple[Labelled, ...]
    installs: tuple[Path, ...]

    @property
    def allowed(self) -> list[str]:
        """What the service may write to, by its unit and drop-ins."""
        return self.units[SERVICE]["ReadWritePaths"].split()


def look(config: Path, kind: str | None) -> Host:
    """Look around. ``kind`` is that of the engine, if it was said.

    Raise Refused for somebody who isn't root, UsageError where the units or a valid configuration lack.
    """
    if os.geteuid() != 0:
        raise Refused("not-root", "Only root can set arcbackupd up.", hint="sudo arcbackupd setup")
    units = {unit: _properties(unit) for unit in (SERVICE, SOCKET)}
    _require_installed(units)
    text = _text(config)
    settings = settings_of(config, text or "")
    engine, containers = find_engine(settings.engine, kind or explicit(text or "", "engine.kind"))
    homes = [Path(user.pw_dir) for user in pwd.getpwall() if _is_login(user)]
    places = installs.candidates(containers, homes, Path.cwd())
    group_exists, members = _group(settings.control.group)
    return Host(
        config=config,
        config_text=text,
        settings=settings,
        drop_in_text=_text(DROP_IN),
        units=units,
        group_exists=group_exists,
        members=members,
        engine=engine,
        containers=tuple(containers),
        installs=tuple(installs.installs(places)),
    )


def settings_of(config: Path, text: str) -> Settings:
    """What a text would mean as that file. Raise UsageError, as `load_settings` does."""
    with tempfile.TemporaryDirectory() as directory:  # of our own alone
        trial = Path(directory, config.name)
        trial.write_text(text, "utf-8")
        try:
            return load_settings(trial)
        except UsageError as error:
            raise UsageError(error.code, error.message.replace(str(trial), str(config)), hint=error.hint) from None


def _require_installed(units: Mapping[str, Mapping[str, str]]) -> None:
    missing = [unit for unit, told in units.items() if told.get("LoadState") != "loaded"]
    if missing:
        hint = "Install them first: `make install-host` in a checkout, or the Debian package."
        raise UsageError("units-missing", f"systemd doesn't know {' and '.join(missing)}.", hint=hint)


def _properties(unit: str) -> dict[str, str]:
    finished = run(Command(("systemctl", "show", unit, f"--property={_PROPERTIES}")), timeout=_SECONDS)
    if finished.status:
        hint = "It needs a host that systemd runs. Without one: `arcbackupd` in the foreground, see README.md."
        raise OperationFailed("no-systemd", f"systemctl can't be asked: {finished.error}.", hint=hint)
    lines = finished.output.decode("utf-8", "replace").splitlines()
    # Of properties without a value, an older systemd says nothing.
    return {"ReadWritePaths": "", "UnitFileState": "", **dict(line.split("=", 1) for line in lines if "=" in line)}


def find_engine(settings: EngineSettings, kind: str | None) -> tuple[EngineSettings, list[Labelled]]:
    """The engine of that kind and its containers; if it wasn't said, of one with an observatory.

    Raise OperationFailed when none answers.
    """
    if kind == "local":
        return settings, []
    answers: list[tuple[EngineSettings, list[Labelled]]] = []
    failures: list[ArcbackupdError] = []
    for one in [kind] if kind else ["docker", "podman"]:
        same = settings if one == settings.kind else EngineSettings.model_validate({"kind": one})
        try:
            answers.append((same, ContainerEngine(same).labelled(installs.PROJECT_DIR)))
        except ArcbackupdError as error:
            failures.append(error)
    if not answers:
        raise failures[0]
    return max(answers, key=lambda answer: (bool(installs.installs(installs.running(answer[1]))), bool(answer[1])))


def _group(name: str) -> tuple[bool, frozenset[str]]:
    try:
        return True, frozenset(grp.getgrnam(name).gr_mem)
    except KeyError:
        return False, frozenset()


def _is_login(user: pwd.struct_passwd) -> bool:
    return user.pw_uid == 0 or _FIRST_LOGIN <= user.pw_uid <= _LAST_LOGIN


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise OperationFailed("unreadable", f"{path} can't be read as text: {error}.") from None
