"""arcbackupd as systemd runs it on a host, looking after a stack.

daemon = InstalledDaemon(host, stack)
daemon.as_at_first()                             # the basic configuration, running
daemon.configure(jobs={"dump": {"schedule": "every 2s"}})
daemon.systemctl("reload")
daemon.wait_entry(JOB="dump", REASON="scheduled")["BACKUP"]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness.process import CommandFailed, DeadlinePassed, wait_until
from tests.harness.stack import ArcsecondStack
from tests.harness.systemd_host import SystemdHost

UNIT = "arcbackupd.service"
SOCKET_UNIT = "arcbackupd.socket"
CONFIG = "/etc/arcbackupd/config.toml"
SOCKET = "/run/arcbackupd/control.sock"
DROP_INS = "/etc/systemd/system/arcbackupd.service.d"
NEVER = "0 0 1 1 *"
"""A schedule that leaves a test alone: once a year."""

ADMINS = "keepers"
"""The group of users whom the basic configuration lets do everything."""

LOCK = ".arcbackupd.lock"
"""The only hidden name that the daemon leaves among the backups."""


class InstalledDaemon:
    """The daemon that `SystemdHost.install` installed."""

    def __init__(self, host: SystemdHost, stack: ArcsecondStack) -> None:
        self.host = host
        self.stack = stack
        self._since = "@0"
        self._config = ""
        self._drop_ins: dict[str, str] = {}

    # Its configuration

    def configure(self, text: str = "", **settings: Any) -> None:
        """Write the basic configuration with `settings` merged in, and `text` behind it. Tells nobody."""
        self._config = self._basic(**settings) + text
        self.host.write(CONFIG, self._config, mode=0o640)

    def drop_in(self, name: str, text: str) -> None:
        """Add a drop-in to the service and let systemd read it."""
        self._drop_ins[name] = text
        self.host.write(f"{DROP_INS}/{name}.conf", text)
        self.host.run(["systemctl", "daemon-reload"])

    def without_drop_in(self, name: str) -> None:
        """Take a drop-in away, one of the installation's too; `as_at_first` brings that one back."""
        self._drop_ins[name] = ""
        self.host.run(["mv", f"{DROP_INS}/{name}.conf", f"/root/{name}.conf"])
        self.host.run(["systemctl", "daemon-reload"])

    def as_at_first(self) -> None:
        """See that it runs as installed, with the basic configuration; what was logged before is past."""
        for name in list(self._drop_ins):
            self._undo_drop_in(name)
        if self._config != self._basic() or not self.is_active():
            self.configure()
            self.systemctl("restart")
        self.from_now_on()

    def _undo_drop_in(self, name: str) -> None:
        if self._drop_ins.pop(name):
            self.host.run(["rm", "-f", f"{DROP_INS}/{name}.conf"])
        else:
            self.host.run(["mv", f"/root/{name}.conf", f"{DROP_INS}/{name}.conf"])
        self.host.run(["systemctl", "daemon-reload"])
        self._config = ""  # it runs with the drop-in: start it anew

    def _basic(self, **settings: Any) -> str:
        basic: dict[str, Any] = {
            "state_dir": "/var/lib/arcbackupd",
            "control": {"socket": SOCKET, "admins": ["root", f"%{ADMINS}"]},
            "jobs": {"dump": {"schedule": NEVER}, "prune": {"schedule": NEVER}},
        }
        for name, table in settings.items():
            under = basic.get(name)
            basic[name] = {**under, **table} if isinstance(under, dict) else table
        return self.stack.settings_toml(inside=True, **basic)

    # systemd

    def systemctl(self, verb: str, unit: str = UNIT, *, check: bool = True) -> str:
        """Tell systemd to do something with the service; return what systemctl said. Raise when it fails."""
        done = self.host.run(["systemctl", verb, unit], check=False)
        if check and done.returncode:
            raise CommandFailed(f"systemctl {verb} {unit}: {done.stderr}\n{self.log()}")
        return done.stdout + done.stderr

    def fails(self, verb: str) -> bool:
        """Tell systemd the same, and return whether it said that this failed."""
        return self.host.run(["systemctl", verb, UNIT], check=False).returncode != 0

    def is_active(self, unit: str = UNIT) -> bool:
        """Return whether a unit is up."""
        return self.host.run(["systemctl", "is-active", unit], check=False).stdout.strip() == "active"

    def show(self, name: str) -> str:
        """Return one property of the service."""
        return self.host.show(UNIT, name)[name]

    @property
    def pid(self) -> int:
        """Return the id of the main process as the host has it; 0 when there is none."""
        return int(self.show("MainPID"))

    def signal(self, name: str) -> None:
        """Send the main process a signal."""
        self.host.run(["kill", f"-{name}", str(self.pid)])

    def wait_restarted(self, since: int, seconds: float = 60) -> None:
        """Wait until the service is up with another main process than `since`."""
        try:
            wait_until(
                lambda: self._runs_anew(since), f"another process than {since}", seconds=seconds, interval=0.1
            )
        except DeadlinePassed as error:
            raise DeadlinePassed(f"{error}:\n{self.log()}") from error

    def _runs_anew(self, since: int) -> bool:
        shown = self.host.show(UNIT, "MainPID", "ActiveState")
        return shown["ActiveState"] == "active" and int(shown["MainPID"]) not in (0, since)

    # The journal

    def from_now_on(self) -> None:
        """Let `entries` begin here."""
        # Not a cursor: with matches, journalctl --after-cursor leaves the first entry out (seen with systemd 252).
        self.host.run(["journalctl", "--sync"])
        self._since = f"@{self.host.run(['date', '+%s.%6N']).stdout.strip()}"

    def entries(self, **matches: str) -> list[dict[str, Any]]:
        """Return what the service and systemd about it wrote since `from_now_on`, oldest first."""
        return self.host.journal(f"--unit={UNIT}", f"--since={self._since}", **matches)

    def wait_entry(self, seconds: float = 30, **matches: str) -> dict[str, Any]:
        """Wait for such an entry and return the newest."""
        try:
            found = wait_until(
                lambda: self.entries(**matches), f"an entry with {matches}", seconds=seconds, interval=0.2
            )
        except DeadlinePassed as error:
            raise DeadlinePassed(f"{error}:\n{self.log()}") from error
        return found[-1]

    def log(self) -> str:
        """Return the same as text, with explanations of the catalogue."""
        argv = ["journalctl", "-x", "--no-pager", "--quiet", f"--unit={UNIT}", f"--since={self._since}"]
        return self.host.run(argv, check=False).stdout

    def wait_log(self, text: str, seconds: float = 30) -> None:
        """Wait until that text is in it."""
        try:
            wait_until(lambda: text in self.log(), f"the journal to have {text!r}", seconds=seconds, interval=0.2)
        except DeadlinePassed as error:
            raise DeadlinePassed(f"{error}:\n{self.log()}") from error

    # The client

    def ctl(self, *arguments: str, user: str | None = None, status: int = 0) -> str:
        """Run arcbackupctl on the host; return what it printed. Raise unless it ends with `status`."""
        done = self.host.run(["arcbackupctl", *arguments], user=user, check=False, timeout=180)
        if done.returncode != status:
            said = done.stdout + done.stderr
            raise CommandFailed(
                f"arcbackupctl {' '.join(arguments)} ended with {done.returncode}: {said}\n{self.log()}"
            )
        return done.stdout + done.stderr

    def json(self, *arguments: str, user: str | None = None, status: int = 0) -> dict[str, Any]:
        """Run `arcbackupctl … --json` and return its answer."""
        return dict(json.loads(self.ctl(*arguments, "--json", user=user, status=status)))

    def names(self) -> list[str]:
        """Return the names that `list` gives, newest first."""
        return [row["name"] for row in self.json("list")["backups"]]

    def job(self, name: str) -> Mapping[str, Any]:
        """Return a job as `jobs` shows it."""
        return next(job for job in self.json("jobs")["jobs"] if job["name"] == name)

    # What it left

    def files(self) -> list[str]:
        """Return the names in the directory of backups, hidden ones too, but for the lock."""
        directory = self.stack.backups
        return sorted(path.name for path in directory.iterdir() if path.name != LOCK) if directory.is_dir() else []

    def partials(self) -> list[str]:
        """Return the hidden names among them."""
        return [name for name in self.files() if name.startswith(".")]

    def size(self, name: str) -> int:
        """Return the size of a backup."""
        return Path(self.stack.backups / name).stat().st_size
