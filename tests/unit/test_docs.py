"""What the pages say holds: links lead somewhere, commands can be typed as they stand, settings exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from arcbackupd.__main__ import cli as daemon
from arcbackupd.ctl.main import cli as client
from arcbackupd.ctl.session import Session
from arcbackupd.jobs import JobSettings
from arcbackupd.settings import DestinationTable, LocalEngine, Settings
from tests.unit.test_settings import keys

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {"arcbackupctl": client, "arcbackupd": daemon}
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}| {8}).*\n|^\n)+", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"(?:engine|control|dump|boot|retention|restore|upload|status)\.[a-z_.]+")
TYPED = re.compile(r"(?:^|(?<=[|&;(] )|(?<=sudo ))(arcbackup(?:ctl|d)(?: .*)?)$")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Links


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(INLINE.sub("", prose(page))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_of_the_project_that_a_page_names_is_there(page: Path) -> None:
    for text in INLINE.findall(prose(page)):
        if re.fullmatch(r"(?:docs|tests|scripts|systemd|bench|manpages)/\w[\w./@-]*", text):
            assert (ROOT / text).exists(), text


# The maps


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_a_map_shows_every_room_and_no_other(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    rooms = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "arcbackupd").iterdir()
        if (path / "__init__.py").exists() or path.suffix == ".py"
    } - {"__init__.py"}
    found = set(re.findall(r"(?<![\w/.])\w+(?:\.py\b|/(?!\w))", text))
    assert found - {"docs/", "tests/", "offhost/", "restore/", "bench/"} >= rooms
    here = {path.name for part in ("arcbackupd", "tests", "bench") for path in (ROOT / part).rglob("*.py")}
    gone = {name for name in found if name.endswith(".py")} - here
    assert gone == set()


def test_what_the_architecture_names_is_in_the_source() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "arcbackupd").rglob("*.py"))
    for text in INLINE.findall(prose(ROOT / "docs" / "architecture.md")):
        if found := re.fullmatch(r"([A-Z][a-z]\w+)(?:\.(\w+)(?:\(.*\))?)?", text):
            assert f"class {found[1]}" in source, text
            assert not found[2] or f"def {found[2]}" in source, text


def test_modules_and_architecture_point_at_each_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (.+)\n\n(?:In|Wired in) `(.+?)`", text, re.MULTILINE))
    pointing = {
        found[1]: str(path.relative_to(ROOT / "arcbackupd")).removesuffix("__init__.py")
        for path in (ROOT / "arcbackupd").rglob("*.py")
        if (found := re.search(r'docs/architecture\.md, "(.+?)"', path.read_text(encoding="utf-8")))
    }
    assert pointing == parts


# Commands


def blocks(page: Path) -> Iterator[str]:
    """The blocks of code of a page, fenced and indented."""
    text = page.read_text(encoding="utf-8")
    for _, language, block in BLOCK.findall(text):
        if language != "python":
            yield block
    for found in INDENTED.finditer(BLOCK.sub("\n", text)):
        yield re.sub(r"^ {4}", "", found[0], flags=re.MULTILINE)


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """Command lines of ours, and whether each is one that stands for itself, as a block's does."""
    for block in blocks(page):
        for line in block.splitlines():
            yield from ((found, True) for found in typed(re.sub(r"^\s*(?:[$#] )?", "", line)))
    for text in INLINE.findall(prose(page)):
        yield from ((found, False) for found in typed(text))


def typed(line: str) -> Iterator[str]:
    """The commands of ours in a line; without what only tells where things may stand."""
    line = re.sub(r"\s+#(?: .*)?$", "", line)
    for part in re.split(r"\s*(?:&&|\|\|?|;|>)\s*", line):
        found = part.removeprefix("sudo ").removeprefix("source <(").rstrip(")")
        if re.match(r"arcbackup(?:ctl|d)(?: |$)", found) and not re.search(r"[\[\]…{]", found):
            yield found


def parse(line: str, *, whole: bool) -> None:
    """Parse a line as click does, and no more. Raise click.UsageError; in a whole line nothing may be missing."""
    program, *arguments = shlex.split(line)
    try:
        _parse(PROGRAMS[program], program, arguments, whole=whole)
    except click.exceptions.Exit:
        return  # --version ends there


def _parse(command: click.Command, name_: str, arguments: list[str], *, whole: bool) -> None:
    if isinstance(command, click.Group) and not arguments:
        return
    try:
        # click remembers for good by which options a command gives help.
        context = command.make_context(name_, list(arguments), obj=Session(), help_option_names=["-h", "--help"])
    except click.MissingParameter:
        if whole:
            raise
        return
    if isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        found, below, rest = command.resolve_command(context, rest)
        assert below is not None
        _parse(below, str(found), rest, whole=whole)


MANUAL = sorted((ROOT / "docs" / "man").glob("*.rst"))
COMMANDS = sorted({(line, whole) for page in [*PAGES, *MANUAL] for line, whole in commands(page)})


@pytest.mark.parametrize(("line", "whole"), COMMANDS)
def test_every_command_that_is_shown_can_be_typed(line: str, whole: bool) -> None:
    parse(line, whole=whole)


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 50
    assert {"arcbackupctl restore --dry-run latest", "arcbackupctl jobs resume NAME"} <= {
        line for line, _ in COMMANDS
    }


@pytest.mark.parametrize(
    "line", ["arcbackupctl lsit", "arcbackupctl list --jsno", "arcbackupd recover --form /mnt"]
)
def test_a_mistyped_command_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line, whole=False)


# Settings


def tables() -> dict[str, type[BaseModel] | None]:
    """Every table with what may stand in it."""
    found: dict[str, type[BaseModel] | None] = {"engine.local": LocalEngine}

    def add(model: type[BaseModel], prefix: str) -> None:
        for key, value in model.model_construct():
            if isinstance(value, BaseModel):
                found[prefix + key] = type(value)
                add(type(value), f"{prefix}{key}.")

    add(Settings, "")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {key for key, _ in keys(Settings)} | set(tables())
    for text in INLINE.findall(prose(page)):
        for found in SETTING.findall(text) if SETTING.match(text) else ():
            assert found.rstrip(".") in known or found.endswith((".py", ".md", ".sock", ".json")), text


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_in_an_example_exists(page: Path) -> None:
    for block in blocks(page):
        if re.match(r"\s*(\[[a-z_.]+\]|[a-z_]+ = [\"\[\dtf])", block):
            _known(tomllib.loads(re.sub(r"^ +", "", block, flags=re.MULTILINE)))


def _known(example: dict[str, Any]) -> None:
    jobs, places, alarms = (example.pop(name_, {}) for name_ in ("jobs", "destinations", "alarms"))
    for name_, value in example.items():
        if name_ in ("project", "build-system", "tool"):
            continue  # a package's, not ours
        _keys_of(Settings, {name_: value})
    types = {point.name: point.load().Settings for point in entry_points(group="arcbackupd.destinations")}
    for table in places.values():
        own = types.get(table["type"])
        assert own is None or table.keys() <= {*DestinationTable.model_fields, *own.model_fields}, table
    kinds = {point.name: point.load().Settings for point in entry_points(group="arcbackupd.alarms")}
    for table in alarms.values():
        assert table.keys() <= {"type", *kinds[table["type"]].model_fields}, table
    plugins = {point.name: point.load().Settings for point in entry_points(group="arcbackupd.jobs")}
    for job, table in jobs.items():
        assert job not in plugins or table.keys() <= {*JobSettings.model_fields, *plugins[job].model_fields}


def _keys_of(model: type[BaseModel], given: dict[str, Any]) -> None:
    for key, value in given.items():
        assert key in model.model_fields, key
        default = getattr(model.model_construct(), key)
        if isinstance(default, BaseModel):
            _keys_of(type(default), value)
