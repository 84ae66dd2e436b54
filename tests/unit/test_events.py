"""Events of the engine: docker's and podman's documents mean the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from arcbackupd.stack.events import ContainerEvent, parse_event, parse_time

ID = "4f1ad0c9" * 8
DOCKER = (
    f'{{"status":"start","id":"{ID}","from":"arcsecond/api","Type":"container","Action":"start","Actor":{{"ID":"{ID}",'
    '"Attributes":{"image":"arcsecond/api","name":"arcsecond-api"}},"scope":"local","time":1767225600,'
    '"timeNano":1767225600123456789}'
)
PODMAN = (
    f'{{"ID":"{ID}","Image":"localhost/api","Name":"arcsecond-api","Status":"start",'
    '"Time":"2026-01-01T00:00:00.123456789Z","Type":"container","Attributes":{}}'
)
PODMAN_5 = (
    f'{{"ID":"{ID}","Image":"localhost/api","Name":"arcsecond-api","Status":"start","time":1767225600,'
    '"timeNano":1767225600123456789,"Type":"container"}'
)
MOMENT = datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize("line", [DOCKER, PODMAN, PODMAN_5])
def test_a_start_is_read_from_every_engines_document(line: str) -> None:
    assert parse_event(line.encode()) == ContainerEvent("start", ID, MOMENT)


@pytest.mark.parametrize(
    "line", ["", "no JSON", "[]", "null", "17", "{}", '{"Action":"start","time":"never","id":"x"}']
)
def test_what_is_no_event_is_none(line: str) -> None:
    assert parse_event(line.encode()) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01T00:00:00.123456789Z", MOMENT),
        ("2026-01-01T00:00:00.123456Z", MOMENT),
        ("2026-01-01T02:00:00.123456789+02:00", MOMENT),
        ("2026-01-01T00:00:00Z", MOMENT.replace(microsecond=0)),
        ("2026-01-01T00:00:00.1Z", MOMENT.replace(microsecond=100_000)),
        ("2026-01-01 02:00:00.123456789 +0200 CEST", MOMENT),
    ],
)
def test_moments_as_engines_write_them(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment
