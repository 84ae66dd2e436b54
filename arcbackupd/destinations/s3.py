"""A bucket of an S3 server, Amazon's or any other: ``type = "s3"``.

A file that fits one request is put with ``If-None-Match``, so that the server itself never overwrites. A larger one
goes in parts, which obstore can't make conditional: we look for the key before the first part and before the last
one, and two daemons that finish the same key in the same moment could overwrite each other's. Give each its prefix.

Verified is what the server has. Its ETag is a hash of the contents where a file went in one request, and none where
it went in parts: that is read again, and our own SHA-256, kept with it as metadata, compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from arcbackupd.destinations import Destination, DestinationError, DestinationSettings, StoredFile, Transfer
from arcbackupd.destinations.s3_errors import Answer, explained
from arcbackupd.destinations.s3_server import S3Server
from arcbackupd.destinations.s3_settings import S3Settings
from arcbackupd.destinations.transfers import (
    Meter,
    blocks,
    changed,
    damaged,
    deliver,
    open_source,
    parts,
    sha256_of,
    taken,
    watched,
)

if TYPE_CHECKING:
    from obstore import Attributes

PART = 5 << 20
"""Bytes of a part, the least that S3 takes; what is no larger goes in one request."""

_PARTS_LIMIT = 9000  # S3 takes 10,000
_AT_ONCE = 2
_LEFT_BEHIND = timedelta(days=1)
_NO_RANGE = 416
_NOT_IMPLEMENTED = 501
_SHA256 = "arcbackupd-sha256"
_UPLOAD = "arcbackupd-upload"
_TROUBLE = (BaseError, FileNotFoundError)


@dataclass(frozen=True)
class _File:
    """What is to be stored: open, and what it contains."""

    path: Path
    opened: BinaryIO
    size: int
    sha256: str
    md5: str


class S3Destination(Destination[S3Settings]):
    """Whole files as objects, each under its own name below the prefix."""

    Settings: ClassVar[type[DestinationSettings]] = S3Settings

    @cached_property
    def _server(self) -> S3Server:
        return S3Server(self.name, self.settings)

    @property
    def location(self) -> str:
        prefix = f"/{self.settings.prefix}" if self.settings.prefix else ""
        return f"{self.settings.server}/{self.settings.bucket}{prefix}"

    def check(self) -> None:
        with self._explained("looking at it"):
            next(obstore.list(self._server.store, self.settings.prefix or None, chunk_size=1), None)
        self._server.abandon_old(self._path(""), datetime.now(UTC) - _LEFT_BEHIND)

    def list(self, prefix: str) -> list[StoredFile]:
        parts(self.name, prefix)
        with self._explained(f"listing {prefix}"):
            pages = obstore.list(self._server.store, self._path(prefix), chunk_size=1000)
            found = [meta for page in pages for meta in page]
        skipped = len(self._path(""))
        files = (StoredFile(meta["path"][skipped:], meta["size"], meta["last_modified"]) for meta in found)
        # A web console makes an empty object for what it shows as a directory: that one isn't below the prefix.
        return sorted((file for file in files if file.key != prefix), key=lambda file: file.key)

    def put(self, source: Path, key: str, transfer: Transfer) -> None:
        parts(self.name, key)
        with open_source(self.name, source) as opened:
            watched(transfer, lambda meter: self._put(opened, source, key, meter), lambda: self.delete(key))

    def get(self, key: str, target: BinaryIO, transfer: Transfer) -> None:
        parts(self.name, key)

        def fetch(meter: Meter) -> None:
            for block in self._stream(key, meter):
                deliver(self.name, target, block)
                meter.moved(len(block))

        watched(transfer, fetch)

    def read(self, key: str, length: int) -> bytes:
        parts(self.name, key)
        if not length:
            return b""
        with self._explained(f"reading {key}", key):
            try:
                return bytes(obstore.get_range(self._server.store, self._path(key), start=0, end=length))
            except BaseError as error:
                if Answer.of(error).status == _NO_RANGE:  # of an empty file there is no first byte
                    return b""
                raise

    def delete(self, key: str) -> None:
        parts(self.name, key)
        with self._explained(f"removing {key}", key):
            obstore.delete(self._server.store, self._path(key))

    def _path(self, key: str) -> str:
        return f"{self.settings.prefix}/{key}" if self.settings.prefix else key

    def _explained(self, doing: str, key: str = "") -> contextlib.AbstractContextManager[None]:
        return explained(self.name, self.settings.bucket, doing, key)

    # Storing

    def _put(self, opened: BinaryIO, source: Path, key: str, meter: Meter) -> None:
        file = self._looked_through(opened, source, meter)
        mark = secrets.token_hex(8)
        with self._explained(f"storing {key}"):
            self._refuse_taken(key)
            etag = self._sent(file, key, mark, meter)
        try:
            self._verify(file, key, etag, meter)
        except BaseException:
            with contextlib.suppress(DestinationError):
                self.delete(key)
            raise

    def _looked_through(self, opened: BinaryIO, source: Path, meter: Meter) -> _File:
        """Hash a file: its hash goes with it, as metadata, which are sent first."""
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        for block in blocks(self.name, source, opened):
            sha256.update(block)
            md5.update(block)
            size += len(block)
            meter.check()
        opened.seek(0)
        return _File(source, opened, size, sha256.hexdigest(), md5.hexdigest())

    def _refuse_taken(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            obstore.head(self._server.store, self._path(key))
            raise taken(self.name, key)

    def _sent(self, file: _File, key: str, mark: str, meter: Meter) -> str:
        """Send it and return its ETag. Raise DestinationError, or what obstore raises, with nothing left there."""
        attributes: Attributes = {"Content-Type": "application/octet-stream", _SHA256: file.sha256, _UPLOAD: mark}
        if self.settings.storage_class is not None:
            attributes["Storage-Class"] = self.settings.storage_class
        try:
            if file.size <= PART:
                return self._sent_whole(file, key, attributes, meter)
            return self._sent_in_parts(file, key, attributes, meter)
        except _TROUBLE as error:
            if (etag := self._came_after_all(key, mark)) is not None:
                return etag
            if isinstance(error, AlreadyExistsError):
                raise taken(self.name, key) from None
            raise

    def _came_after_all(self, key: str, mark: str) -> str | None:
        """The ETag of an upload of ours whose answer got lost when all was done; what wasn't done is removed."""
        path = self._path(key)
        try:
            there = obstore.get(self._server.store, path, options={"head": True})
        except FileNotFoundError:
            self._server.abandon(path)
            return None
        except BaseError:  # nobody to ask: the next upload removes what this one left
            return None
        return there.meta["e_tag"] or "" if there.attributes.get(_UPLOAD) == mark else None

    def _sent_whole(self, file: _File, key: str, attributes: Attributes, meter: Meter) -> str:
        body = b"".join(self._unchanged(file, meter))
        path = self._path(key)
        try:
            done = obstore.put(
                self._server.store, path, body, attributes=attributes, mode="create", use_multipart=False
            )
        except BaseError as error:
            # Some servers know no conditions, and say so; there it is as with parts.
            if Answer.of(error).status != _NOT_IMPLEMENTED:
                raise
            done = obstore.put(self._server.store, path, body, attributes=attributes, use_multipart=False)
        return done["e_tag"] or ""

    def _sent_in_parts(self, file: _File, key: str, attributes: Attributes, meter: Meter) -> str:
        path = self._path(key)
        self._server.abandon(path)  # what an earlier try left: the key is free, so nobody else can be at it

        def body() -> Iterator[bytes]:
            yield from self._unchanged(file, meter)
            # obstore asks for the parts inside its own event loop, in which it can't be asked for something else.
            with ThreadPoolExecutor(1) as aside:
                aside.submit(self._refuse_taken, key).result()

        done = obstore.put(
            self._server.store,
            path,
            body(),
            attributes=attributes,
            use_multipart=True,
            chunk_size=max(PART, -(-file.size // _PARTS_LIMIT)),
            max_concurrency=_AT_ONCE,
        )
        return done["e_tag"] or ""

    def _unchanged(self, file: _File, meter: Meter) -> Iterator[bytes]:
        """Yield a file's blocks as they may go; raise DestinationError at its end if it isn't what it was."""
        digest = hashlib.sha256()
        for block in blocks(self.name, file.path, file.opened, meter.block):
            digest.update(block)
            meter.moved(len(block))
            yield block
        if digest.hexdigest() != file.sha256:
            raise changed(self.name, file.path)

    # Verifying and reading

    def _verify(self, file: _File, key: str, etag: str, meter: Meter) -> None:
        """See that what is there is what was sent. Raise DestinationError."""
        with self._explained(f"verifying {key}", key):
            there = obstore.get(self._server.store, self._path(key), options={"head": True})
        if there.meta["size"] != file.size or there.attributes.get(_SHA256) != file.sha256:
            raise damaged(self.name, key)
        # An ETag may be something else than a hash, as with encryption there; but by chance it is never equal.
        hashed = file.size <= PART and etag.strip('"').lower() == file.md5
        if hashed or self.settings.verify == "size":
            return
        if sha256_of(self._stream(key, meter), meter.pace) != file.sha256:
            raise damaged(self.name, key)

    def _stream(self, key: str, meter: Meter) -> Iterator[bytes]:
        """Yield a file's blocks as they come. Raise DestinationError."""
        with self._explained(f"reading {key}", key):
            answer = obstore.get(self._server.store, self._path(key))
            if answer.meta["size"]:
                for block in answer.stream(min_chunk_size=meter.block):
                    yield bytes(block)
