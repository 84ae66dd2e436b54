"""The daemon itself: what it takes while it waits, and at its peak while it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.measure import memory, own_cpu, peaks, tree_cpu
from bench.site import QUIET, Site, client, client_json, say
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine
from tests.harness.stack import ArcsecondStack

SETTLING = 20.0
"""Seconds until a daemon that started has done what it does at its start."""

_Idle = dict[str, Any]


@contextmanager
def idle(engine: Engine, seconds: float, major: int, *, alone: bool) -> Iterator[_Idle]:
    """Watch an idle daemon beside the other measurements, on a small stack of its own, for `seconds` or longer.

    The figures are filled in at the end. What it spends is its own, however busy the machine is, but the engine's
    events that the others cause reach it too. With `alone`, all the time is waited for before the others begin.
    """
    found: _Idle = {}
    with ArcsecondStack(engine, major, postgres_args=()) as stack:
        stack.seed(3000)
        with Daemon(stack, **QUIET) as daemon:
            daemon.wait_boot_dumps(1)
            client(daemon, "list")
            time.sleep(min(SETTLING, seconds))
            began, spent, own = time.monotonic(), tree_cpu(daemon.pid), own_cpu(daemon.pid)
            first = memory(daemon.pid)
            if not alone:
                yield found
            if (left := seconds - (time.monotonic() - began)) > 0:
                say(f"watching the idle daemon for {left:.0f} s more")
                time.sleep(left)
            took, cpu = time.monotonic() - began, tree_cpu(daemon.pid) - spent
            found["cpu_own"] = own_cpu(daemon.pid) - own
            found |= {"seconds": took, "cpu": cpu, "share": cpu / took, "first": first, "last": memory(daemon.pid)}
            found["alone"] = alone
            daemon.stop()
    if alone:
        yield found


def at_work(site: Site) -> dict[str, Any]:
    """Return the daemon's peak memory during a dump and a restore of the main database."""
    site.fill(site.parameters.size)
    site.probed()
    with site.daemon() as daemon:
        client(daemon, "list")
        say("daemon: memory of a dump")
        with peaks(daemon.pid) as dump:
            name = client_json(daemon, "backup")["name"]
        say("daemon: memory of a restore")
        with peaks(daemon.pid) as restore:
            client(daemon, "restore", str(name), "--yes")
        client(daemon, "discard-replaced", "--yes")
    site.clear_backups()
    return {"length": site.length, "dump": dump, "restore": restore}
