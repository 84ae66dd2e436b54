"""Checks of the host: its clock, the group, the control socket, and the unit as systemd has it."""

from __future__ import annotations

import grp
import stat
from datetime import UTC, datetime
from pathlib import Path

from arcbackupd.checks import Verdict, failed, ok, skipped, warning
from arcbackupd.checks.subject import Subject
from arcbackupd.errors import ArcbackupdError
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import run
from arcbackupd.stack.standby import under_systemd

SERVICE = "arcbackupd.service"
SOCKET = "arcbackupd.socket"
_ANEW = f"`systemctl stop {SOCKET} {SERVICE} && systemctl start {SOCKET} {SERVICE}`"
"""Not ``restart``: of both it can find the service still active, beside which the socket doesn't start."""
_SECONDS = 15.0
_NOT_A_SERVICE = "The daemon isn't run by systemd."


def clock(subject: Subject) -> Verdict:
    """Whether the clock is synchronised: names of backups are times, and retention goes by them."""
    if subject.living and (doubt := subject.living.clock_doubt()):
        return warning(doubt, "Check the clock: `timedatectl`.")
    synchronised = _told("timedatectl", "show", "--property=NTPSynchronized").get("NTPSynchronized")
    if synchronised is None:
        return skipped("timedatectl doesn't tell.")
    if synchronised != "yes":
        hint = "`timedatectl set-ntp true`, or whatever synchronises clocks here. Backups are named after the time."
        return warning("The clock isn't synchronised.", hint)
    return ok("It is synchronised.")


def group(subject: Subject) -> Verdict:
    """Whether the group exists whose members may look and take backups."""
    name = subject.settings.control.group
    try:
        members = grp.getgrnam(name).gr_mem
    except KeyError:
        hint = f"`systemd-sysusers` makes it where the units are installed; or `groupadd --system {name}`."
        return warning(f"There is no group {name}: only root can use arcbackupctl.", hint)
    return ok(f"{name}: {', '.join(members) or 'no members, only root can use arcbackupctl'}.")


def socket(subject: Subject) -> Verdict:
    """Whether the control socket is open to the group, and to nobody else."""
    if subject.living is None:
        return skipped("It comes when the daemon starts.")
    path, name = subject.settings.control.socket, subject.settings.control.group
    found = path.stat()
    if not stat.S_ISSOCK(found.st_mode):
        return failed(f"{path} is no socket.", f"{_ANEW} makes it.")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007:
        hint = f"`systemctl cat {SOCKET}`: SocketMode=0660; then {_ANEW}."
        return failed(f"Everyone on this host can open {path} (mode {mode:04o}).", hint)
    if not mode & 0o060 or _group_of(found.st_gid) != name:
        hint = f"`systemd-sysusers`, then {_ANEW}; control.group must be SocketGroup=."
        return warning(f"Members of {name} can't open {path} (mode {mode:04o}, {_group_of(found.st_gid)}).", hint)
    return ok(f"{path}, for root and the group {name}.")


def unit(subject: Subject) -> Verdict:
    """Whether the unit and its drop-ins are in force as they are on disk."""
    if subject.living is None or not under_systemd():
        return skipped(_NOT_A_SERVICE)
    told = _told("systemctl", "show", SERVICE, "--property=NeedDaemonReload,FragmentPath,DropInPaths")
    if not told.get("FragmentPath"):
        return skipped("systemctl doesn't tell.")
    if told.get("NeedDaemonReload") == "yes":
        hint = f"`systemctl daemon-reload && systemctl restart {SERVICE}`."
        return warning("The unit or a drop-in was changed, and systemd hasn't read it yet.", hint)
    files = [Path(name) for name in [told["FragmentPath"], *told.get("DropInPaths", "").split()]]
    newer = [str(file) for file in files if _changed_at(file) > subject.living.started_at]
    if newer:
        return warning(f"Changed since the daemon started: {', '.join(newer)}.", f"`systemctl restart {SERVICE}`.")
    return ok(f"In force, with these drop-ins: {', '.join(map(str, files[1:])) or 'none'}.")


def enabled(subject: Subject) -> Verdict:
    """Whether the daemon comes again after a reboot."""
    if subject.living is None or not under_systemd():
        return skipped(_NOT_A_SERVICE)
    off = [name for name in (SOCKET, SERVICE) if _unit_file_state(name) not in ("enabled", "enabled-runtime")]
    if off:
        return warning(f"Not enabled: {', '.join(off)}.", f"`systemctl enable {' '.join(off)}`.")
    return ok("It starts with the host.")


def _unit_file_state(name: str) -> str | None:
    return _told("systemctl", "show", name, "--property=UnitFileState").get("UnitFileState")


def _told(*argv: str) -> dict[str, str]:
    """Properties by name; none where the program is missing, or nobody answers it."""
    try:
        finished = run(Command(argv), timeout=_SECONDS)
    except ArcbackupdError:
        return {}
    lines = finished.output.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _changed_at(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _group_of(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"group {number}"
