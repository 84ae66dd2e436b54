"""How time and memory grow with the database."""

from __future__ import annotations

from typing import Any

from bench.measure import measured, peaks
from bench.site import Site, client, client_json, say
from tests.harness.process import CommandFailed


def measure(site: Site) -> list[dict[str, Any]]:
    """Dump and restore a database of each size once."""
    site.probed()
    return [_at(site, size) for size in site.parameters.growth]


def _at(site: Site, size: int) -> dict[str, Any]:
    site.fill(size)
    with site.daemon() as daemon:
        client(daemon, "list")
        say("growth: dump")
        site.settle()
        with peaks(daemon.pid) as memory_of_dump, measured(site.stack, daemon.pid) as dump:
            told = client_json(daemon, "backup")
        say("growth: restore")
        site.settle()
        with peaks(daemon.pid) as memory_of_restore, measured(site.stack, daemon.pid) as restore:
            report = client_json(daemon, "restore", str(told["name"]), "--yes", "--no-safety-backup")
        if report["outcome"] != "restored" or report["problem"]:
            raise CommandFailed(f"arcbackupctl restore: {report}")
        client(daemon, "discard-replaced", "--yes")
    site.clear_backups()
    return {
        "length": told["sql_length"],
        "size": told["size"],
        "dump": dump.wall,
        "restore": restore.wall,
        "downtime": report["downtime_s"],
        "dump_peak": memory_of_dump["peak"],
        "restore_peak": memory_of_restore["peak"],
    }
