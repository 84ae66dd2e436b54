"""Why the daemon doesn't answer, as far as that can be told from here: systemd, the socket, the caller's groups."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from arcbackupd.ctl.render import Row
from arcbackupd.errors import ArcbackupdError

SERVICE = "arcbackupd.service"
SOCKET = "arcbackupd.socket"
_SECONDS = 10
_START = f"sudo systemctl start {SERVICE}"
_INSTALL = "Install the units: `make install-host`, or the Debian package. Then: sudo arcbackupd setup"
_LOG = "journalctl -u arcbackupd -e"


def findings(path: str, error: ArcbackupdError) -> list[Row]:
    """What can be told of a daemon that didn't answer on that socket, the failed call first."""
    return [row("daemon", "the daemon", "failed", error.message, error.hint), *_units(), _socket(path)]


def row(name: str, title: str, state: str, message: str, hint: str = "") -> Row:
    """A finding in the shape in which the daemon sends its own."""
    return {"name": name, "title": title, "state": state, "message": message, "hint": hint}


def _units() -> Iterator[Row]:
    for name, title, unit in (("socket-unit", "the socket's unit", SOCKET), ("service", "the service", SERVICE)):
        told = _told("systemctl", "show", unit, "--property=LoadState,ActiveState,SubState,Result,UnitFileState")
        yield row(name, title, *judge_unit(unit, told))
    yield from _last_error()


def judge_unit(unit: str, told: dict[str, str]) -> tuple[str, str, str]:
    """State, message and hint for a unit by what systemctl tells of it; nothing, where there is no systemd."""
    if not told:
        return "skipped", "systemctl doesn't tell.", ""
    if told["LoadState"] != "loaded":
        return "failed", f"{unit} isn't installed ({told['LoadState']}).", _INSTALL
    state = f"{unit} is {told['ActiveState']} ({told['SubState']})"
    if told["ActiveState"] == "active":
        return "ok", f"{state}.", ""
    if told["ActiveState"] in ("activating", "reloading", "deactivating"):
        return "warning", f"{state}.", f"If that goes on: {_LOG}"
    if told.get("Result", "success") != "success":
        return "failed", f"{state}: {told['Result']}.", f"{_LOG} tells why; then: {_START}"
    if told.get("UnitFileState") == "disabled":
        return (
            "failed",
            f"{state}, and not enabled.",
            f"sudo arcbackupd setup; or sudo systemctl enable --now {unit}",
        )
    return "failed", f"{state}.", _START


def _last_error() -> Iterator[Row]:
    """The last thing that the program had to complain of since the host's start, if we may read that."""
    # By its identifier: of the unit there are systemd's own complaints too, which say only that it failed.
    of_ours = ("--unit", SERVICE, "--identifier", "arcbackupd", "--boot", "--priority", "err")
    text = _output("journalctl", *of_ours, "--lines", "1", "--output", "cat", "--quiet")
    if text.strip():
        yield row("last-error", "the last error", "warning", text.strip(), f"{_LOG} shows what came before.")


def _socket(path: str) -> Row:
    title = "the control socket"
    try:
        found = os.stat(path)  # noqa: PTH116  (pathlib is not worth its import here)
    except PermissionError as error:
        return row("socket", title, "failed", f"{path}: {error.strerror}.", "Use sudo.")
    except OSError as error:
        return row("socket", title, "failed", f"{path}: {error.strerror}.", f"{_START} makes it.")
    if not stat.S_ISSOCK(found.st_mode):
        return row("socket", title, "failed", f"{path} is no socket.", "Check --socket and ARCBACKUPD_SOCKET.")
    return row("socket", title, *judge_access(path, found, os.geteuid(), {os.getegid(), *os.getgroups()}))


def judge_access(path: str, found: os.stat_result, user: int, groups: set[int]) -> tuple[str, str, str]:
    """State, message and hint for whether a user in these groups may open the socket."""
    import grp  # needed on this way only

    mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
    if user in (0, found.st_uid) or (found.st_gid in groups and found.st_mode & stat.S_IWGRP):
        return "ok", f"You may open {path}.", ""
    try:
        group, members = grp.getgrgid(found.st_gid)[0::3]
    except KeyError:
        group, members = str(found.st_gid), []
    if not found.st_mode & stat.S_IWGRP or found.st_gid == 0:
        return (
            "failed",
            f"Only root may open {path} ({mode}).",
            f"Use sudo. For a group: sudo systemctl start {SOCKET}",
        )
    if _user_name(user) in members:
        return (
            "failed",
            f"You are in the group {group}, but this login is from before that.",
            "Log out and in again.",
        )
    hint = f"Use sudo, or: sudo usermod -aG {group} {_user_name(user)}, then log in again."
    return "failed", f"{path} is for the group {group}, which you are not in ({mode}).", hint


def _user_name(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _told(*argv: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in _output(*argv).splitlines() if "=" in line)


def _output(*argv: str) -> str:
    """What a program prints; nothing where it is missing, fails or hangs: it is only asked for more to tell."""
    import subprocess

    environment = {"PATH": os.pathsep.join(os.get_exec_path()), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_SECONDS, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
