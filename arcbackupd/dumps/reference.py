"""How an operator names a backup: ``latest``, its index in the list, its file name, or a unique beginning of it."""

from __future__ import annotations

from collections.abc import Sequence

from arcbackupd.errors import NoSuchBackup

LATEST = "latest"
_INDEX_DIGITS = 6


def resolve(reference: str, names: Sequence[str]) -> str:
    """The one name that a reference means, among names that go newest first. Raise NoSuchBackup otherwise."""
    if not names:
        raise NoSuchBackup("no-backups", "There are no backups.", hint="Take one: `arcbackupctl backup`.")
    if reference in names:
        return reference
    if reference == LATEST:
        return names[0]
    if reference.isascii() and reference.isdigit() and len(reference) <= _INDEX_DIGITS:
        return _by_index(int(reference), names)
    return _by_prefix(reference, names)


def _by_index(index: int, names: Sequence[str]) -> str:
    if not 1 <= index <= len(names):
        hint = "`arcbackupctl list` shows them; 1 is the newest."
        raise NoSuchBackup("no-such-backup", f"There is no backup {index}: there are {len(names)}.", hint=hint)
    return names[index - 1]


def _by_prefix(prefix: str, names: Sequence[str]) -> str:
    found = [name for name in names if prefix and name.startswith(prefix)]
    if not found:
        hint = "`arcbackupctl list` shows what there is."
        raise NoSuchBackup("no-such-backup", f"There is no backup named {prefix!r}.", hint=hint)
    if len(found) > 1:
        hint = f"The newest of them is {found[0]}."
        raise NoSuchBackup("ambiguous", f"{len(found)} backups begin with {prefix!r}.", hint=hint)
    return found[0]
