"""What every destination does, whatever it is: the tests that each type's own module runs on the real thing.

class TestContract(DestinationContract):
    pass

in a module with a fixture ``destination``, which gives a new one, empty. A type that can't have some of the names
says so in ``names``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pytest

from arcbackupd.destinations import PARTIAL, Destination, DestinationError, Transfer

NAMES = (
    "plain.sql.gz",
    "with spaces  in it.sql.gz",
    " and at its ends ",
    "ünïcödé-星-🌌",
    "hash#question?percent%20plus+and&equals=",
    "quotes'\"`$(echo)!*[a-z]{b,c}~^|;<>@:,",
    "back\\slash",
    ".dot",
    "-rf",
    "--help",
    "%2e%2e",
    "...",
    "n" * 200,
    "a/deep/er/and deeper/place",
)
SMALL = b"a dump"
LARGE = random.Random(1).randbytes(11 * (1 << 20) + 12_345)  # three parts of the least size that S3 takes


class EnoughError(Exception):
    """What an operator who cancels makes `advance` raise."""


@dataclass
class Progress:
    """Takes the counts of a transfer, and cancels it after so many bytes, if at all."""

    cancel_after: int | None = None
    counts: list[int] = field(default_factory=list)

    def __call__(self, count: int) -> None:
        self.counts.append(count)
        if self.cancel_after is not None and self.total >= self.cancel_after:
            raise EnoughError

    @property
    def total(self) -> int:
        """Return the bytes that moved."""
        return sum(self.counts)


def digest(data: bytes) -> str:
    """Return what tells two contents apart, in words short enough for a failure's text."""
    return hashlib.sha256(data).hexdigest()


def fetched(destination: Destination[Any], key: str, transfer: Transfer | None = None) -> bytes:
    """Return a file's contents."""
    target = BytesIO()
    destination.get(key, target, transfer or Transfer())
    return target.getvalue()


def keys(destination: Destination[Any], prefix: str = "dumps") -> list[str]:
    """Return the keys below a prefix."""
    return sorted(file.key for file in destination.list(prefix))


Put = Callable[..., None]


@pytest.fixture(name="put")
def _put(destination: Destination[Any], tmp_path: Path) -> Put:
    """Gives what stores bytes under a key."""

    def put(key: str, data: bytes = SMALL, transfer: Transfer | None = None) -> None:
        source = tmp_path / "source"
        source.write_bytes(data)
        destination.put(source, key, transfer or Transfer())

    return put


class DestinationContract:
    """The tests. Import the fixture ``put`` too, as ``_put``."""

    names: ClassVar[tuple[str, ...]] = NAMES

    def test_it_passes_its_check_and_is_empty(self, destination: Destination[Any]) -> None:
        destination.check()
        assert destination.list("dumps") == []

    def test_its_location_is_an_absolute_url_and_has_no_secrets(self, destination: Destination[Any]) -> None:
        scheme, _, rest = destination.location.partition(":")
        assert scheme.isascii()
        assert rest
        assert "secret" not in destination.location

    def test_what_is_put_is_listed_read_and_got_and_deleted(self, destination: Destination[Any], put: Put) -> None:
        before = datetime.now(UTC)
        put("dumps/one.sql.gz")
        (file,) = destination.list("dumps")
        assert (file.key, file.size) == ("dumps/one.sql.gz", len(SMALL))
        assert abs(file.modified_at - before) < timedelta(minutes=5)
        assert destination.read("dumps/one.sql.gz", 100) == SMALL
        assert fetched(destination, "dumps/one.sql.gz") == SMALL
        destination.delete("dumps/one.sql.gz")
        assert keys(destination) == []

    def test_names_of_all_kinds_come_back_as_they_were(self, destination: Destination[Any], put: Put) -> None:
        for name in self.names:
            put(f"dumps/{name}", name.encode())
        assert keys(destination) == sorted(f"dumps/{name}" for name in self.names)
        for name in self.names:
            assert fetched(destination, f"dumps/{name}") == destination.read(f"dumps/{name}", 1000) == name.encode()
            destination.delete(f"dumps/{name}")
        assert keys(destination) == []

    @pytest.mark.parametrize("size", [0, 1, 5 << 20, (5 << 20) + 1, len(LARGE)])
    def test_files_of_all_sizes_come_back_whole(self, destination: Destination[Any], put: Put, size: int) -> None:
        put("dumps/file", LARGE[:size])
        assert [file.size for file in destination.list("dumps")] == [size]
        assert digest(fetched(destination, "dumps/file")) == digest(LARGE[:size])

    def test_only_the_first_bytes_are_read(self, destination: Destination[Any], put: Put) -> None:
        put("dumps/file", LARGE)
        put("dumps/empty", b"")
        assert destination.read("dumps/file", 1000) == LARGE[:1000]
        assert destination.read("dumps/file", 0) == destination.read("dumps/empty", 10) == b""

    @pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
    def test_what_is_taken_stays_as_it_is(self, destination: Destination[Any], put: Put, size: int) -> None:
        put("dumps/file")
        with pytest.raises(DestinationError) as raised:
            put("dumps/file", LARGE[:size])
        assert raised.value.code == "destination-conflict"
        assert not raised.value.passing
        assert fetched(destination, "dumps/file") == SMALL
        assert keys(destination) == ["dumps/file"]

    def test_what_is_not_there_is_lacking(self, destination: Destination[Any], put: Put) -> None:
        put("dumps/file")
        for key in ("dumps/other", "nowhere/file", "dumps/file/below"):
            with pytest.raises(DestinationError) as raised:
                fetched(destination, key)
            assert raised.value.code == "destination-lacks"
            with pytest.raises(DestinationError) as raised:
                destination.read(key, 10)
            assert raised.value.code == "destination-lacks"

    def test_deleting_what_is_not_there_is_silent(self, destination: Destination[Any], put: Put) -> None:
        put("dumps/file")
        for key in ("dumps/other", "nowhere/file", "dumps/file/below"):
            destination.delete(key)
        assert keys(destination) == ["dumps/file"]

    def test_a_list_shows_what_is_below_and_nothing_beside(self, destination: Destination[Any], put: Put) -> None:
        for key in ("dumps/a", "dumps/b/c", "dumps2/d", "dump", "other/dumps/e"):
            put(key)
        assert keys(destination) == ["dumps/a", "dumps/b/c"]
        assert keys(destination, "dumps/b") == ["dumps/b/c"]
        assert keys(destination, "dum") == keys(destination, "nowhere") == []

    def test_progress_is_told_and_adds_up(self, destination: Destination[Any], put: Put) -> None:
        progress = Progress()
        put("dumps/file", LARGE, Transfer(progress))
        assert progress.total == len(LARGE)
        progress = Progress()
        fetched(destination, "dumps/file", Transfer(progress))
        assert progress.total == len(LARGE)

    @pytest.mark.parametrize("after", [0, len(LARGE) // 2, len(LARGE)])
    def test_a_cancelled_upload_leaves_nothing(self, destination: Destination[Any], put: Put, after: int) -> None:
        with pytest.raises(EnoughError):
            put("dumps/file", LARGE, Transfer(Progress(cancel_after=after), limit=8 * len(LARGE)))
        assert keys(destination) == []
        put("dumps/file", LARGE)
        assert digest(fetched(destination, "dumps/file")) == digest(LARGE)

    def test_a_cancelled_download_ends(self, destination: Destination[Any], put: Put) -> None:
        put("dumps/file", LARGE)
        with pytest.raises(EnoughError):
            fetched(destination, "dumps/file", Transfer(Progress(cancel_after=1), limit=len(LARGE)))

    def test_a_limit_is_kept_to(self, destination: Destination[Any], put: Put) -> None:
        progress = Progress()
        started = datetime.now(UTC)
        put("dumps/file", LARGE[: 1 << 20], Transfer(progress, limit=1 << 20))
        assert datetime.now(UTC) - started >= timedelta(seconds=0.9)
        assert len(progress.counts) >= 2
        assert progress.total == 1 << 20

    def test_what_is_on_its_way_is_never_a_key(self, destination: Destination[Any], put: Put) -> None:
        for key in (f"{PARTIAL}/file", "dumps/../../file", "/dumps/file", "dumps//file", "dumps/./file", ""):
            with pytest.raises(DestinationError) as raised:
                put(key)
            assert raised.value.code == "destination-failed"

    def test_many_files_are_stored_at_once(self, destination: Destination[Any], tmp_path: Path) -> None:
        files = [(tmp_path / f"file {number}", f"dumps/{number}") for number in range(5)]
        for path, key in files:
            path.write_bytes(key.encode())
        destination.put_all(files, Transfer())
        assert keys(destination) == [key for _, key in files]
        assert fetched(destination, "dumps/3") == b"dumps/3"

    def test_a_source_that_cannot_be_read_is_told(self, destination: Destination[Any], tmp_path: Path) -> None:
        with pytest.raises(DestinationError, match="nowhere") as raised:
            destination.put(tmp_path / "nowhere", "dumps/file", Transfer())
        assert raised.value.code == "destination-failed"
        assert keys(destination) == []
