"""What can go wrong beside a dump is told by the real daemon, by a webhook and as metrics, and so is its end."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.alarm_server import AlarmServer
from tests.harness.daemon import Daemon
from tests.harness.faulty_fs import FaultyFilesystem
from tests.harness.process import run, wait_until
from tests.harness.stack import ArcsecondStack
from tests.require import require

QUIET: dict[str, Any] = {"dump": {"enabled": False}, "upload": {"enabled": False}, "drill": {"enabled": False}}


class Told:
    """A daemon on a stack, and what it tells by both ways."""

    def __init__(self, stack: ArcsecondStack, server: AlarmServer, directory: Path, **settings: Any) -> None:
        self._server = server
        self._textfile = directory / "arcbackupd.prom"
        self.daemon = Daemon(
            stack,
            environment={"no_proxy": "*"},
            alarms={"chat": {"type": "webhook", "url": f"{server.url}/hook"}},
            metrics={"textfile": str(self._textfile)},
            **{"jobs": QUIET, **settings},
        )

    def __enter__(self) -> Told:
        self.daemon.start()
        self.daemon.wait_boot_dumps(1)
        return self

    def __exit__(self, *error: Any) -> None:
        self.daemon.__exit__(*error)

    def appears(self, *problems: str, look: bool = True) -> None:
        """Wait until these are told as new, and are metrics."""
        self._comes("appeared", problems, look=look)
        wait_until(lambda: set(problems) <= self._shown(), f"{problems} in {self._textfile}")

    def is_solved(self, *problems: str, look: bool = True) -> None:
        """Wait until these are told as solved, and are no metrics any more."""
        self._comes("resolved", problems, look=look)
        wait_until(lambda: not set(problems) & self._shown(), f"{problems} gone from {self._textfile}")

    def metric(self, name: str, **labels: str) -> float | None:
        """Return a sample, if there is such a one."""
        families = text_string_to_metric_families(self._textfile.read_text())
        samples = (sample for family in families for sample in family.samples)
        return next((s.value for s in samples if s.name == f"arcbackupd_{name}" and s.labels == labels), None)

    def _comes(self, part: str, problems: tuple[str, ...], *, look: bool) -> None:
        if look:  # now, and not within the minute
            self.daemon.signal(signal.SIGHUP)

        def told() -> set[str]:
            documents = [request.json for request in self._server.received]
            return {row["id"] for news in documents for row in news.get(part, ())}

        wait_until(lambda: set(problems) <= told(), f"{problems} among what {part}", seconds=40)

    def _shown(self) -> set[str]:
        families = text_string_to_metric_families(self._textfile.read_text())
        rows = [s.labels for family in families for s in family.samples if s.name == "arcbackupd_problem"]
        return {f"{row['code']}/{row['subject']}" if row["subject"] else row["code"] for row in rows}


@pytest.fixture(name="server")
def _server() -> Iterator[AlarmServer]:
    with AlarmServer() as running:
        yield running


def test_an_upload_that_fails_or_is_late_is_told_for_the_destination_that_it_is_of(
    stack16: ArcsecondStack, server: AlarmServer, tmp_path: Path
) -> None:
    cloud = tmp_path / "cloud"
    for place in (tmp_path / "nas", cloud):
        place.mkdir()
    settings: dict[str, Any] = {
        "destinations": {
            name: {"type": "directory", "path": str(tmp_path / name), "mount": False} for name in ("nas", "cloud")
        },
        "upload": {"dumps": {"to": ["nas", "cloud"]}},
        "status": {"upload_warn_after": "15s", "upload_critical_after": "1h"},
    }
    with Told(stack16, server, tmp_path, **settings) as told:
        told.daemon.ctl("upload")
        cloud.rename(tmp_path / "away")
        cloud.touch()
        told.daemon.ctl("upload", status=1)
        told.appears("upload-failed/cloud", look=False)
        assert told.metric("upload_last_failed", destination="cloud") == 1
        assert told.metric("upload_last_failed", destination="nas") == 0

        def late() -> bool:
            ages = told.daemon.json("status", status=None)["problems"]
            return ("upload-old", "cloud") in [(problem["code"], problem["subject"]) for problem in ages]

        wait_until(late, "the upload to be late")
        told.daemon.ctl("upload", "nas")
        told.appears("upload-old/cloud")
        cloud.unlink()
        (tmp_path / "away").rename(cloud)
        told.daemon.ctl("upload")
        told.is_solved("upload-failed/cloud", "upload-old/cloud", look=False)
        assert told.metric("upload_last_failed", destination="cloud") == 0


def test_a_drill_that_is_late_is_told_until_one_proved_a_backup(
    stack16: ArcsecondStack, server: AlarmServer, tmp_path: Path
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=10)
    stack16.state_dir.mkdir(exist_ok=True)
    (stack16.state_dir / "drills.json").write_text(json.dumps({"since": long_ago.isoformat()}))
    with Told(stack16, server, tmp_path, jobs={**QUIET, "drill": {"schedule": "daily"}}) as told:
        told.appears("drill-overdue")
        assert told.metric("last_proved_drill_timestamp_seconds") is None
        told.daemon.ctl("verify", "latest")
        told.is_solved("drill-overdue", look=False)
        proved = told.metric("last_proved_drill_timestamp_seconds")
        assert proved is not None
        assert proved > long_ago.timestamp()


def test_retention_that_holds_still_is_told_until_a_backup_succeeded(
    stack16: ArcsecondStack, server: AlarmServer, tmp_path: Path
) -> None:
    with Told(stack16, server, tmp_path) as told:
        [name] = told.daemon.names()
        long_ago = datetime.now(UTC) - timedelta(days=20)
        (stack16.backups / name).rename(stack16.backups / f"backup-{long_ago:%Y%m%d-%H%M%S}.sql.gz")
        told.appears("retention-frozen", "last-good-old")
        assert told.metric("retention_frozen") == 1
        told.daemon.ctl("backup")
        told.is_solved("retention-frozen", "last-good-old", look=False)
        assert told.metric("retention_frozen") == 0


@contextmanager
def small_disk(mounted: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        require("root", "only root may mount a filesystem of its own")
    mounted.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(mounted)])
    try:
        yield
    finally:
        run(["umount", "--lazy", str(mounted)], check=False)


def test_a_disk_without_room_for_the_next_backup_is_told_until_there_is(
    stack16: ArcsecondStack, server: AlarmServer, tmp_path: Path
) -> None:
    with small_disk(stack16.backups), Told(stack16, server, tmp_path) as told:
        ballast = stack16.backups / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 150 << 20)
        told.appears("disk-space")
        assert told.metric("state", state="critical") == 1
        free = told.metric("filesystem_free_bytes")
        assert free is not None
        assert free < 64 << 20
        ballast.unlink()
        told.is_solved("disk-space")
        assert told.metric("state", state="ok") == 1


def test_a_directory_of_backups_that_cannot_be_read_is_told_until_it_can(
    stack16: ArcsecondStack, server: AlarmServer, tmp_path: Path
) -> None:
    with FaultyFilesystem(tmp_path / "disk", stack16.backups) as disk, Told(stack16, server, tmp_path) as told:
        disk.fails("readdir", errno.EIO)
        told.appears("backups-unreadable")
        assert told.metric("state", state="critical") == 1
        assert told.metric("last_good_backup_timestamp_seconds") is None
        disk.works()
        told.is_solved("backups-unreadable")
        assert told.metric("last_good_backup_timestamp_seconds") is not None
