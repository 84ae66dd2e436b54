"""Restores of the main database: ours, the specification's pipe, pg_restore, and Arcsecond's client."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import data, peers
from bench.measure import Cost, measured
from bench.site import Site, client, client_json, say
from tests.harness.process import CommandFailed

CUSTOM = "/var/lib/postgresql/bench.custom"
"""A dump in PostgreSQL's own format, inside the container."""

JOBS = 2


def measure(site: Site) -> dict[str, Any]:
    """Restore the same data in each way, round by round; after each, all rows must be there."""
    site.fill(site.parameters.size)
    site.probed()
    expected = data.fingerprint(site.stack)
    dump = _dumped(site)
    _make_custom(site)
    ways: dict[str, tuple[str, Callable[[int], dict[str, Any]], int]] = {
        "pipe": ("gunzip, piped into docker exec psql", lambda n: _loaded(site, n, lambda: _pipe(site, dump)), 99),
        "pg_restore": (
            f"pg_restore -j{JOBS}, from the custom format",
            lambda n: _loaded(site, n, lambda: _jobs(site)),
            99,
        ),
        "ours": ("arcbackupctl restore --no-safety-backup", lambda n: _ours(site, dump, n, safety=False), 99),
        "safety": (
            "arcbackupctl restore",
            lambda n: _ours(site, dump, n, safety=True),
            site.parameters.safety_rounds,
        ),
    }
    skipped: dict[str, str] = {}
    try:
        peer = peers.Arcsecond.get(site)
        label = f"Arcsecond's client {peer.version}, --no-safety-backup"
        ways["arcsecond"] = (label, lambda n: _arcsecond(site, peer, dump, n), 1)
    except peers.Missing as error:
        skipped["arcsecond"] = str(error)
    found: dict[str, dict[str, Any]] = {key: {"label": label, "runs": []} for key, (label, _, _) in ways.items()}
    for round_ in range(1, site.parameters.restore_rounds + 1):
        for key, (label, way, rounds) in ways.items():
            if round_ <= rounds:
                say(f"restore, round {round_}: {label}")
                found[key]["runs"].append(way(round_))
                _require_same(site, label, expected)
    site.stack.exec(site.stack.database, "rm", "-f", CUSTOM)
    dump.unlink()
    return {"length": site.length, "methods": found, "skipped": skipped}


def _dumped(site: Site) -> Path:
    """Take a dump with the daemon and put it aside."""
    with site.daemon() as daemon:
        name = client_json(daemon, "backup")["name"]
    kept = site.peers / str(name)
    shutil.move(site.stack.backups / str(name), kept)
    return kept


def _make_custom(site: Site) -> None:
    stack = site.stack
    stack.exec(stack.database, "rm", "-f", CUSTOM)
    stack.pg(["pg_dump", "-U", stack.user, "-d", stack.db, "-Fc", "-f", CUSTOM], timeout=3600)


def _loaded(site: Site, round_: int, load: Callable[[], None]) -> dict[str, Any]:
    """Stop, drop, create, load, start, as the specification's restore does; the load is timed by itself as well."""
    site.settle()
    inner = Cost()

    def reset_and_load() -> None:
        nonlocal inner
        with measured(site.stack) as inner:
            _reset(site)
            load()

    with measured(site.stack) as cost:
        peers.services_stopped_and_started(site, reset_and_load)
    return cost.record(round_, load=inner.wall, downtime=cost.wall)


def _reset(site: Site) -> None:
    stack = site.stack
    site.shell(
        f"docker exec --env PGPASSWORD {stack.database} dropdb --force -U {stack.user} {stack.db};"
        f" docker exec --env PGPASSWORD {stack.database} createdb -U {stack.user} {stack.db}"
    )


def _pipe(site: Site, dump: Path) -> None:
    stack = site.stack
    psql = f"psql -X -q -v ON_ERROR_STOP=1 -U {stack.user} -d {stack.db}"
    # What it prints (setval) goes nowhere, as it would on a terminal.
    site.shell(f"gunzip -c {dump} | docker exec -i --env PGPASSWORD {stack.database} {psql} >/dev/null")


def _jobs(site: Site) -> None:
    stack = site.stack
    command = f"pg_restore -j{JOBS} --exit-on-error -U {stack.user} -d {stack.db} {CUSTOM}"
    site.shell(f"docker exec --env PGPASSWORD {stack.database} {command}")


def _ours(site: Site, dump: Path, round_: int, *, safety: bool) -> dict[str, Any]:
    """Restore by the client, from its start to its end, with a daemon that runs already."""
    site.stack.backups.mkdir(exist_ok=True)
    shutil.copy2(dump, site.stack.backups / dump.name)
    with site.daemon() as daemon:
        client_json(daemon, "list")
        site.settle()
        with measured(site.stack, daemon.pid) as cost:
            report = client_json(daemon, "restore", dump.name, "--yes", *([] if safety else ["--no-safety-backup"]))
        if report["outcome"] != "restored" or report["problem"]:
            raise CommandFailed(f"arcbackupctl restore: {report}")
        steps = _steps(daemon.log())
        client(daemon, "discard-replaced", "--yes")
    site.clear_backups()
    return cost.record(round_, load=cost.wall, downtime=report["downtime_s"], steps=steps)


def _steps(log: str) -> list[str]:
    """Return the daemon's own lines about the restore, for the profile."""
    return [line for line in log.splitlines() if "estor" in line][-40:]


def _arcsecond(site: Site, peer: peers.Arcsecond, dump: Path, round_: int) -> dict[str, Any]:
    """Restore by Arcsecond's client; where its Compose would start the services, they are started for it."""
    peer.only(dump)
    site.settle()
    with measured(site.stack) as cost:
        peer.restore(dump.name)
        peers.start_again(site)
    peer.only()
    return cost.record(round_, load=cost.wall, downtime=cost.wall)


def _require_same(site: Site, label: str, expected: str) -> None:
    if (found := data.fingerprint(site.stack)) != expected:
        raise CommandFailed(f"after {label} the data are others: {found}, not {expected}")
