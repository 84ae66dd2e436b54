"""Whether a backup fits the code of the running backend: the migrations it recorded against those the code has.

Pure functions of values. Migrations are full names, ``app.0001_initial``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

BACKEND_NOT_RUNNING = "backend not running"
NO_MIGRATIONS_TABLE = "no django_migrations in it"
NOT_SCANNED = "not scanned yet"

_LONGEST_PLAN = 8 << 20
_LONGEST_LINE = 4096
_ANSI = re.compile(r"\x1b\[[0-9;:?]*[A-Za-z]")
# With --verbosity 2 the dependencies follow the name: "[X]  app.0002_b ... (app.0001_a, other.0001_c)".
# A name is shown on a terminal: one with control characters is none.
_PLAN_LINE = re.compile(r"\[[X ]\] {1,4}([^\W\d]\w*\.[^\s.()\x00-\x1f\x7f-\x9f]+)(?:\s+\.\.\. \(.*\))?")
_EMPTY_PLAN = "(no migrations)"
_NUMBER = re.compile(r"(\d{1,9})(?:_|$)", re.ASCII)
_SQUASH = re.compile(r"(\d{1,9})_(?:.*_)?squashed_(\d{1,9})(?:_.*)?", re.ASCII)


class Badge(StrEnum):
    """What an operator sees first about a backup."""

    COMPATIBLE = "compatible"
    OLDER_SNAPSHOT = "older-snapshot"
    INCOMPATIBLE = "incompatible"
    UNKNOWN = "unknown"
    BROKEN = "broken"

    @property
    def label(self) -> str:
        """The badge in words: ``older snapshot``."""
        return self.value.replace("-", " ")


@dataclass(frozen=True)
class Compatibility:
    """A badge with what it rests on. ``str()`` gives the line that ``list`` shows."""

    status: Badge
    only_in_backup: tuple[str, ...] = ()
    """Recorded in the backup and unknown to the code, in the order of the record."""
    only_in_code: tuple[str, ...] = ()
    """Known to the code and not yet recorded in the backup, in the order of the plan."""
    leftover: tuple[str, ...] = ()
    """Recorded ones that don't count: of apps that the code no longer has, or replaced by a squashed one."""
    annotation: str = ""
    """A few words after the badge, without parentheses; for unknown and broken: why."""

    def __str__(self) -> str:
        return f"{self.status.label} ({self.annotation})" if self.annotation else self.status.label


def parse_showmigrations_plan(text: str) -> tuple[str, ...]:
    """Given the output of ``manage.py showmigrations --plan``, return every migration that the code has.

    Applied or not, in the order of the plan, each once. Other lines (warnings, log records) are passed over.
    Raise ValueError when there is no plan in it.
    """
    if len(text) > _LONGEST_PLAN:
        raise ValueError("the output of showmigrations is far too long")
    lines = [_ANSI.sub("", line).strip() for line in text.split("\n") if len(line) <= _LONGEST_LINE]
    found = (_PLAN_LINE.fullmatch(line) for line in lines)
    names = tuple(dict.fromkeys(match[1] for match in found if match))
    if not names and _EMPTY_PLAN not in lines:
        raise ValueError("the output of showmigrations holds no migration")
    return names


def compare(
    in_backup: Sequence[str] | None,
    in_code: Sequence[str] | None,
    *,
    broken: str | None = None,
    scanned: bool = True,
    why_no_code: str = BACKEND_NOT_RUNNING,
) -> Compatibility:
    """Given the migrations recorded in a backup and those of the running code, return how they fit.

    ``in_backup`` is ``None`` when the backup holds no ``django_migrations``, ``in_code`` when the backend couldn't
    be asked (``why_no_code`` says why). ``broken`` is what is wrong with the file, if anything is.
    """
    if broken is not None:
        return Compatibility(Badge.BROKEN, annotation=broken)
    if not scanned:
        return Compatibility(Badge.UNKNOWN, annotation=NOT_SCANNED)
    if in_backup is None:
        return Compatibility(Badge.UNKNOWN, annotation=NO_MIGRATIONS_TABLE)
    if in_code is None:
        return Compatibility(Badge.UNKNOWN, annotation=why_no_code)
    return _compare_known(tuple(dict.fromkeys(in_backup)), tuple(dict.fromkeys(in_code)))


def _compare_known(in_backup: tuple[str, ...], in_code: tuple[str, ...]) -> Compatibility:
    code, backup = set(in_code), set(in_backup)
    missing = [name for name in in_backup if name not in code]
    # A backup that shares nothing with the code isn't one with leftovers: it is another application's.
    leftover = _leftovers(missing, in_code) if code & backup else ()
    set_aside = set(leftover)
    only_in_backup = tuple(name for name in missing if name not in set_aside)
    only_in_code = tuple(name for name in in_code if name not in backup)
    if only_in_backup:
        annotation = f"-{len(only_in_backup)} not in code, +{len(only_in_code)} applied since"
        return Compatibility(Badge.INCOMPATIBLE, only_in_backup, only_in_code, leftover, annotation)
    if only_in_code:
        annotation = f"+{_migrations(len(only_in_code))} applied since"
        return Compatibility(Badge.OLDER_SNAPSHOT, (), only_in_code, leftover, annotation)
    return Compatibility(Badge.COMPATIBLE, leftover=leftover)


def _leftovers(missing: Sequence[str], in_code: Sequence[str]) -> tuple[str, ...]:
    """Those of the missing migrations that say nothing against the backup.

    Their app is gone from the code, or a squashed migration of the code stands for them, told by its name
    (``0001_initial_squashed_0003_more``): Django goes on recording the replaced ones beside it, also in a fresh
    database, but plans only the squashed one, so every backup would pass for incompatible.
    """
    replaced: dict[str, list[range]] = {}
    for app, migration in map(_split, in_code):
        spans = replaced.setdefault(app, [])
        if squash := _SQUASH.fullmatch(migration):
            spans.append(range(int(squash[1]), int(squash[2]) + 1))
    return tuple(name for name in missing if _stands_aside(*_split(name), replaced))


def _stands_aside(app: str, migration: str, replaced: dict[str, list[range]]) -> bool:
    if app not in replaced:
        return True
    number = _NUMBER.match(migration)
    return number is not None and any(int(number[1]) in span for span in replaced[app])


def _split(name: str) -> tuple[str, str]:
    app, _, migration = name.partition(".")
    return app, migration


def explain_newest(name: str, compatibility: Compatibility) -> str | None:
    """Given the newest backup and how it fits, return a paragraph for an astronomer; ``None`` when all is well."""
    if compatibility.status is Badge.COMPATIBLE:
        return None
    if compatibility.status is Badge.UNKNOWN:
        return _explain_unknown(name, compatibility.annotation)
    explain = {
        Badge.OLDER_SNAPSHOT: _explain_older,
        Badge.INCOMPATIBLE: _explain_incompatible,
        Badge.BROKEN: _explain_broken,
    }
    return explain[compatibility.status](name, compatibility)


def _explain_older(name: str, compatibility: Compatibility) -> str:
    count = len(compatibility.only_in_code)
    them = "it" if count == 1 else "them"
    return (
        f"The newest backup, {name}, is an older snapshot: the running backend has {_migrations(count)} (changes to"
        f" the structure of its database) that the backup was taken without. That is normal after an upgrade."
        f" It can be restored: the backend applies {them} by itself when it starts on the restored data."
        " Nothing needs to be done; the next backup should be compatible. If it isn't, the backend hasn't applied"
        " its migrations: look at its log."
    )


def _explain_incompatible(name: str, compatibility: Compatibility) -> str:
    count = len(compatibility.only_in_backup)
    return (
        f"The newest backup, {name}, is incompatible: it records {_migrations(count)} (changes to the structure of"
        " the database) that the running backend doesn't know. It was most likely taken with a newer version of"
        " Arcsecond than the one that runs now. Restored, it would give the backend a database that it wasn't"
        " written for, so restore refuses it unless forced. Update the backend to the version that the backup was"
        " taken with, or choose an older backup marked compatible."
        f" `arcbackupctl inspect {name}` names what differs."
    )


def _explain_broken(name: str, compatibility: Compatibility) -> str:
    return (
        f"The newest backup, {name}, is broken: {compatibility.annotation}. It can't bring your data back, and"
        " restore always refuses it; the older backups aren't touched by this. Take one with `arcbackupctl backup`;"
        " if that is broken too, `arcbackupctl status` says what is wrong."
    )


def _explain_unknown(name: str, why: str) -> str:
    if why == NOT_SCANNED:
        return (
            f"The newest backup, {name}, has not been scanned yet: whether it is whole, and fits the running"
            " backend, isn't known so far. It wasn't written by this host's arcbackupd, so it is being read in the"
            " background; restoring it would read it first. Look again with `arcbackupctl list` in a few minutes."
        )
    if why == NO_MIGRATIONS_TABLE:
        return (
            f"The newest backup, {name}, is whole but has no django_migrations table, the record of the database's"
            " structure that Arcsecond keeps: it may come from another database. Restored, it would replace"
            " Arcsecond's data by what it holds; restore warns first. See what it holds with"
            f" `arcbackupctl inspect {name}`, and choose another backup unless you know where it comes from."
        )
    return (
        f"Whether the newest backup, {name}, fits the backend can't be told: {why} — skip migration diff."
        " The backup itself is whole. It can be restored, with a warning: a backup taken with a newer version of"
        " Arcsecond would only show when the backend starts. Start the backend with `docker compose up -d` in the"
        " install directory, then look again with `arcbackupctl list`."
    )


def _migrations(count: int) -> str:
    return f"{count} migration" if count == 1 else f"{count} migrations"
