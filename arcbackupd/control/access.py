"""Who is on the other end of a connection, and what that lets them do.

The kernel says who it is (SO_PEERCRED, fixed when the peer connected); the host's user database says in
which groups. Nothing that the peer itself sends is believed.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

from arcbackupd.errors import Refused

_UCRED = struct.Struct("3i")
_LOOKUPS_AT_ONCE = 16


class Access(IntEnum):
    """What a method asks for, and what a peer is granted: each level holds the ones below it."""

    NONE = 0
    READ = 1
    """Looking: the group."""
    OPERATE = 2
    """Taking a backup: the group."""
    ADMIN = 3
    """Anything that removes or changes: root and the configured admins."""


@dataclass(frozen=True)
class Peer:
    """Who calls. ``user`` is None, and ``groups`` only the process's own, for a uid that the host doesn't know."""

    uid: int
    gid: int
    pid: int
    user: str | None = None
    groups: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return self.user or f"uid {self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """The peer as the kernel knows it; no look-up yet. Raise OSError when the kernel can't say."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(uid=uid, gid=gid, pid=pid, user="root" if uid == 0 else None, groups=frozenset({gid}))


def look_up(peer: Peer) -> Peer:
    """Add the user's name and groups. Blocks for as long as the host's user database takes."""
    try:
        entry = pwd.getpwuid(peer.uid)
    except KeyError:
        return peer
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Peer(peer.uid, peer.gid, peer.pid, entry.pw_name, frozenset(groups) | peer.groups)


@dataclass(frozen=True)
class AccessPolicy:
    """The ``[control]`` settings that say who may do what.

    A user or group that the host doesn't have gives nobody any rights, and is no error: it may come later.
    """

    group: str | None
    admins: Iterable[str] = ("root",)
    """Names of users, and ``%group`` for all members of a group."""

    def level_of(self, peer: Peer) -> Access:
        """What this peer, already looked up, may do. Blocks as ``look_up`` does."""
        if any(_is_named_by(entry, peer) for entry in self.admins):
            return Access.ADMIN
        if self.group is not None and _is_named_by(f"%{self.group}", peer):
            return Access.OPERATE
        return Access.NONE


def _is_named_by(entry: str, peer: Peer) -> bool:
    try:
        if entry.startswith("%"):
            return grp.getgrnam(entry[1:]).gr_gid in peer.groups
        return pwd.getpwnam(entry).pw_uid == peer.uid
    except (KeyError, ValueError):
        return False


class Gatekeeper:
    """Decides calls by an AccessPolicy, without ever blocking the event loop.

    Looked up anew for each call, so that a right taken away is gone with the next one.
    """

    def __init__(self, policy: AccessPolicy, *, seconds: float = 3.0) -> None:
        self.policy = policy
        self._seconds = seconds
        self._pending: dict[tuple[int, int], asyncio.Future[tuple[Peer, Access]]] = {}

    async def admit(self, peer: Peer, needed: Access, what: str) -> Peer:
        """Return the peer with its name and groups. Raise Refused when it may not do ``what``."""
        if peer.uid == 0:  # never looked up: root must get through when the directory service is down
            return peer
        known, level = await self._ask(peer)
        if level < needed and peer.uid != os.geteuid():
            raise self._refusal(known, needed, what)
        return Peer(known.uid, known.gid, peer.pid, known.user, known.groups)

    async def _ask(self, peer: Peer) -> tuple[Peer, Access]:
        future = self._pending.get((peer.uid, peer.gid)) or self._start(peer)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(future)
        except (TimeoutError, OSError) as error:
            if peer.uid == os.geteuid():
                return peer, Access.ADMIN
            raise _unknown_caller(peer) from error

    def _start(self, peer: Peer) -> asyncio.Future[tuple[Peer, Access]]:
        # Daemon threads, not an executor: those are joined at exit, and a directory service that hangs
        # would hang the daemon's stop with it. One per user at a time, and so many in all.
        if len(self._pending) >= _LOOKUPS_AT_ONCE:
            raise _unknown_caller(peer)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Peer, Access]] = loop.create_future()

        def work() -> None:
            try:
                known = look_up(peer)
                answer: tuple[Peer, Access] | Exception = (known, self.policy.level_of(known))
            except Exception as error:  # noqa: BLE001  (a name service module may raise anything; the caller is told)
                answer = OSError(str(error))
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, future, answer)

        threading.Thread(target=work, name="peer-look-up", daemon=True).start()
        key = (peer.uid, peer.gid)
        self._pending[key] = future
        future.add_done_callback(lambda done: self._forget(key, done))
        return future

    def _forget(self, key: tuple[int, int], done: asyncio.Future[tuple[Peer, Access]]) -> None:
        del self._pending[key]
        if not done.cancelled():
            done.exception()  # seen here, so that nobody having waited for it is no warning

    def _refusal(self, peer: Peer, needed: Access, what: str) -> Refused:
        if needed is Access.ADMIN:
            return Refused(
                "not-permitted",
                f"{peer} may not call {what}: that is for root and the configured admins.",
                hint="Use sudo, or add the user (or %group) to [control] admins in the daemon's configuration.",
            )
        return Refused(
            "not-permitted",
            f"{peer} may not call {what}: that is for the group {self.policy.group or 'root'}.",
            hint=_joining(self.policy.group, peer),
        )


def _joining(group: str | None, peer: Peer) -> str:
    if group is None:
        return "Use sudo; no group is configured ([control] group) that may look at backups."
    return f"Use sudo, or join the group: sudo usermod -aG {group} {peer.user or 'USER'}, then log in again."


def _unknown_caller(peer: Peer) -> Refused:
    return Refused(
        "caller-unknown",
        f"Who uid {peer.uid} is could not be found out: the host's user database did not answer in time.",
        hint="Try again, or use sudo: root is never looked up. If users come from LDAP, check that service.",
    )


def _settle(future: asyncio.Future[tuple[Peer, Access]], answer: tuple[Peer, Access] | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
