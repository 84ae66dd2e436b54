"""Alarms against real servers and a real program: what arrives, and what a bad one can do, which is little."""

from __future__ import annotations

import email
import email.policy
import hashlib
import hmac
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.alarms import Alarm, AlarmError, JobBegan, JobEnded, StateAlarm, courier
from arcbackupd.alarms import words as alarm_words
from arcbackupd.alarms.courier import UNDELIVERED, Courier
from arcbackupd.alarms.memory import AlarmMemory
from arcbackupd.alarms.news import News, Told, news, standing
from arcbackupd.alarms.plugins import GROUP, FailedAlarm, LoadedAlarm, load_alarms
from arcbackupd.errors import UsageError
from arcbackupd.log import redacted
from arcbackupd.operations.health import Problem, Severity
from tests.harness.alarm_server import AlarmServer, mails, make_sendmail
from tests.harness.process import wait_until

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD = Problem("last-good-old", "The newest good backup is 7.0 hours old.", "Take one.", Severity.CRITICAL)
BEGAN = JobBegan("dump", "11111111-2222-3333-4444-555555555555")
DONE = JobEnded("dump", BEGAN.run, datetime.now(UTC), "published backup-1.sql.gz", None)
FAILED = JobEnded("dump", BEGAN.run, datetime.now(UTC), "", "The database does not accept connections.")


@pytest.fixture
def server() -> Iterator[AlarmServer]:
    with AlarmServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def make(kind: str, found: list[EntryPoint] | None = None, **own: Any) -> Alarm[Any]:
    loaded = load_alarms({"night": (kind, own)}, "dome", found=found)["night"]
    assert isinstance(loaded, LoadedAlarm), loaded
    return loaded.alarm


def news_of(*problems: Problem) -> News:
    found = news(Told(), standing(problems, Told(), NOW, Severity.WARNING), NOW, None)
    assert found is not None
    return found


def refused(tell: Callable[[], None]) -> AlarmError:
    with pytest.raises(AlarmError) as caught:
        tell()
    assert caught.value.hint
    return caught.value


# Pings


def test_a_run_is_told_as_start_and_success_or_failure_with_its_id_and_the_reason(server: AlarmServer) -> None:
    ping = make("ping", url=f"{server.url}/check?create=1")
    for tell, signal in ((ping.began, BEGAN), (ping.ended, DONE), (ping.ended, FAILED)):  # type: ignore[attr-defined]
        tell(signal)
    assert [request.path for request in server.received] == [
        f"/check{suffix}?create=1&rid={BEGAN.run}" for suffix in ("/start", "", "/fail")
    ]
    assert [request.text for request in server.received] == [
        "",
        "dome: dump: published backup-1.sql.gz",
        "dome: dump: The database does not accept connections.",
    ]


def test_a_test_is_told_as_a_failure_because_a_good_ping_would_hide_one(server: AlarmServer) -> None:
    make("ping", url=f"{server.url}/check").test()
    assert (server.paths(), "test" in server.received[0].text) == (["/check/fail"], True)


# What servers can do


@pytest.mark.parametrize(
    ("behave", "code", "passing", "told"),
    [
        (404, "alarm-refused", False, "127.0.0.1 answered 404 Not Found."),
        (500, "alarm-refused", True, "127.0.0.1 answered 500 Internal Server Error."),
        (429, "alarm-refused", True, "429"),
        (799, "alarm-refused", True, "127.0.0.1 answered 799."),
        ("hang", "alarm-unreachable", True, "no answer within 0.5 s"),
        ("drip", "alarm-unreachable", True, "no answer within 0.5 s"),
        ("cut", "alarm-unreachable", True, "127.0.0.1 can't be reached: "),
    ],
)
def test_what_a_bad_server_does_is_told_in_time_and_without_the_secret_part_of_its_url(
    server: AlarmServer, behave: str | int, code: str, passing: bool, told: str
) -> None:
    server.behave = behave
    timeout = "500ms" if behave in ("hang", "drip") else "30s"
    ping = make("ping", url=f"{server.url}/s3cr3t-path", timeout=timeout)
    began = time.monotonic()
    error = refused(ping.test)
    assert time.monotonic() - began < 10
    assert (error.code, error.passing) == (code, passing)
    assert told in error.message
    assert "s3cr3t" not in error.message + error.hint


def test_the_limit_is_of_the_whole_try_a_proxy_that_drips_included(
    server: AlarmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behave = "drip"
    monkeypatch.setenv("https_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    ping = make("ping", url="https://hc.example.org/check", timeout="500ms")
    error = ended_in_time(ping.test)
    assert "hc.example.org can't be reached: no answer within 0.5 s" in error.message


def ended_in_time(tell: Callable[[], None]) -> AlarmError:
    """Return the error of what ends by itself."""
    found: Future[AlarmError] = Future()
    threading.Thread(target=lambda: found.set_result(refused(tell)), daemon=True).start()
    return found.result(30)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network of its own")
def test_the_limit_is_of_the_whole_try_a_name_server_that_never_answers_included(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    script = (
        f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && ip link set lo up && exec {sys.executable} -c"
    )
    argv = ["unshare", "--mount", "--net", "sh", "-c", f'{script} "$0"', NAME_SERVER]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout == "hc.example.org can't be reached: no answer within 0.5 s.\n", done.stderr


NAME_SERVER = """
import socket
from tests.integration.test_alarms import make, refused
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
    silent.bind(("127.0.0.1", 53))
    print(refused(make("ping", url="http://hc.example.org/", timeout="500ms").test).message)
"""


def test_an_answer_without_end_is_not_waited_for(server: AlarmServer) -> None:
    server.behave = "huge"
    make("ping", url=server.url, timeout="5s").test()


def test_a_redirect_is_not_followed(server: AlarmServer) -> None:
    with AlarmServer() as other:
        for target in (other.url, "file:///etc/passwd"):
            server.behave = target
            assert refused(make("ping", url=server.url).test).code == "alarm-refused"
        assert other.received == []


def test_nobody_there_is_told_as_what_it_is() -> None:
    with AlarmServer() as server:
        url = server.url
    assert "Connection refused" in refused(make("ping", url=url).test).message


# Settings


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("ping", {}),
        ("ping", {"url": "https://a/hunter2", "url_file": "/x"}),
        ("ping", {"url": "ftp://hunter2/x"}),
        ("ping", {"url": "https://hunter2@host/x"}),
        ("ping", {"url": "https://host/hunter2\r\nX: y"}),
        ("ping", {"url": "hunter2"}),
        ("webhook", {"url": "https://h/", "headers": {"X": "hunter2\r\nY: z"}}),
        ("webhook", {"url": "https://h/", "headers": {"Content-Length": "hunter2"}}),
        ("webhook", {"url": "https://h/", "timeout": "1h"}),
        ("email", {"to": []}),
        ("email", {"to": ["a@b\nBcc: hunter2@c"]}),
        ("email", {"to": ["-oQ/tmp"]}),
        ("email", {"to": ["a@b"], "sender": "x@y\nBcc: hunter2@c"}),
        ("email", {"to": ["a@b"], "sendmail": "sendmail"}),
    ],
)
def test_what_cannot_be_right_is_a_configuration_error_without_the_value(kind: str, own: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"alarms\.night") as caught:
        make(kind, **own)
    assert "hunter2" not in caught.value.message


def test_a_url_that_lacks_in_a_shell_may_be_a_credential_of_the_service() -> None:
    with pytest.raises(UsageError, match="seen by the service alone: `arcbackupctl doctor`"):
        make("ping")


def test_a_url_can_stand_in_a_file_and_is_masked_wherever_it_would_be_logged(
    server: AlarmServer, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text(f"{server.url}/from-a-file\n")
    ping = make("ping", url_file=str(secret))
    ping.test()
    assert server.paths() == ["/from-a-file/fail"]
    assert "from-a-file" not in redacted(f"it is {server.url}/from-a-file")
    secret.write_text("no url")
    error = refused(ping.test)
    assert (error.code, "no url" in error.message, str(secret) in error.message) == ("alarm-failed", False, True)


def test_a_package_can_bring_a_type_and_a_bad_one_fails_alone() -> None:
    assert make("lamp", [EntryPoint("lamp", f"{__name__}:Lamp", GROUP)]).name == "night"
    torn = load_alarms({"x": ("torn", {})}, "dome", found=[EntryPoint("torn", f"{__name__}:Torn", GROUP)])["x"]
    assert isinstance(torn, FailedAlarm)


class Lamp(StateAlarm[Any]):
    """An alarm of somebody else, which does what a test tells it."""

    does: Callable[[News], None] = staticmethod(lambda _news: None)

    def tell(self, news: News) -> None:
        self.does(news)

    def test(self) -> None:
        raise SystemExit("a plugin that ends the process")


class Torn(Lamp):
    def __init__(self, *_arguments: Any) -> None:
        raise SystemExit(3)


# Webhooks


def test_news_come_as_json_signed_over_the_body_with_the_headers_that_are_wanted(server: AlarmServer) -> None:
    hook = make("webhook", url=server.url, secret="k3y-k3y", headers={"Authorization": "Bearer t0ken-t0ken"})
    hook.tell(news_of(OLD))  # type: ignore[attr-defined]
    (request,) = server.received
    assert request.json["appeared"][0]["code"] == "last-good-old"
    assert request.headers["Content-Type"] == "application/json; charset=utf-8"
    assert request.headers["Authorization"] == "Bearer t0ken-t0ken"
    digest = hmac.new(b"k3y-k3y", request.body, hashlib.sha256).hexdigest()
    assert request.headers["X-Arcbackupd-Signature-256"] == f"sha256={digest}"
    assert "t0ken" not in redacted("Bearer t0ken-t0ken")


def test_news_come_as_text_where_that_is_wanted_and_unsigned_without_a_secret(server: AlarmServer) -> None:
    hook = make("webhook", url=server.url, format="text")
    hook.tell(news_of(OLD))  # type: ignore[attr-defined]
    (request,) = server.received
    assert request.text == alarm_words.text(news_of(OLD), "dome")
    assert not [name for name in request.headers if "Signature" in name]


def test_an_empty_secret_sends_nothing_rather_than_unsigned_news(server: AlarmServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    error = refused(make("webhook", url=server.url, secret_file=str(tmp_path / "secret")).test)
    assert "it is empty" in error.message
    assert server.received == []


# Mail


def test_a_mail_is_one_that_every_program_reads(tmp_path: Path) -> None:
    mail = make("email", to=["ada@example.org", "root"], sendmail=str(make_sendmail(tmp_path)))
    nasty = Problem("x", "Zeile\r\nBcc: eve@example.org\n\n.\nß€ " + "long " * 400, "Do.", Severity.WARNING)
    mail.tell(news_of(OLD, nasty))  # type: ignore[attr-defined]
    (raw,) = mails(tmp_path)
    assert (tmp_path / "spool" / "arguments").read_text().split() == ["-i", "-t"]
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert not message.defects
    assert message["To"] == "ada@example.org, root"
    assert message["From"] == "arcbackupd@dome"
    assert message["Subject"] == f"[arcbackupd] dome: CRITICAL: {OLD.message}"
    assert (message["Auto-Submitted"], message["Bcc"]) == ("auto-generated", None)
    assert "ß€" in message.get_content()
    assert max(map(len, raw.splitlines())) < 998
    assert raw.isascii()
    assert b"\r" not in raw


def test_a_hostile_message_adds_no_header_to_a_mail(tmp_path: Path) -> None:
    mail = make("email", to=["ada@example.org"], sendmail=str(make_sendmail(tmp_path)))
    mail.tell(news_of(Problem("x", "A\r\nBcc: eve@example.org", "B", Severity.WARNING)))  # type: ignore[attr-defined]
    message = email.message_from_bytes(mails(tmp_path)[0], policy=email.policy.default)
    assert message["Bcc"] is None
    assert "A Bcc: eve@example.org" in message["Subject"]


@pytest.mark.parametrize(
    ("script", "told", "passing"),
    [
        ("#!/bin/sh\necho 'no such user: ada' >&2; exit 67\n", "ended with 67: no such user: ada", True),
        ("#!/bin/sh\nexec sleep 60\n", "did not end within 0.5 s", True),
        (None, "is not installed", False),
    ],
)
def test_a_sendmail_that_fails_hangs_or_is_not_there_is_told_so(
    tmp_path: Path, script: str | None, told: str, passing: bool
) -> None:
    program = make_sendmail(tmp_path, script) if script else tmp_path / "nowhere"
    error = refused(make("email", to=["ada"], sendmail=str(program), timeout="500ms").test)
    assert told in error.message
    assert error.passing == passing


# Couriers


@pytest.fixture
def memory(tmp_path: Path) -> AlarmMemory:
    return AlarmMemory(tmp_path)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(courier, "_QUIET_SECONDS", (0.01, 0.02))


def finished(one: Courier) -> None:
    one.close()
    one.join(20)
    assert one._thread is not None
    assert not one._thread.is_alive()


def test_news_are_told_once_also_after_a_restart_and_again_when_the_memory_is_lost(
    server: AlarmServer, memory: AlarmMemory, tmp_path: Path
) -> None:
    hook = make("webhook", url=server.url)
    first = Courier(hook, memory)
    first.consider([OLD], NOW)
    finished(first)
    again = Courier(hook, AlarmMemory(tmp_path))
    again.consider([OLD], NOW)
    assert again._thread is None, "there was nothing to tell"
    assert len(server.received) == 1
    (tmp_path / "alarms.json").write_text("{ damaged")
    forgetful = Courier(hook, AlarmMemory(tmp_path))
    forgetful.consider([OLD], NOW)
    finished(forgetful)
    assert len(server.received) == 2


def test_what_cannot_be_delivered_is_tried_some_times_logged_once_and_delivered_when_it_can(
    server: AlarmServer, memory: AlarmMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = 503
    one = Courier(make("webhook", url=server.url), memory)

    def again(what: Callable[[], object]) -> object:
        one.consider([OLD], NOW)
        return what()

    one.consider([OLD], NOW)
    wait_until(lambda: len(server.received) == 3 and one.failure, "three tries")
    assert one.failure is not None
    assert "503" in one.failure.problem
    wait_until(lambda: again(lambda: len(server.received) >= 6), "another three", interval=0.05)
    server.behave = "well"
    wait_until(lambda: again(lambda: one.told_at), "the delivery", interval=0.05)
    finished(one)
    said = capsys.readouterr()
    assert (said.out + said.err).count("can't be delivered") == 1
    assert (said.out + said.err).count("is delivered again") == 1


def test_what_no_further_try_can_help_is_tried_once(server: AlarmServer, memory: AlarmMemory) -> None:
    server.behave = 404
    one = Courier(make("ping", url=server.url), memory)
    one.hear(DONE)
    finished(one)
    assert len(server.received) == 1


def test_that_an_alarm_cannot_be_delivered_is_told_to_the_others_only(
    server: AlarmServer, memory: AlarmMemory
) -> None:
    one = Courier(make("webhook", url=server.url), memory)
    one.consider([Problem(UNDELIVERED, "A.", "B.", Severity.WARNING, "night")], NOW)
    assert one._thread is None
    one.consider([Problem(UNDELIVERED, "A.", "B.", Severity.WARNING, "other")], NOW)
    finished(one)
    assert server.received[0].json["appeared"][0]["subject"] == "other"


def test_a_ping_is_for_its_jobs_only(server: AlarmServer, memory: AlarmMemory) -> None:
    one = Courier(make("ping", url=server.url, jobs=["upload"]), memory)
    one.hear(DONE)
    assert one._thread is None
    one.hear(JobBegan("upload", "1"))
    finished(one)
    assert server.paths() == ["/start"]


def test_a_server_that_hangs_holds_up_nobody_and_what_waits_for_it_does_not_grow(
    server: AlarmServer, memory: AlarmMemory
) -> None:
    server.behave = "hang"
    one = Courier(make("ping", url=server.url, timeout="30s"), memory)
    began = time.monotonic()
    for number in range(1000):
        one.hear(JobBegan("dump", str(number)))
        one.hear(JobEnded("dump", str(number), NOW, "", None))
    assert len(one._waiting) <= 2
    one.close()
    one.join(0.1)
    assert time.monotonic() - began < 5
    server.ending.set()
    finished(one)
    assert [request.path.rpartition("=")[2] for request in server.received[-2:]] == ["999", "999"]


def test_a_plugin_that_raises_or_exits_is_contained_and_one_that_hangs_is_told(memory: AlarmMemory) -> None:
    lamp = make("lamp", [EntryPoint("lamp", f"{__name__}:Lamp", GROUP)])
    one = Courier(lamp, memory)
    assert isinstance(one.test().exception(20), AlarmError)
    lamp.does = sys.exit  # type: ignore[attr-defined]
    one.consider([OLD], NOW)
    wait_until(lambda: one.failure and "SystemExit" in one.failure.problem, "the failure")
    hang = threading.Event()
    lamp.does = lambda _news: hang.wait() and None  # type: ignore[attr-defined]

    def at_it() -> bool:
        one.consider([OLD], NOW)
        return one._busy_since is not None

    wait_until(at_it, "a delivery", interval=0.05)
    assert one.hanging is None
    assert one._busy_since is not None
    one._busy_since -= 1000
    assert (one.hanging or 0) > 1000
    hang.set()
    finished(one)
