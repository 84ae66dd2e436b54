"""The drop-in that lets the service write to the shared data (systemd.exec(5), ReadWritePaths=)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath

_HEAD = """\
# Written by `arcbackupd setup`, and anew by its next run when SHARED_DATA_PATH has changed.
# Where it is a mount of its own, wait for it, and never write into the empty directory below it.
"""
_OWN = re.compile(rf"{re.escape(_HEAD)}\[Unit\]\nRequiresMountsFor=.*\n\n\[Service\]\nReadWritePaths=.*\n")


def wanted_text(present: str | None, allowed: Iterable[str], shared: Path) -> str | None:
    """The text that the drop-in should have; ``None``: as it is, it does.

    ``present`` is its text now, ``allowed`` what the service may write to by now. What somebody else wrote stays,
    and gets lines behind it.
    """
    own = _HEAD + _lines(shared)
    if present is not None and (written := _OWN.match(present)):
        text = own + present[written.end() :]
        return None if present == text else text
    if any(PurePath(shared).is_relative_to(path.lstrip("-+")) for path in allowed):
        return None
    if present is None or not present.strip():
        return own
    if _lines(shared) in present:
        return None
    return f"{present.rstrip()}\n\n{_lines(shared)}"


def _lines(shared: Path) -> str:
    return f"[Unit]\nRequiresMountsFor={quoted(shared)}\n\n[Service]\nReadWritePaths={quoted(shared)}\n"


def quoted(path: Path) -> str:
    """A path as a word of a list in a unit file: quotes, backslashes and specifiers mean themselves."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if any(c.isspace() or c in "\"'\\;" for c in text) else text
