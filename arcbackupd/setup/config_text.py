"""Changes to a TOML file that a person wrote: the lines of some keys, and no other byte."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from arcbackupd.errors import OperationFailed

Value = str | Sequence[str]
_HEADER = re.compile(r"\s*\[")


def explicit(text: str, key: str) -> Any:
    """The value that the text sets for ``table.key``; ``None`` when it leaves it to the default."""
    found: Any = tomllib.loads(text)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def with_settings(text: str, wanted: Mapping[str, Value]) -> str:
    """The text with these keys set. A commented-out default gets the line below it.

    Raise OperationFailed where that can't be done line by line: an array over several lines, an inline table.
    """
    changed = text
    for key, value in wanted.items():
        changed = _with_setting(changed, key, value)
    # What was edited by lines is read as TOML: exactly those values must have changed.
    if _parsed(changed) != _set(_parsed(text), wanted):
        lines = "; ".join(f"{key} = {_toml(value)}" for key, value in wanted.items())
        hint = f"Write it yourself: {lines}. Then run it again."
        raise OperationFailed("config-too-special", "The configuration can't be changed line by line.", hint=hint)
    return changed


def _with_setting(text: str, key: str, value: Value) -> str:
    table, _, name = key.rpartition(".")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    line = f"{name} = {_toml(value)}\n"
    region = _region(lines, table)
    if region is None:
        return "".join([*lines, *(["\n"] if lines else []), f"[{table}]\n", line])
    place, replaced = _place(lines, region, name)
    return "".join([*lines[:place], line, *lines[place + replaced :]])


def _region(lines: Sequence[str], table: str) -> range | None:
    """The lines of a table, without its header; ``None`` when there is no such header."""
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    start = 0
    if table:
        own = re.compile(rf"\s*\[\s*{re.escape(table)}\s*\]\s*(#.*)?$")
        found = next((number for number in headers if own.match(lines[number])), None)
        if found is None:
            return None
        start = found + 1
    return range(start, next((number for number in headers if number >= start), len(lines)))


def _place(lines: Sequence[str], region: range, name: str) -> tuple[int, int]:
    """Where the line of a key goes, and how many it replaces."""
    for pattern, offset, replaced in ((rf"\s*{name}\s*=", 0, 1), (rf"\s*#\s*{name}\s*=", 1, 0)):
        found = next((number for number in region if re.match(pattern, lines[number])), None)
        if found is not None:
            return found + offset, replaced
    if region.start:  # right below the header
        return region.start, 0
    return next((number for number in region if not lines[number].startswith("#")), region.stop), 0


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _set(parsed: dict[str, Any] | None, wanted: Mapping[str, Value]) -> dict[str, Any] | None:
    if parsed is None:
        return {}
    for key, value in wanted.items():
        *tables, name = key.split(".")
        place = parsed
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                return {}
        place[name] = value if isinstance(value, str) else list(value)
    return parsed


def _toml(value: Value) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(_toml, value))}]"
