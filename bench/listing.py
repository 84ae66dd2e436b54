"""Two weeks of hourly dumps, listed: by a warm daemon, by one that just started, and by Arcsecond's client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from arcbackupd.dumps.dumpfile import MEMBER_SIZE, manifest_member, read_manifest
from arcbackupd.dumps.manifest import Manifest, Reason
from arcbackupd.dumps.names import BackupName, Kind
from bench import peers
from bench.measure import measured
from bench.site import Site, client, client_argv, client_env, client_json, first_byte, say
from tests.harness.process import CommandFailed, run

ROOM = 8 << 30
"""What copies leave free on the disk."""

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def measure(site: Site) -> dict[str, Any]:
    """Make the dumps, list them in each way, and remove them."""
    site.fill(site.parameters.list_size)
    with site.daemon() as daemon:
        taken = client_json(daemon, "backup")
    try:
        real = site.stack.backups / taken["name"]
        dumps = _make_dumps(real, site.parameters.list_dumps)
        found: dict[str, Any] = {
            "dumps": len(dumps),
            "wanted": site.parameters.list_dumps,
            "size": taken["size"],
            "length": site.length,
            "share_before_migrations": _share_before_migrations(real),
        }
        found |= _warm(site, len(dumps))
        found["cold"] = [_cold(site, len(dumps), drop=False) for _ in range(site.parameters.cold_runs)]
        if os.access(DROP_CACHES, os.W_OK):
            found["dropped"] = [_cold(site, len(dumps), drop=True) for _ in range(site.parameters.cold_runs)]
        found["arcsecond"] = _arcsecond(site, dumps)
    finally:
        site.clear_backups()
    return found


def _make_dumps(real: Path, count: int) -> list[Path]:
    """Copy a dump to names an hour apart, each a file of its own with its manifest; fewer without room."""
    size = real.stat().st_size
    count = min(count, max(int((shutil.disk_usage(real.parent).free - ROOM) // size), 1))
    say(f"list: making {count} dumps of {size / 1e6:.0f} MB")
    with real.open("rb") as file:
        manifest = read_manifest(file, size)
    if manifest is None:
        raise CommandFailed(f"{real.name} has no manifest")
    return [real, *(_copy(real, manifest, hours) for hours in range(1, count))]


def _copy(real: Path, manifest: Manifest, hours: int) -> Path:
    """Write one more dump, as it would have been taken so many hours earlier."""
    earlier = timedelta(hours=hours)
    times = {"started_at": manifest.started_at - earlier, "finished_at": manifest.finished_at - earlier}
    told = manifest.model_copy(update={"reason": Reason.SCHEDULED, **times})
    path = real.parent / str(BackupName(told.started_at.replace(microsecond=0), Kind.BACKUP))
    with real.open("rb") as source, path.open("xb") as target:
        target.write(manifest_member(told))
        target.flush()
        offset, size = MEMBER_SIZE, real.stat().st_size
        while offset < size:
            offset += os.sendfile(target.fileno(), source.fileno(), offset, size - offset)
        os.fsync(target.fileno())  # else they all are written while something is measured
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    path.chmod(real.stat().st_mode & 0o777)
    return path


def _share_before_migrations(real: Path) -> float:
    """Return which part of the SQL is before the table of the migrations: Arcsecond's client reads no further."""
    script = 'gunzip -c "$1" | { grep -m1 -abo "^COPY public.django_migrations" || true; } | cut -d: -f1'
    offset = run(["bash", "-c", script, "-", str(real)], timeout=600).stdout.strip()
    total = run(["bash", "-c", 'gunzip -c "$1" | wc -c', "-", str(real)], timeout=600).stdout
    if not offset:
        raise CommandFailed(f"{real.name} has no table django_migrations")
    return int(offset) / int(total)


def _warm(site: Site, count: int) -> dict[str, list[float]]:
    """Time the client with a daemon that has listed before, and programs for comparison, in turn."""
    say(f"list: {site.parameters.list_runs} times, warm")
    with site.daemon() as daemon:
        _require_complete(client_json(daemon, "list"), count)
        listing, as_json, env = client_argv("list"), client_argv("list", "--json"), client_env(daemon)
        ways: dict[str, Callable[[], float]] = {
            "warm": lambda: _took(listing, env),
            "warm_json": lambda: _took(as_json, env),
            "first_byte": lambda: first_byte(as_json, env),
            "python": lambda: _took([sys.executable, "-c", "pass"], env),
            "docker_version": lambda: _took(["docker", "version"], site.env),
            "docker_ps": lambda: _took(["docker", "ps"], site.env),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(site.parameters.list_runs):
            for name, way in ways.items():
                found[name].append(way())
    return found


def _took(argv: list[str], env: dict[str, str]) -> float:
    """Return the seconds of a program's life, its output read. Raise CommandFailed when it fails."""
    began = time.monotonic()
    done = subprocess.run(
        argv,
        check=False,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
    )
    took = time.monotonic() - began
    if done.returncode != 0 or (not done.stdout and "pass" not in argv):
        raise CommandFailed(f"{argv} ended with {done.returncode}: {done.stderr.decode()}")
    return took


def _cold(site: Site, count: int, *, drop: bool) -> dict[str, float]:
    """Start the daemon and list at once; `drop`: with nothing of the file system in memory, programs neither."""
    say(f"list: by a daemon that just started{', page cache dropped' if drop else ''}")
    if drop:
        os.sync()
        DROP_CACHES.write_text("3", encoding="ascii")
    began = time.monotonic()
    with site.daemon() as daemon:
        ready = time.monotonic()
        text = client(daemon, "list")
        done = time.monotonic()
        _require_badges(text, count)
        _require_complete(client_json(daemon, "list"), count)
    return {"ready": ready - began, "list": done - ready, "total": done - began}


def _require_badges(text: str, count: int) -> None:
    """Raise CommandFailed unless the very first answer was complete."""
    rows = sum("compatible" in line and "incompatible" not in line for line in text.splitlines())
    if rows < count:
        raise CommandFailed(f"{rows} of {count} dumps had their badge: {text[:2000]}")


def _require_complete(answer: dict[str, Any], count: int) -> None:
    rows = answer["backups"]
    badges = {row["status"] for row in rows}
    if len(rows) != count or badges != {"compatible"} or not all(row["manifest"] for row in rows):
        raise CommandFailed(f"{len(rows)} of {count} dumps are listed, as {sorted(badges)}")


def _arcsecond(site: Site, dumps: list[Path]) -> dict[str, Any]:
    """Let Arcsecond's client list one dump, and as many as asked for: the difference is what each costs."""
    try:
        peer = peers.Arcsecond.get(site)
    except peers.Missing as error:
        return {"skipped": str(error)}
    many = min(site.parameters.arcsecond_dumps, len(dumps))
    took = {count: _listed_by(site, peer, dumps[:count]) for count in dict.fromkeys((1, many))}
    each = (took[many] - took[1]) / (many - 1) if many > 1 else took[1]
    all_of_them = took[many] if many == len(dumps) else took[1] + each * (len(dumps) - 1)
    return {"version": peer.version, "listed": many, "took": took[many], "each": each, "all": all_of_them}


def _listed_by(site: Site, peer: peers.Arcsecond, dumps: list[Path]) -> float:
    say(f"list: {len(dumps)} by Arcsecond's client")
    peer.only(*dumps)
    with measured(site.stack) as cost:
        compatible = peer.list()
    peer.only()
    if compatible != len(dumps):
        raise CommandFailed(f"Arcsecond's client calls {compatible} of {len(dumps)} dumps compatible")
    return cost.wall
