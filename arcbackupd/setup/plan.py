"""From what there is and what was answered to what is to be done. Reads ``.env``; changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.checks.host import SERVICE, SOCKET
from arcbackupd.installation import read_installation
from arcbackupd.setup.config_text import Value, explicit, with_settings
from arcbackupd.setup.drop_in import wanted_text
from arcbackupd.setup.first_backup import Diagnose, FirstBackup
from arcbackupd.setup.host import DROP_IN, Host, settings_of
from arcbackupd.setup.steps import Examine, RunProgram, Step, WriteFile

_HEAD = """\
# arcbackupd's settings. What isn't here has its default; config.example.toml beside the README explains each.
# `arcbackupctl check-config` tells whether a changed file is right, `systemctl reload arcbackupd` puts it in force.

"""
_CONFIG_MODE = 0o640  # of root alone: destinations may have keys in it
_UNIT_MODE = 0o644


@dataclass(frozen=True)
class Answers:
    """What was asked, or said by options. ``admins`` are among the ``users``."""

    install_dir: Path
    database: str
    backend: str
    services: tuple[str, ...]
    users: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The steps, and what somebody wrote that they would replace, a sentence each."""

    steps: tuple[Step, ...]
    replaced: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether anything would be changed."""
        return any(step.changes for step in self.steps)


def make_plan(host: Host, answers: Answers) -> Plan:
    """What is to be done. Raise OperationFailed when ``.env`` doesn't say where the shared data are."""
    wanted = wanted_settings(host, answers)
    replaced = replaced_settings(host.config_text or "", wanted)
    before = _HEAD if host.config_text is None else host.config_text
    text = with_settings(before, wanted)
    settings = settings_of(host.config, text)
    shared = shared_path(answers.install_dir)
    drop_in = wanted_text(host.drop_in_text, host.allowed, shared)

    def steps() -> Iterator[Step]:
        yield Examine(host.config, settings)
        if text != host.config_text:
            yield WriteFile(host.config, host.config_text, text, _CONFIG_MODE, copy=bool(replaced))
        if drop_in is not None:
            yield WriteFile(DROP_IN, host.drop_in_text, drop_in, _UNIT_MODE)
        group = settings.control.group
        if not host.group_exists:
            yield RunProgram(f"Make the group {group}", ("groupadd", "--system", group))
        for user in answers.users:
            if user not in host.members:
                yield RunProgram(
                    f"Add {user} to the group {group}", ("usermod", "--append", "--groups", group, user)
                )
        yield from _systemd(host, written=text != host.config_text or drop_in is not None)
        yield Diagnose(str(settings.control.socket))
        yield FirstBackup(str(settings.control.socket))

    return Plan(tuple(steps()), replaced)


def _systemd(host: Host, *, written: bool) -> Iterator[Step]:
    if written or any(told["NeedDaemonReload"] == "yes" for told in host.units.values()):
        yield RunProgram("Have systemd read the units again", ("systemctl", "daemon-reload"))
    if any(told["UnitFileState"] != "enabled" for told in host.units.values()):
        yield RunProgram("Have the service start with the host", ("systemctl", "enable", SOCKET, SERVICE))
    service_up, socket_up = (host.units[unit]["ActiveState"] == "active" for unit in (SERVICE, SOCKET))
    # A socket that was made for root alone is made anew; and beside an active service it doesn't start.
    if service_up and (not host.group_exists or not socket_up):
        yield RunProgram("Stop the socket and the service", ("systemctl", "stop", SOCKET, SERVICE))
        service_up = False
    if not service_up or not socket_up:
        yield RunProgram("Start the socket and the service", ("systemctl", "start", SOCKET, SERVICE))
    elif written:
        yield RunProgram("Restart the service", ("systemctl", "restart", SERVICE))


def wanted_settings(host: Host, answers: Answers) -> dict[str, Value]:
    """The settings that have to differ from what they are now."""
    now = host.settings
    admins = tuple(dict.fromkeys([*now.control.admins, *answers.admins]))
    pairs: dict[str, tuple[object, Value]] = {
        "install_dir": (str(now.install_dir), str(answers.install_dir)),
        "engine.kind": (now.engine.kind, host.engine.kind),
        "engine.database": (now.engine.database, answers.database),
        "engine.backend": (now.engine.backend, answers.backend),
        "engine.services": (now.engine.services, answers.services),
        "control.admins": (now.control.admins, admins),
    }
    return {key: wanted for key, (present, wanted) in pairs.items() if present != wanted}


def replaced_settings(text: str, wanted: dict[str, Value]) -> tuple[str, ...]:
    """What somebody wrote and a wanted setting would replace; an entry more in a list replaces nothing."""
    told = []
    for key, value in wanted.items():
        written = explicit(text, key)
        added = isinstance(written, list) and set(written) <= set(value)
        if written is not None and not added:
            told.append(f"{key} is {written!r}, and would become {value!r}")
    return tuple(told)


def shared_path(install_dir: Path) -> Path:
    """Where the installation's shared data are, as the service's unit needs it: absolute, without ``..``."""
    return Path(os.path.normpath(read_installation(install_dir, with_password=False).shared_data_path))
