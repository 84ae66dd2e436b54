"""Alarms by the real daemon: a dump that fails reaches people, its recovery too, and what hangs delays nothing."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.alarm_server import AlarmServer, mails, make_sendmail
from tests.harness.daemon import Daemon
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack

DIRECT = {"no_proxy": "*"}
"""So that whoever runs the tests behind a proxy reaches his own host."""


HANGS = 55
"""Seconds: less than a delivery takes to nobody who answers."""


@pytest.fixture(name="server")
def _server() -> Iterator[AlarmServer]:
    with AlarmServer() as running:
        yield running


def told(server: AlarmServer, part: str, code: str) -> dict[str, Any]:
    """Wait for news of the webhook that have a problem of that code in a part; return the first."""

    def found() -> list[dict[str, Any]]:
        documents = [request.json for request in server.received if request.path == "/hook"]
        return [news for news in documents if code in [row["code"] for row in news.get(part, [])]]

    return wait_until(found, f"news of {code}", seconds=30)[0]


def metrics(path: Path) -> dict[str, float]:
    """Return the samples without labels."""
    families = text_string_to_metric_families(path.read_text())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def test_a_failed_dump_reaches_people_with_its_reason_and_so_does_its_recovery(
    stack16: ArcsecondStack, server: AlarmServer, tmp_path: Path
) -> None:
    alarms = {
        "night": {"type": "ping", "url": f"{server.url}/check"},
        "chat": {"type": "webhook", "url": f"{server.url}/hook"},
        "post": {"type": "email", "to": ["ada"], "sendmail": str(make_sendmail(tmp_path))},
    }
    textfile = tmp_path / "arcbackupd.prom"
    settings: dict[str, Any] = {
        "jobs": {"dump": {"enabled": False}, "upload": {"enabled": False}},
        "dump": {"wait_for_database": "1s"},
        "alarms": alarms,
        "metrics": {"textfile": str(textfile)},
    }
    with Daemon(stack16, environment=DIRECT, **settings) as daemon:
        daemon.wait_boot_dumps(1)
        assert [row["error"] for row in daemon.json("alarms", "test")["results"]] == [None, None, None]
        daemon.ctl("jobs", "run", "dump")
        assert server.wait("/check").text.startswith(f"{socket.gethostname()}: dump: ")

        stack16.stop_container(stack16.database)
        daemon.ctl("jobs", "run", "dump", status=1)
        failed = server.wait("/check/fail", 2)
        assert stack16.database in failed.text
        assert "rid=" in failed.path
        news = told(server, "appeared", "dump-failed")
        assert (news["state"], news["previous_state"]) == ("warning", "ok")
        assert stack16.database in news["appeared"][0]["message"]
        problems = daemon.json("status", status=1)["problems"]
        assert [problem["code"] for problem in problems] == ["dump-failed"]
        checked = daemon.ctl("status", "--nagios", status=1).out
        assert checked.startswith("ARCBACKUPD WARNING - The last dump failed: ")
        assert "last_good_age=" in checked.splitlines()[0].partition("|")[2]

        daemon.restart()  # what was told already isn't told again
        stack16.start_container(stack16.database)
        stack16.wait_database()
        daemon.ctl("jobs", "run", "dump")
        server.wait("/check", 2)
        solved = told(server, "resolved", "dump-failed")
        assert solved["state"] == "ok"
        assert len([1 for r in server.received if r.path == "/hook" and r.json.get("appeared")]) == 1
        wait_until(lambda: len(mails(tmp_path)) == 3, "the mails", seconds=30)
        assert [b"solved" in mail or b"all is well again" in mail for mail in mails(tmp_path)] == [
            False,
            False,
            True,
        ]
        good = daemon.json("status")["last_good"]["taken_at"]
        wait_until(
            lambda: (
                metrics(textfile)["arcbackupd_last_good_backup_timestamp_seconds"] == _seconds(good)
                and metrics(textfile)["arcbackupd_retention_frozen"] == 0
            ),
            "the metrics",
            seconds=30,
        )


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_alarms_that_hang_delay_no_dump_no_reload_and_no_stop_and_status_tells_of_them(
    stack16: ArcsecondStack, server: AlarmServer, tmp_path: Path
) -> None:
    server.behave = "hang"
    sleeper = make_sendmail(tmp_path, "#!/bin/sh\nexec sleep 70\n")
    alarms = {
        "night": {"type": "ping", "url": f"{server.url}/check", "timeout": "60s"},
        "chat": {"type": "webhook", "url": f"{server.url}/hook", "timeout": "60s"},
        "post": {"type": "email", "to": ["ada"], "sendmail": str(sleeper), "timeout": "2m"},
        "gone": {"type": "ping", "url": "http://127.0.0.1:9/check"},
    }
    settings: dict[str, Any] = {"jobs": {"upload": {"enabled": False}}, "alarms": alarms}
    with Daemon(stack16, environment=DIRECT, **settings) as daemon:
        daemon.wait_boot_dumps(1)
        daemon.ctl("jobs", "pause", "prune")  # a problem to tell
        began = time.monotonic()
        daemon.ctl("jobs", "run", "dump")
        daemon.ctl("backup")
        assert time.monotonic() - began < HANGS
        server.wait("/check/start")
        server.wait("/hook")
        wait_until(
            lambda: "alarm-undelivered" in [p["code"] for p in daemon.json("status", status=1)["problems"]],
            "the alarm that nobody answers to be told",
            seconds=60,
        )
        assert "Connection refused" in daemon.ctl("alarms").out
        daemon.wait_log("Alarm gone can't be delivered: 127.0.0.1 can't be reached: Connection refused.")
        began = time.monotonic()
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("The configuration was read again")
        assert daemon.stop() == 0
        assert time.monotonic() - began < HANGS / 2
