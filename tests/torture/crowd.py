"""A fault: hundreds of clients at once that send nothing, halves, too much or rubbish, while a dump runs."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.torture.rig import SECONDS, Rig

CLIENTS = 500
ANSWER_SECONDS = 30.0
_LIST = json.dumps({"method": "io.arcsecond.Backups.List"}).encode() + b"\0"
_MESSAGES = (
    b"",
    b'{"method": "io.arcsec',
    b"x" * 70_000,
    b"\xff\xfe\0",
    b"[" * 20_000 + b"\0",
    b'{"method": "io.arcsecond.Backups.NoSuch"}\0',
    _LIST,
    _LIST * 300,
)


@dataclass(frozen=True)
class Crowd:
    """500 clients; a dump that runs goes through, and who behaves is answered."""

    def prepare(self, rig: Rig) -> None:
        pass

    def strike(self, rig: Rig) -> None:
        answers: list[dict[str, Any] | None] = []
        dumping = threading.Thread(target=lambda: answers.append(rig.ask("Backup")))
        with crowd(rig):
            dumping.start()
            begun = time.monotonic()
            assert rig.daemon.json("list", timeout=SECONDS)["backups"]
            took = time.monotonic() - begun
            dumping.join(SECONDS)
        assert took < ANSWER_SECONDS, f"a client that behaves waited {took:.1f} s"
        assert [answer and answer["result"]["outcome"] for answer in answers] == ["published"], rig.daemon.log()


@contextlib.contextmanager
def crowd(rig: Rig) -> Iterator[None]:
    """Let them all come, and go on coming, for as long as it lasts."""
    ending = threading.Event()
    threads = [threading.Thread(target=_come, args=(rig, number, ending)) for number in range(10)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def _come(rig: Rig, number: int, ending: threading.Event) -> None:
    address = str(rig.quick.stack.control_socket)
    standing: list[socket.socket] = []
    sent = number
    while not ending.is_set():
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(0.2)
        with contextlib.suppress(OSError):
            client.connect(address)
            client.sendall(_MESSAGES[sent % len(_MESSAGES)])
        standing.append(client)
        sent += 1
        if len(standing) > CLIENTS // 10:
            standing.pop(0).close()
    for client in standing:
        client.close()
