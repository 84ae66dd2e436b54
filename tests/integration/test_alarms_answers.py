"""What the answers of servers come to, and what of the settings is no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.alarms import Alarm, AlarmError
from arcbackupd.alarms.plugins import LoadedAlarm, load_alarms
from arcbackupd.log import redacted
from tests.harness.alarm_server import AlarmServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AlarmServer]:
    monkeypatch.setenv("no_proxy", "*")
    with AlarmServer() as running:
        yield running


def make(kind: str, **own: Any) -> Alarm[Any]:
    loaded = load_alarms({"night": (kind, own)}, "dome")["night"]
    assert isinstance(loaded, LoadedAlarm), loaded
    return loaded.alarm


_WELL = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("rest", [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"])
def test_what_a_server_said_it_took_is_delivered_whatever_becomes_of_the_rest_of_its_answer(
    server: AlarmServer, rest: bytes
) -> None:
    server.behave = _WELL + rest
    make("ping", url=server.url, timeout="4s").test()
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), ("x", "it holds no certificate")]
)
def test_a_ca_file_that_cannot_be_used_is_named_rather_than_the_server(
    tmp_path: Path, content: str | None, why: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AlarmError) as caught:
        make("ping", url="https://127.0.0.1:9/", ca_file=str(path)).test()
    assert str(caught.value.message) == f"ca_file can't be used: {path}: {why}."
    assert (caught.value.passing, "PEM" in caught.value.hint) == (False, True)


def test_headers_that_only_say_how_a_message_looks_are_masked_nowhere_and_others_are() -> None:
    headers = {"Title": "a-title-of-news", "Tags": "floppy_disk", "Authorization": "Bearer t0ken-of-ntfy"}
    make("webhook", url="https://ntfy.example.org/t", format="text", headers=headers)
    text = "a-title-of-news floppy_disk Bearer t0ken-of-ntfy"
    assert redacted(text) == "a-title-of-news floppy_disk ***"
