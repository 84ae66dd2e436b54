"""The manual pages name every command, option, exit status, setting and variable that there is, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest

from arcbackupd.__main__ import cli as daemon
from arcbackupd.ctl.main import INTERRUPTED
from arcbackupd.ctl.main import cli as client
from arcbackupd.ctl.session import BROKEN_PIPE
from arcbackupd.errors import KINDS, Busy, DaemonUnreachable
from arcbackupd.jobs import JobSettings
from arcbackupd.settings import DestinationTable, LocalEngine, Settings
from manpages.__main__ import SOURCES, main, whole
from tests.unit.test_settings import keys

PACKAGE = Path(__file__).parents[2] / "arcbackupd"
CTL, DAEMON, TOML = "arcbackupctl.1", "arcbackupd.8", "arcbackupd.toml.5"
SHARED = {"--json", "--socket", "--no-color", "--help"}
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
VARIABLE = re.compile(r"[A-Z][A-Z_]*[A-Z]")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages as `make man` makes them, as text: a line for each tag and paragraph, headings with their macro."""
    made = tmp_path_factory.mktemp("man")
    main(made)
    return {path.name: plain(path.read_text(encoding="ascii")) for path in made.iterdir()}


def plain(page: str) -> str:
    """What is left of a page without roff's escapes."""
    page = re.sub(r"\\\[u([0-9A-F]+)\]", lambda found: chr(int(found[1], 16)), page)
    page = re.sub(r"\\f(?:[A-Z]|\[[A-Z]*\])|\\&", "", page)
    for roff, text in ((r"\-", "-"), (r"\(aq", "'"), (r"\(dq", '"'), (r"\(ga", "`"), (r"\(ha", "^"), (r"\e", "\\")):
        page = page.replace(roff, text)
    return page


def section(page: str, title: str, level: str = "SH") -> str:
    """The part of a page below a heading."""
    after = f"\n{page}".split(f"\n.{level} {title}\n", 1)[1]
    return re.split(rf"^\.(?:SH|{level}) ", after, maxsplit=1, flags=re.MULTILINE)[0]


def tags(part: str) -> list[str]:
    """What is described there: the line after each .TP."""
    return re.findall(r"^\.TP\n(?:\.BI? )?(.+)$", part, re.MULTILINE)


def commands(group: click.Group, way: str) -> Iterator[tuple[str, click.Command]]:
    """Every command of a program with its whole name."""
    for name, command in group.commands.items():
        yield f"{way} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{way} {name}")


ALL = [
    *((CTL, name, command) for name, command in commands(client, "arcbackupctl")),
    *((DAEMON, name, command) for name, command in commands(daemon, "arcbackupd")),
]


@pytest.mark.parametrize(("page", "name", "command"), ALL, ids=[name for _, name, _ in ALL])
def test_every_command_is_described_with_its_own_options_and_no_other(
    pages: dict[str, str], page: str, name: str, command: click.Command
) -> None:
    own = {option for parameter in command.params for option in parameter.opts if option.startswith("-")} - SHARED
    told = section(section(pages[page], "COMMANDS"), name, "SS")
    assert {word for tag in tags(told) for word in OPTION.findall(tag)} == own
    assert told.strip()


@pytest.mark.parametrize(("page", "program"), [(CTL, client), (DAEMON, daemon)])
def test_no_command_is_described_that_is_not_there(pages: dict[str, str], page: str, program: click.Group) -> None:
    told = re.findall(r"^\.SS (.+)$", section(pages[page], "COMMANDS"), re.MULTILINE)
    assert told == [name for name, _ in commands(program, page.split(".")[0])]


@pytest.mark.parametrize(("page", "program"), [(CTL, client), (DAEMON, daemon)])
def test_the_options_before_a_command_are_described(pages: dict[str, str], page: str, program: click.Group) -> None:
    context = click.Context(program, **program.context_settings)
    options = {option for parameter in program.get_params(context) for option in parameter.opts}
    told = section(pages[page], "OPTIONS")
    assert {word for tag in tags(told) for word in OPTION.findall(tag)} == options


def test_the_exit_statuses_are_those_of_the_errors(pages: dict[str, str]) -> None:
    statuses = {0, *(kind.exit_status for kind in KINDS)}
    of_client = section(pages[CTL], "EXIT STATUS")
    assert set(map(int, tags(of_client))) == statuses | {INTERRUPTED, BROKEN_PIPE}
    of_daemon = section(pages[DAEMON], "EXIT STATUS")
    assert set(map(int, tags(of_daemon))) == statuses - {DaemonUnreachable.exit_status}
    assert Busy.exit_status in statuses


def test_every_setting_is_described_in_its_table_and_no_other_is(pages: dict[str, str]) -> None:
    part = section(pages[TOML], "SETTINGS")
    top, *tables = re.split(r"^\.SS ", part, flags=re.MULTILINE)
    told = set(tags(top))
    for each in tables:
        heading, _, rest = each.partition("\n")
        told |= {f"{heading.strip('[]')}.{tag}" for tag in tags(rest)}
    expected = {key for key, _ in keys(Settings)}
    assert f"engine.local.{next(iter(LocalEngine.model_fields))}" in expected
    assert {key for key in told if not key.startswith(("jobs.", "destinations.", "alarms."))} == expected


def test_what_every_destination_may_say_is_told(pages: dict[str, str]) -> None:
    told = section(pages[TOML], "SETTINGS")
    for key in DestinationTable.model_fields:
        assert f"{key} = " in told or key in tags(told)


@pytest.mark.parametrize("point", entry_points(group="arcbackupd.destinations"), ids=lambda point: point.name)
def test_every_key_of_a_type_of_destination_is_described(pages: dict[str, str], point: Any) -> None:
    part = section(section(pages[TOML], "DESTINATIONS"), f'type = "{point.name}"', "SS")
    assert tags(part) == list(point.load().Settings.model_fields)


@pytest.mark.parametrize("point", entry_points(group="arcbackupd.alarms"), ids=lambda point: point.name)
def test_every_key_of_a_type_of_alarm_is_described(pages: dict[str, str], point: Any) -> None:
    part = section(section(pages[TOML], "ALARMS"), f'type = "{point.name}"', "SS")
    assert tags(part) == list(point.load().Settings.model_fields)


@pytest.mark.parametrize("point", entry_points(group="arcbackupd.jobs"), ids=lambda point: point.name)
def test_every_job_is_described_with_its_schedule_and_its_own_keys(pages: dict[str, str], point: Any) -> None:
    job = point.load()
    part = section(section(pages[TOML], "JOBS"), f"[jobs.{point.name}]", "SS")
    own = [key for key in job.Settings.model_fields if key not in JobSettings.model_fields]
    assert tags(part) == ["schedule", *own]
    assert f'"{job.default_schedule}"' in part


def test_every_environment_variable_that_is_read_is_described_and_no_other_is(pages: dict[str, str]) -> None:
    of_client = variables([PACKAGE / "ctl", PACKAGE / "control" / "client.py"])
    assert named(pages[CTL]) == {*of_client, "ARCBACKUPD_CONFIG"}
    of_daemon = variables([PACKAGE]) - of_client | {"NO_COLOR", "TERM"}
    assert named(pages[DAEMON]) - {"ARCBACKUPD_SECTION__KEY"} == of_daemon


def named(page: str) -> set[str]:
    """The variables that a page describes."""
    return set(VARIABLE.findall("\n".join(tags(section(page, "ENVIRONMENT")))))


def variables(places: list[Path]) -> set[str]:
    """Names of variables in the statements that read the environment."""
    found: set[str] = set()
    for place in places:
        for path in [place] if place.is_file() else place.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "os.environ" in text and "demo" not in path.parts:
                found |= _read_in(ast.parse(text))
    return found


def _read_in(tree: ast.Module) -> set[str]:
    constants = {
        target.id: _strings(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: set[str] = set()
    for node in filter(_reads, ast.walk(tree)):
        names = [name.id for name in ast.walk(node) if isinstance(name, ast.Name)]
        found |= {*_strings(node), *(text for name in names for text in constants.get(name, []))}
    return {text for text in found if VARIABLE.fullmatch(text)}


def _reads(node: ast.AST) -> bool:
    """Whether it is the smallest whole that reads the environment: a simple statement, or the test of another."""
    if isinstance(node, ast.If | ast.While):
        return False
    whole = not any(isinstance(child, ast.stmt) for child in ast.iter_child_nodes(node))
    return whole and isinstance(node, ast.stmt | ast.Compare | ast.Call) and "os.environ" in ast.unparse(node)


def _strings(node: ast.AST) -> list[str]:
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def test_a_page_can_be_made_again_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    text = (SOURCES / f"{CTL}.rst").read_text(encoding="utf-8")
    assert ":Date: 2026-01-01" in whole(text)
    assert "|version|" not in whole(text)


def test_a_mistyped_part_of_a_page_is_an_error() -> None:
    with pytest.raises(KeyError, match="optoins"):
        whole(".. generated: optoins of arcbackupctl\n")
