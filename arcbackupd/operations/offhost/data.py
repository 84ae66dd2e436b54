"""The shared data at a destination: each file once for each content that it had, and indexes of how it all was.

    PREFIX/files/PATH                   a file as it was first
    PREFIX/files/PATH~20260101-120000   the same path with later contents
    PREFIX/index-20260101-120000.json.gz

An index names the file of each path as of its time; nothing that is there ever changes or goes. What is the same as
in the last index, by size and mtime, isn't read again. Encrypted files end with ``.age``; their paths can be read.
"""

from __future__ import annotations

import gzip
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arcbackupd.destinations import Tree, TreeDestination
from arcbackupd.encryption import SUFFIX
from arcbackupd.files import write_atomically
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.offhost.moving import moving
from arcbackupd.operations.offhost.sending import Sending, free_key
from arcbackupd.operations.offhost.staging import StagedFile
from arcbackupd.operations.offhost.tree import Node, open_below, same, walk
from arcbackupd.settings import Stream

BACKUPS = "db_backups"
_BATCH_FILES = 200
_BATCH_BYTES = 64 << 20
_INDEX_LIMIT = 1 << 30
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
    mode, uid, gid, size, mtime_ns = (int(value[name]) for name in ("mode", "uid", "gid", "size", "mtime_ns"))
    node = Node(path, mode, uid, gid, size, mtime_ns, target if target is None else str(target))
    if node.is_file and (key is None or sha256 is None):
        raise ValueError(path)
    return Indexed(node, key, sha256)


def is_inside(path: str) -> bool:
    """Whether a relative path stays below where it begins."""
    parts = path.split("/")
    return bool(path) and not any(part in ("", ".", "..") for part in parts)


def send_data(
    sending: Sending, stream: Stream, shared: Path, host: str, in_between: Callable[[], Steps[None]]
) -> Steps[None]:
    """Send what is new or has changed. Files that change or vanish meanwhile are left for the next time.

    ``in_between`` does now and then what must not wait until all of it is there.
    """
    root = shared.resolve()
    yield Step("upload", f"Uploading the shared data to {sending.place.name}")
    if isinstance(sending.destination, TreeDestination):
        tree = Tree(root, frozenset({BACKUPS}))
        destination = sending.destination
        limit = sending.place.table.bandwidth_limit
        unread = yield from moving(
            lambda transfer: destination.put_tree(tree, stream.prefix, transfer),
            total=None, limit=limit, cancellation=sending.cancellation,
        )  # fmt: skip
        sending.problems.extend(unread)
        return
    yield from _TreeUpload(sending, stream, root, host, in_between).run()


class _TreeUpload:
    """One run over the shared data."""

    def __init__(
        self, sending: Sending, stream: Stream, root: Path, host: str, in_between: Callable[[], Steps[None]]
    ) -> None:
        self._in_between = in_between
        self._in_between_at = time.monotonic() + IN_BETWEEN_SECONDS
        self._sending = sending
        self._stream = stream
        self._root = root
        self._host = host
        self._now = datetime.now(UTC)
        directory = sending.place.memory.directory
        self._memory, self._interrupted = directory / "data.json.gz", directory / "data-interrupted.json.gz"
        self._batch: list[tuple[Node, StagedFile, str]] = []
        self._nodes: list[Indexed] = []
        self._taken: set[str] = set()
        self._ending = SUFFIX if stream.encrypt_to else ""

    def run(self) -> Steps[None]:
        last, interrupted = _remembered(self._memory), _remembered(self._interrupted)
        known = {each.node.path: each for index in (last, interrupted) if index for each in index.nodes}
        try:
            yield from self._send_files(known)
        except BaseException:  # what is there already isn't sent again
            _remember(self._interrupted, self._index())
            raise
        index = self._index()
        if last is None or index.nodes != last.nodes:
            yield from self._send_index(index)
        self._interrupted.unlink(missing_ok=True)

    def _index(self) -> Index:
        return Index(self._host, self._now, tuple(sorted(self._nodes, key=lambda each: each.node.path)))

    def _send_files(self, known: Mapping[str, Indexed]) -> Steps[None]:
        self._taken = {file.key for file in self._sending.destination.list(self._stream.prefix)}
        for node in walk(self._root, frozenset({BACKUPS}), self._sending.problems):
            before = known.get(node.path)
            if not node.is_file:
                self._nodes.append(Indexed(node))
            elif before and before.key in self._taken and _unchanged(before.node, node):
                self._nodes.append(Indexed(node, before.key, before.sha256))
            else:
                yield from self._stage(node)
        yield from self._flush()

    def _stage(self, node: Node) -> Steps[None]:
        try:
            with open_below(self._root, node.path) as file:
                staged = yield from self._sending.stage(file, self._stream.encrypt_to)
                unchanged = same(node, file)
        except FileNotFoundError:  # it vanished
            return
        except OSError as error:
            self._sending.problems.append(f"{node.path} can't be read: {error.strerror}")
            return
        if not unchanged or staged.plain_size != node.size:  # it is being written: the next time, then
            staged.discard()
            return
        self._batch.append((node, staged, self._free_key(node.path)))
        if len(self._batch) >= _BATCH_FILES or sum(staged.size for _, staged, _ in self._batch) >= _BATCH_BYTES:
            yield from self._flush()

    def _free_key(self, path: str) -> str:
        key = f"{self._stream.prefix}/files/{path}{self._ending}"
        if key in self._taken:
            key = free_key(f"{self._stream.prefix}/files/{path}~", self._now, self._ending, self._taken)
        self._taken.add(key)
        return key

    def _flush(self) -> Steps[None]:
        """Put what is staged; what can't be put is noted, unless nothing can."""
        batch, self._batch = self._batch, []
        try:
            yield from self._sending.put_all([(staged, key) for _, staged, key in batch])
        finally:
            for _, staged, _ in batch:
                staged.discard()
        self._nodes.extend(Indexed(node, key, staged.plain_sha256) for node, staged, key in batch)
        if time.monotonic() >= self._in_between_at:
            yield from self._in_between()
            self._in_between_at = time.monotonic() + IN_BETWEEN_SECONDS

    def _send_index(self, index: Index) -> Steps[None]:
        key = free_key(f"{self._stream.prefix}/index-", self._now, f".json.gz{self._ending}", self._taken)
        yield from self._sending.send(io.BytesIO(index.encode()), key, self._stream.encrypt_to)
        _remember(self._memory, index)


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


def newest_index(keys: Iterable[str], prefix: str) -> str | None:
    """The key of the newest index among those."""
    return max((key for key in keys if key.startswith(f"{prefix}/index-")), default=None)
