"""arcbackupctl upload and fetch, and destinations in list, inspect and status."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.ctl import render, render_offhost, render_status
from arcbackupd.ctl.render import Screen
from tests.unit.control_service import (
    Running,
    backup_row,
    inspection_row,
    status_reply,
    upload_result,
)
from tests.unit.test_ctl_restore import Run
from tests.unit.test_ctl_restore import _environment as _environment
from tests.unit.test_ctl_restore import _run as _run
from tests.unit.test_ctl_restore import _running as _running

NAME = backup_row(1)["name"]
SCREEN = Screen(datetime(2026, 1, 2, 13, 31, tzinfo=UTC), 100, lambda text, _: text)
NAS = {
    "name": "nas",
    "location": "file:///mnt/nas",
    "streams": ["dumps", "secrets"],
    "dumps": 336,
    "since": "2026-01-01T12:00:00+00:00",
    "done_at": "2026-01-02T12:00:00+00:00",
    "problem": None,
    "hint": None,
}


def asked(running: Running) -> dict[str, Any]:
    """What the last call said."""
    return dict(running.service.calls[-1].parameters.model_dump())


def test_an_upload_shows_its_steps_and_how_it_ended(running: Running, run: Run) -> None:
    said = run("upload")
    assert said.status == 0
    assert said.out.endswith("nas: 2 files uploaded, 1.2 kB.\n")
    assert asked(running) == {"destination": None}


def test_an_upload_to_one_destination_names_it(running: Running, run: Run) -> None:
    assert run("upload", "nas").status == 0
    assert asked(running) == {"destination": "nas"}


def test_a_destination_that_failed_is_told_with_what_to_do_and_an_exit_status(running: Running, run: Run) -> None:
    error = {"code": "destination-full", "message": "The disk is full.", "hint": "Make room."}
    running.service.uploaded = [upload_result(), upload_result(destination="cloud", files=0, error=error)]
    said = run("upload")
    assert said.status == 1
    assert "cloud: The disk is full.\n  hint: Make room.\n" in said.out
    assert run("upload", "--json").status == 1


def test_what_is_not_as_it_should_be_there_is_told(running: Running, run: Run) -> None:
    running.service.uploaded = [upload_result(files=0, problems=["a\x1b[31m is damaged."], removed=["dumps/b"])]
    assert run("upload").out.endswith("nas: nothing to upload, 1 removed.\n  a\\x1b[31m is damaged.\n")


def test_a_dry_run_shows_keys_and_asks_for_nothing_else(running: Running, run: Run) -> None:
    said = run("upload", "--dry-run")
    assert said.status == 0
    assert "nas (file:///mnt/nas): dumps, data\n" in said.out
    assert "  put     dumps/backup-20260102-120000.sql.gz\n" in said.out
    assert "  remove  dumps/backup-20250102-120000.sql.gz\n" in said.out
    assert "1 dump to upload, 1.2 kB; 1 to remove." in said.out
    assert "Shared data: 3 files, 4.0 kB to look at and upload." in said.out


def test_json_is_the_reply(running: Running, run: Run) -> None:
    assert json.loads(run("upload", "--json").out) == {"results": [upload_result()]}
    assert json.loads(run("upload", "--dry-run", "--json").out)["plans"][0]["destination"] == "nas"


def test_a_fetch_sends_the_identity_and_says_how_to_go_on(running: Running, run: Run, tmp_path: Path) -> None:
    identity = tmp_path / "key.txt"
    identity.write_text("AGE-SECRET-KEY-1\n")
    said = run("fetch", NAME, "--identity", str(identity))
    assert said.status == 0
    assert f"arcbackupctl restore {NAME}" in said.out
    assert asked(running) == {"name": NAME, "identity": "AGE-SECRET-KEY-1\n"}
    assert "SECRET" not in said.out + said.err


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"x" * 40_000])
def test_an_identity_that_cannot_be_one_is_wrong_usage(run: Run, tmp_path: Path, content: bytes | None) -> None:
    identity = tmp_path / "key.txt"
    if content is not None:
        identity.write_bytes(content)
    said = run("fetch", NAME, "--identity", str(identity))
    assert said.status == 2
    assert str(identity) in said.err


def test_a_backup_that_is_only_elsewhere_says_where() -> None:
    row = backup_row(1) | {"stored": ["cloud", "nas"]}
    assert render.badge(row).endswith("only at cloud, nas")


def test_an_inspection_of_one_that_is_not_here_has_no_file() -> None:
    row = inspection_row() | {"path": None, "stored": ["nas"]}
    text = render.inspection({"backup": row, "verified": None}, SCREEN)
    assert "File " not in text
    assert "Stored     nas" in text


def test_status_has_a_line_for_each_destination() -> None:
    broken = NAS | {"name": "b", "location": None, "streams": [], "done_at": None, "problem": "no rclone"}
    text = render_status.status(status_reply(destinations=[NAS, broken]), SCREEN)
    assert "nas          dumps, secrets    336  2026-01-02 12:00:00  file:///mnt/nas" in text
    assert "not yet" in text
    assert "can't be used" in text


def test_status_of_an_older_daemon_is_shown_all_the_same() -> None:
    reply = status_reply()
    del reply["destinations"]
    assert render_status.status(reply, SCREEN)
    assert render_offhost.destinations([], SCREEN) == ""
