"""The shared data at a destination: each content once, and indexes of which path had which.

    PREFIX/files/ab/abcdef…             a content, under its SHA-256 in hexadecimal; encrypted: before that was done
    PREFIX/index-20260101-120000.json.gz

An index names the content of each path as of its time; nothing that is there ever changes or goes. So it doesn't
matter where an upload was cut, what became of the memory of it, or what a path is called. What is the same as in
the last index, by size and mtime, isn't read again. What is encrypted has ``.age`` at its end, and whom to before.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arcbackupd.destinations import StoredFile, Tree, TreeDestination
from arcbackupd.encryption import SUFFIX
from arcbackupd.errors import OperationFailed
from arcbackupd.files import write_atomically
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.offhost.moving import moving
from arcbackupd.operations.offhost.sending import Place, Sending, free_key, newest_key
from arcbackupd.operations.offhost.staging import NO_ROOM, StagedFile, require_room
from arcbackupd.operations.offhost.tree import Node, open_below, same, walk
from arcbackupd.settings import Stream

BACKUPS = "db_backups"
_BATCH_FILES = 200
_BATCH_BYTES = 64 << 20
_INDEX_LIMIT = 256 << 20
_WHOM = 8
_INDEX = "data.json.gz"
IN_BETWEEN_SECONDS = 300.0
"""How long dumps may wait for shared data at most, beside the batch that is on its way."""


class DamagedIndex(Exception):
    """It isn't an index; the text says why."""


@dataclass(frozen=True)
class Indexed:
    """A node and where its contents are: the key and, of a file, their SHA-256 before they were encrypted."""

    node: Node
    key: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Index:
    """How the shared data of a host were at a time."""

    host: str
    taken_at: datetime
    nodes: tuple[Indexed, ...]

    def encode(self) -> bytes:
        """As it is stored, before it is encrypted."""
        nodes = [{**asdict(each.node), "key": each.key, "sha256": each.sha256} for each in self.nodes]
        value = {"format": 1, "host": self.host, "taken_at": self.taken_at.isoformat(), "nodes": nodes}
        return gzip.compress(json.dumps(value, ensure_ascii=False).encode(), mtime=0)


def decode_index(stored: bytes) -> Index:
    """Raise DamagedIndex when it is none; the paths in it are checked to lead nowhere else."""
    try:
        with gzip.open(io.BytesIO(stored)) as unpacked:
            value = json.loads(unpacked.read(_INDEX_LIMIT))
        if value["format"] != 1:
            raise DamagedIndex(f"it is of format {value['format']!r}, which this version doesn't know")
        nodes = tuple(_indexed(each) for each in value["nodes"])
        return Index(str(value["host"]), datetime.fromisoformat(value["taken_at"]), nodes)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedIndex("it is no index of shared data") from error


def _indexed(value: dict[str, Any]) -> Indexed:
    path, key, sha256, target = str(value["path"]), value["key"], value["sha256"], value["target"]
    if not is_inside(path) or "\0" in path or not isinstance(key, str | None) or not isinstance(sha256, str | None):
        raise ValueError(path)
    if path.encode().split(b"/")[0] == BACKUPS.encode():
        raise ValueError(path)
    mode, uid, gid, size, mtime_ns = (int(value[name]) for name in ("mode", "uid", "gid", "size", "mtime_ns"))
    if not (
        0 <= mode < 1 << 16 and min(uid, gid, size) >= 0 and max(uid, gid) < 1 << 31 and abs(mtime_ns) < 1 << 62
    ):
        raise ValueError(path)
    node = Node(path, mode, uid, gid, size, mtime_ns, target if target is None else str(target))
    if node.is_file and (key is None or sha256 is None):
        raise ValueError(path)
    return Indexed(node, key, sha256)


def is_inside(path: str) -> bool:
    """Whether a relative path stays below where it begins."""
    parts = path.split("/")
    return bool(path) and not any(part in ("", ".", "..") for part in parts)


@dataclass(frozen=True)
class SharedData:
    """What is to be uploaded: a directory, paths in it that stay out, and the host that it belongs to."""

    root: Path
    exclude: frozenset[str]
    host: str


def send_data(
    sending: Sending, stream: Stream, shared: SharedData, in_between: Callable[[], Steps[None]]
) -> Steps[None]:
    """Send what is new or has changed. Files that change or vanish meanwhile are left for the next time.

    ``in_between`` does now and then what must not wait until all of it is there.
    """
    yield Step("upload", f"Uploading the shared data to {sending.place.name}")
    if isinstance(sending.destination, TreeDestination):
        tree = Tree(shared.root, shared.exclude)
        destination = sending.destination
        limit = sending.place.table.bandwidth_limit
        unread = yield from moving(
            lambda transfer: destination.put_tree(tree, stream.prefix, transfer),
            total=None, limit=limit, cancellation=sending.cancellation,
        )  # fmt: skip
        sending.problems.extend(unread)
        return
    yield from _TreeUpload(sending, stream, shared, in_between).run()


def pending(place: Place, shared: SharedData) -> tuple[int, int] | None:
    """How many files, of how many bytes, an upload would read because they are new or have changed.

    ``None`` where that is known to the destination alone.
    """
    if isinstance(place.destination, TreeDestination):
        return None
    last = _remembered(place.memory.directory / _INDEX)
    known = {each.node.path: each.node for each in last.nodes} if last else {}
    new = [
        node.size
        for node in walk(shared.root, shared.exclude, [])
        if node.is_file and not (node.path in known and _unchanged(known[node.path], node))
    ]
    return len(new), sum(new)


class _TreeUpload:
    """One run over the shared data."""

    def __init__(
        self, sending: Sending, stream: Stream, shared: SharedData, in_between: Callable[[], Steps[None]]
    ) -> None:
        self._in_between = in_between
        self._in_between_at = time.monotonic() + IN_BETWEEN_SECONDS
        self._sending = sending
        self._stream = stream
        self._shared = shared
        self._now = datetime.now(UTC)
        directory = sending.place.memory.directory
        self._memory, self._interrupted = directory / _INDEX, directory / "data-interrupted.json.gz"
        self._batch: list[tuple[Indexed, StagedFile]] = []
        self._nodes: list[Indexed] = []
        self._there: dict[str, int] = {}

    def run(self) -> Steps[None]:
        last, interrupted = _remembered(self._memory), _remembered(self._interrupted)
        known = {each.node.path: each for index in (last, interrupted) if index for each in index.nodes}
        self._there = {file.key: file.size for file in self._sending.destination.list(self._stream.prefix)}
        try:
            yield from self._send_files(known)
        except BaseException:  # what was read already isn't read again
            _remember(self._interrupted, self._index())
            raise
        index = self._index()
        if _is_empty(index) and not _is_empty(last):
            # A disk that isn't mounted looks like this. What was there stays what a recovery brings back.
            self._sending.problems.append(f"{self._shared.root} has no files any more: nothing is noted of that.")
        elif last is None or index.nodes != last.nodes:
            yield from self._send_index(index)
        self._interrupted.unlink(missing_ok=True)

    def _index(self) -> Index:
        nodes = tuple(sorted(self._nodes, key=lambda each: each.node.path))
        return Index(self._shared.host, self._now, nodes)

    def _send_files(self, known: Mapping[str, Indexed]) -> Steps[None]:
        for node in walk(self._shared.root, self._shared.exclude, self._sending.problems):
            before = known.get(node.path)
            if not node.is_file:
                self._nodes.append(Indexed(node))
            elif before and self._has(before) and _unchanged(before.node, node):
                self._nodes.append(Indexed(node, before.key, before.sha256))
            else:
                yield from self._stage(node, before)
        yield from self._flush()

    def _stage(self, node: Node, before: Indexed | None) -> Steps[None]:
        """Read a file that is new or has changed. What can't be had now stays what it was in the index."""
        try:
            with open_below(self._shared.root, node.path) as file:
                require_room(self._memory.parent, node.size)
                staged = yield from self._sending.stage(file, self._stream.encrypt_to)
                unchanged = same(node, file)
        except FileNotFoundError:  # it vanished
            return
        except OSError as error:
            self._leave(f"{node.path} can't be read: {error.strerror}.", before)
            return
        except OperationFailed as error:
            if error.code != NO_ROOM:
                raise
            self._leave(f"{node.path} is too large to be staged: {error.message}", before)
            return
        if not unchanged or staged.plain_size != node.size:
            staged.discard()
            self._leave(f"{node.path} changed while it was read; the next upload takes it.", before)
            return
        key = content_key(staged.plain_sha256, self._stream)
        if key in self._there:
            staged.discard()
            self._nodes.append(Indexed(node, key, staged.plain_sha256))
            return
        self._batch.append((Indexed(node, key, staged.plain_sha256), staged))
        self._there[key] = staged.size
        if len(self._batch) >= _BATCH_FILES or sum(staged.size for _, staged in self._batch) >= _BATCH_BYTES:
            yield from self._flush()

    def _leave(self, problem: str, before: Indexed | None) -> None:
        self._sending.problems.append(problem)
        if before and self._has(before):
            self._nodes.append(before)

    def _has(self, known: Indexed) -> bool:
        """Whether it is there, for those whom it is encrypted to now."""
        return known.key in self._there and known.key == content_key(known.sha256 or "", self._stream)

    def _flush(self) -> Steps[None]:
        """Put what is staged."""
        batch, self._batch = self._batch, []
        try:
            yield from self._sending.put_all([(staged, each.key or "") for each, staged in batch])
        finally:
            for _, staged in batch:
                staged.discard()
        self._nodes.extend(each for each, _ in batch)
        if time.monotonic() >= self._in_between_at:
            yield from self._in_between()
            self._in_between_at = time.monotonic() + IN_BETWEEN_SECONDS

    def _send_index(self, index: Index) -> Steps[None]:
        ending = SUFFIX if self._stream.encrypt_to else ""
        key = free_key(f"{self._stream.prefix}/index-", self._now, f".json.gz{ending}", self._there)
        yield from self._sending.send(io.BytesIO(index.encode()), key, self._stream.encrypt_to)
        _remember(self._memory, index)


def content_key(sha256: str, stream: Stream) -> str:
    """Where a content is. Encrypted to others it is another one: who may read it belongs to it."""
    ending = ""
    if stream.encrypt_to:
        whom = hashlib.sha256("\n".join(sorted(stream.encrypt_to)).encode()).hexdigest()[:_WHOM]
        ending = f".{whom}{SUFFIX}"
    return f"{stream.prefix}/files/{sha256[:2]}/{sha256}{ending}"


def _is_empty(index: Index | None) -> bool:
    return index is None or not any(each.node.is_file for each in index.nodes)


def _remember(path: Path, index: Index) -> None:
    with suppress(OSError):  # without it everything counts as changed
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, index.encode())


def _remembered(path: Path) -> Index | None:
    try:
        return decode_index(path.read_bytes())
    except (OSError, DamagedIndex):
        return None


def _unchanged(before: Node, now: Node) -> bool:
    return (before.size, before.mtime_ns) == (now.size, now.mtime_ns)


def newest_index(files: Iterable[StoredFile], prefix: str) -> str | None:
    """The key of the newest index among those."""
    return newest_key(files, f"{prefix}/index-", (".json.gz", f".json.gz{SUFFIX}"))
