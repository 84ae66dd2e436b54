"""Checks of the configuration, the installation's ``.env``, and the place of the backups."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from arcbackupd.checks import Verdict, failed, ok, skipped, warning
from arcbackupd.checks.subject import Subject
from arcbackupd.errors import ArcbackupdError
from arcbackupd.installation import read_installation
from arcbackupd.operations.backups_dir import ROOM_BESIDE_A_DUMP, check_shared_path, disk_error
from arcbackupd.operations.health import span
from arcbackupd.operations.offhost.offhost import load as load_destinations
from arcbackupd.scheduling import check_jobs
from arcbackupd.settings import load_settings

PLENTY = 24
"""So many more dumps, a day's, should always fit."""


def configuration(subject: Subject) -> Verdict:
    """Whether what is on disk is valid, and what the daemon lives by; before there is one, what it will live by."""
    there = load_settings(subject.config) if subject.living else subject.settings
    unloaded = check_jobs(there.jobs)
    load_destinations(there)
    if unloaded:
        return warning(f"Job {unloaded[0].name} doesn't load: {unloaded[0].problem}.", unloaded[0].hint)
    if subject.living is None:
        return ok("The settings are valid.")
    # state_dir holds from the daemon's start on, whatever a reload finds.
    if there.model_dump(exclude={"state_dir"}) != subject.settings.model_dump(exclude={"state_dir"}):
        hint = "`systemctl reload arcbackupd` puts it in force."
        return warning(f"{subject.config} was changed and is not in force yet.", hint)
    return ok(f"{subject.config} is valid, and in force.")


def env(subject: Subject) -> Verdict:
    """Whether ``.env`` says where the shared data are and has a password, for nobody else to read."""
    path = subject.settings.install_dir / ".env"
    if subject.installation().world_readable:
        hint = f"Let only its owner read it: `chmod 600 {path}`."
        return warning(f"Everyone on this host can read {path}, and the passwords in it.", hint)
    return ok(f"{path} has all that is needed.")


def directory(subject: Subject) -> Verdict:
    """Whether a file can be written where the backups are, by whoever asks: the daemon from within its sandbox."""
    place = backups_dir(subject)
    check_shared_path(place)
    there = place if os.path.lexists(place) else place.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(error, place) from error
    return ok(f"{place} can be written." if there == place else f"{place} will be made by the first backup.")


def space(subject: Subject) -> Verdict:
    """For how many more dumps there is room."""
    place = backups_dir(subject)
    free = shutil.disk_usage(place if place.is_dir() else place.parent).free
    size = _next_size(subject)
    dumps = int(max(free - ROOM_BESIDE_A_DUMP, 0) // size)
    text = f"{free / 1e9:,.1f} GB are free, room for {dumps:,} more backups of {size / 1e6:,.1f} MB"
    hint = "Free some space there, or keep fewer: retention.keep_days. Unchanged backups take no space."
    if not dumps:
        return failed(f"The disk of {place} is too full for a backup: {free / 1e6:,.0f} MB are free.", hint)
    return warning(f"{text}.", hint) if dumps < PLENTY else ok(f"{text}.")


def last_backup(subject: Subject) -> Verdict:
    """How old the newest good backup is."""
    if subject.living is None:
        return skipped("The first one comes when the daemon starts.")
    newest = subject.living.newest_good()
    if newest is None:
        hint = "`arcbackupctl backup` takes one now; `journalctl -u arcbackupd` tells why none was taken."
        return warning("There is no good backup yet.", hint)
    age = datetime.now(UTC) - newest.taken_at
    if age >= subject.living.warn_after:
        hint = "`arcbackupctl status` and `journalctl -u arcbackupd` tell why no newer one was taken."
        return warning(f"The newest good backup, {newest.name}, is {span(age)} old.", hint)
    return ok(f"{newest.name}, {span(age)} old.")


def backups_dir(subject: Subject) -> Path:
    """Where the backups are. Raise OperationFailed when ``.env`` doesn't say."""
    return read_installation(subject.settings.install_dir, with_password=False).backups_dir


def _next_size(subject: Subject) -> int:
    """About how many bytes the next dump takes: as many as the last, or half of the database, which is a lot."""
    newest = subject.living.newest_good() if subject.living else None
    if newest:
        return max(newest.size, 1)
    try:
        return max(subject.database().facts().size // 2, 1)
    except ArcbackupdError:  # told by the check of the database
        return ROOM_BESIDE_A_DUMP
