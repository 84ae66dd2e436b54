"""The manifest as a value: encoded the same way every time, read back strictly."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from arcbackupd.dumps.manifest import Contents, Manifest, Reason, digest, encode
from tests.unit.sample_dumps import manifest, sha256

ROWS = st.dictionaries(st.text(), st.integers(0, 2**63))


@settings(deadline=None)
@given(ROWS, st.lists(st.text(max_size=50)), st.sampled_from(Reason))
def test_what_is_encoded_is_read_back(rows: dict[str, int], names: list[str], reason: Reason) -> None:
    told = manifest(reason=reason, contents=Contents(rows=rows, migrations=tuple(names), roles=tuple(names)))
    assert Manifest.model_validate_json(encode(told)) == told


@settings(deadline=None)
@given(ROWS)
def test_the_same_values_are_encoded_the_same_whatever_their_order(rows: dict[str, int]) -> None:
    backwards = dict(reversed(rows.items()))
    assert encode(Contents(rows=rows)) == encode(Contents(rows=backwards))


def test_it_is_compact_json_without_what_is_not_known() -> None:
    text = encode(manifest(backend_image=None))
    assert b"backend_image" not in text
    assert b": " not in text
    assert json.loads(text)["format"] == 1


def test_names_that_are_no_valid_unicode_are_encoded_nevertheless() -> None:
    assert list(json.loads(encode(Contents(rows={"t\udcff": 1})))["rows"].values()) == [1]


def test_the_digest_is_a_sha256() -> None:
    assert digest(b"abc") == sha256(b"abc")


def test_its_duration_is_in_seconds() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert manifest(started_at=start, finished_at=start + timedelta(seconds=1.5)).duration == 1.5


def test_times_without_a_zone_are_refused() -> None:
    with pytest.raises(ValidationError):
        manifest(started_at=datetime(2026, 1, 1))  # noqa: DTZ001  # what is tested


@pytest.mark.parametrize(
    ("reason", "automatic"),
    [
        (Reason.BOOT, True),
        (Reason.SCHEDULED, True),
        (Reason.MANUAL, False),
        (Reason.PRE_RESTORE, False),
        (Reason.FOREIGN, False),
    ],
)
def test_only_dumps_that_the_daemon_takes_by_itself_count_towards_catching_up(
    reason: Reason, automatic: bool
) -> None:
    assert reason.automatic is automatic
