"""What is known of a destination: what it had when it was last looked at, what this host put there, how it went.

All of it can be lost: then nothing that is there is removed any more, and what can't be compared is taken for
whole by its size. The manifests of dumps are kept beside it, a file each, written once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from arcbackupd.destinations import StoredFile
from arcbackupd.dumps.manifest import Manifest, encode
from arcbackupd.errors import ArcbackupdError
from arcbackupd.files import write_atomically
from arcbackupd.operations.offhost.staging import StagedFile

_PROBLEMS = 20
_REMOVED = 10_000


class Put(BaseModel):
    """A file that this host put there: its bytes and SHA-256 as stored, and SHA-256 before it was encrypted."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str
    plain_sha256: str
    at: AwareDatetime


class Present(BaseModel):
    """A file that was there at the last look."""

    model_config = ConfigDict(frozen=True)

    size: int
    modified_at: AwareDatetime


class Failure(BaseModel):
    """Why the last upload failed."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    hint: str
    at: AwareDatetime


class Facts(BaseModel):
    """``location`` is the place that all of it is about; ``problems`` are what the last upload left out,
    ``removed`` what retention removed there, which doesn't go up again.

    ``present`` are the dumps that were there at the last look, at ``looked_at``.

    ``since``: when an upload was first tried; ``done_at``: the end of the last one that left nothing to do.
    """

    model_config = ConfigDict(frozen=True)

    put: dict[str, Put] = {}
    present: dict[str, Present] = {}
    looked_at: AwareDatetime | None = None
    since: AwareDatetime | None = None
    done_at: AwareDatetime | None = None
    failure: Failure | None = None
    problems: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    location: str = ""


class DestinationMemory:
    """Of one destination; safe to use from several threads."""

    def __init__(self, directory: Path, location: str) -> None:
        """``location``: of the destination; what is known of another one under the same name doesn't count."""
        self.directory = directory
        self._location = location
        self._file = directory / "memory.json"
        self._lock = threading.Lock()
        self._facts: Facts | None = None
        self._manifests: dict[str, Manifest | None] = {}

    @property
    def facts(self) -> Facts:
        """What is known now."""
        with self._lock:
            return self._recall()

    def looked(self, files: Iterable[StoredFile]) -> None:
        """Note which dumps are there."""
        present = {file.key: Present(size=file.size, modified_at=file.modified_at) for file in files}
        self._note(present=present, looked_at=datetime.now(UTC))

    def added(self, key: str, staged: StagedFile) -> None:
        """Note a file that was put there."""
        now = datetime.now(UTC)
        put = Put(size=staged.size, sha256=staged.sha256, plain_sha256=staged.plain_sha256, at=now)
        self._note(put={**self.facts.put, key: put})

    def removed(self, key: str) -> None:
        """Note that a file isn't there any more."""
        facts = self.facts
        put = {other: value for other, value in facts.put.items() if other != key}
        present = {other: value for other, value in facts.present.items() if other != key}
        self._note(put=put, present=present, removed=(*facts.removed, key)[-_REMOVED:])
        with self._lock:
            self._manifests.pop(key, None)
        self._manifest_file(key).unlink(missing_ok=True)

    def begun(self) -> None:
        """Note that an upload was tried."""
        if self.facts.since is None:
            self._note(since=datetime.now(UTC))

    def ended(self, error: ArcbackupdError | None, problems: Sequence[str]) -> None:
        """Note how an upload ended, and what it left out."""
        now = datetime.now(UTC)
        told = tuple(problems[:_PROBLEMS])
        if error is None:
            self._note(failure=None, problems=told, **({} if told else {"done_at": now}))
        else:
            failure = Failure(code=error.code, message=error.message, hint=error.hint, at=now)
            self._note(failure=failure, problems=told)

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a dump that is there, if it was ever read."""
        with self._lock:
            if key not in self._manifests:
                self._manifests[key] = self._read_manifest(key)
            return self._manifests[key]

    def remember_manifest(self, key: str, manifest: Manifest) -> None:
        """Keep the manifest of a dump that is there."""
        with self._lock:
            self._manifests[key] = manifest
        with suppress(OSError):  # it is read again from there, where it can be
            path = self._manifest_file(key)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, encode(manifest))

    def _read_manifest(self, key: str) -> Manifest | None:
        try:
            return Manifest.model_validate_json(self._manifest_file(key).read_bytes())
        except (OSError, ValidationError):
            return None

    def _manifest_file(self, key: str) -> Path:
        return self.directory / "manifests" / f"{quote(key, safe='')}.json"

    def _recall(self) -> Facts:
        if self._facts is None:
            try:
                self._facts = Facts.model_validate_json(self._file.read_bytes())
            except (OSError, ValidationError):  # lost, or of another version
                self._facts = Facts()
            if self._facts.location != self._location:
                self._facts = Facts(location=self._location)
        return self._facts

    def _note(self, **changed: object) -> None:
        with self._lock:
            self._facts = self._recall().model_copy(update=changed)
            with suppress(OSError):  # see above: it can be lost
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(self._file, self._facts.model_dump_json().encode())
