"""docs/control.md holds what the protocol has, and its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from varlink.scanner import Interface

from arcbackupd.control import DEFAULT_SOCKET, INTERFACE
from arcbackupd.control.access import Access
from arcbackupd.control.interface import ERRORS, METHODS, description
from arcbackupd.control.server import Limits
from arcbackupd.ctl.main import cli
from tests.unit.control_service import serving

PAGE = (Path(__file__).parents[2] / "docs" / "control.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WORDS = set(re.findall(r"\w+", "".join(re.findall(r"`[^`]*`", PAGE))))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented_with_who_may_call_it(name: str) -> None:
    level = {Access.READ: "read", Access.OPERATE: "backup", Access.ADMIN: "admin"}[METHODS[name].access]
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {level} |")]
    assert f"`{name}`" in row


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_documented_with_its_exit_status(kind: type) -> None:
    assert f"| `{kind.__name__}` | {kind.exit_status} |" in PAGE  # type: ignore[attr-defined]


def test_every_field_is_documented() -> None:
    fields: set[str] = set()
    for member in Interface(description(INTERFACE)).members.values():
        for part in ("type", "in_type", "out_type"):
            fields |= set(getattr(getattr(member, part, None), "fields", ()))
    assert fields - WORDS == set()


def test_every_command_is_documented() -> None:
    assert {name for name in cli.commands if f"arcbackupctl {name}" not in PAGE.replace("\n", " ")} == set()


def test_the_limits_are_those_of_the_server() -> None:
    limits = Limits()
    assert limits.request_bytes == 64 * 1024
    for said in (
        f"and {limits.request_seconds:.0f} seconds from its first byte",
        f"than {limits.write_seconds:.0f} seconds to read",
        f"{limits.connections} connections in all and {limits.connections_per_user} per user",
    ):
        assert said in PAGE


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_run(tmp_path: Path, example: str) -> None:
    with serving(tmp_path / "s"):
        code = example.replace(DEFAULT_SOCKET, str(tmp_path / "s"))
        assert code != example
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ok" in done.stdout or "published" in done.stdout


@pytest.mark.parametrize("line", re.findall(r"^    python3 -m (varlink\.cli .*)$", PAGE, re.MULTILINE))
def test_the_commands_of_pypis_varlink_run(tmp_path: Path, line: str) -> None:
    arguments = line.replace(DEFAULT_SOCKET, str(tmp_path / "s")).split()
    with serving(tmp_path / "s"):
        done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "backup-2026" in done.stdout
