"""Dumps: ours, the peers', and the limit, round by round; and ours at each level of compression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, Le

from arcbackupd.settings import Dump as DumpSettings
from bench import peers
from bench.measure import measured
from bench.site import Site, client, client_json, say
from tests.harness.daemon import Daemon
from tests.harness.process import CommandFailed


@dataclass(frozen=True)
class Method:
    """One way to dump: what it is called, and how it is run once, with what must be there before."""

    key: str
    label: str
    dump: Callable[[], int]
    """Dump, and return the bytes written."""
    prepare: Callable[[], object] = lambda: None
    rounds: int | None = None


def measure(site: Site) -> dict[str, Any]:
    """Measure all methods in turn, as many rounds as asked for."""
    site.fill(site.parameters.size)
    skipped: dict[str, str] = {}
    methods = list(_methods(site, skipped))
    found: dict[str, dict[str, Any]] = {m.key: {"label": m.label, "runs": []} for m in methods}
    ours = {"ours": "arcbackupd", "stream": "arcbackupd, through the engine's stream"}
    settings: dict[str, dict[str, Any]] = {"ours": {}, "stream": {"engine": {"data_path": "stream"}}}
    if not _understood(site, settings["stream"]):
        skipped["stream"] = "this arcbackupd has no setting engine.data_path"
        del ours["stream"]
    found |= {key: {"label": label, "runs": []} for key, label in ours.items()}
    _warm_up(site)
    for round_ in range(1, site.parameters.rounds + 1):
        for method in methods:
            if method.rounds is None or round_ <= method.rounds:
                say(f"dump, round {round_}: {method.label}")
                found[method.key]["runs"].append(_peer_run(site, method, round_))
        for key, label in ours.items():
            say(f"dump, round {round_}: {label}")
            found[key]["runs"].append(_our_run(site, settings[key], round_))
    answer: dict[str, Any] = {"length": site.length, "methods": found, "skipped": skipped}
    if site.parameters.levels:
        answer["levels"] = [_level(site, level) for level in levels()]
    return answer


def levels() -> list[int]:
    """Return the levels of compression that the daemon's settings allow."""
    bounds = DumpSettings.model_fields["compression_level"].metadata
    [least] = [int(str(bound.ge)) for bound in bounds if isinstance(bound, Ge)]
    [most] = [int(str(bound.le)) for bound in bounds if isinstance(bound, Le)]
    return list(range(least, most + 1))


def _methods(site: Site, skipped: dict[str, str]) -> Iterator[Method]:
    yield Method("pipe", "docker exec pg_dump, piped into gzip", lambda: peers.piped(site, "gzip -6"))
    with _skipping("pigz", skipped):
        peers.programs("pigz")
        yield Method("pigz", "the same, piped into pigz", lambda: peers.piped(site, "pigz -6"))
    yield Method("limit", "pg_dump to nowhere, in the container", lambda: peers.to_nowhere(site))
    yield Method("engine", "docker exec pg_dump to nowhere", lambda: peers.through_engine(site), rounds=1)
    with _skipping("arcsecond", skipped):
        client = peers.Arcsecond.get(site)
        label = f"Arcsecond's client {client.version}, safety dump"
        yield Method("arcsecond", label, client.dump, rounds=site.parameters.peer_rounds)
    with _skipping("borgmatic", skipped):
        borgmatic = peers.Borgmatic.get(site)
        label = f"borgmatic {borgmatic.version}, plain dump to a new repository"
        yield Method("borgmatic", label, borgmatic.dump, borgmatic.prepare, site.parameters.peer_rounds)


@contextmanager
def _skipping(key: str, skipped: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except peers.Missing as error:
        say(f"left out: {key}: {error}")
        skipped[key] = str(error)


def _warm_up(site: Site) -> None:
    """Let the database be in memory for the first as for the last."""
    say("warming up")
    peers.to_nowhere(site)
    _our_run(site, {}, 0)


def _peer_run(site: Site, method: Method, round_: int) -> dict[str, Any]:
    method.prepare()
    site.settle()
    with measured(site.stack) as cost:
        size = method.dump()
    return cost.record(round_, size=size)


def _our_run(site: Site, settings: dict[str, Any], round_: int) -> dict[str, Any]:
    """Dump by the client, from its start to its end, with a daemon that runs already."""
    with site.daemon(**settings) as daemon:
        site.settle()
        with measured(site.stack, daemon.pid) as cost:
            told = client_json(daemon, "backup")
        _require_whole(daemon, told, verify=round_ == 1)
    site.clear_backups()
    return cost.record(round_, size=told["size"], told_s=told["duration_s"])


def _level(site: Site, level: int) -> dict[str, Any]:
    say(f"dump, compression level {level}")
    return _our_run(site, {"dump": {"compression_level": level}}, level)


def _require_whole(daemon: Daemon, told: dict[str, Any], *, verify: bool) -> None:
    if told["outcome"] != "published":
        raise CommandFailed(f"the backup was {told['outcome']}, not published")
    if verify:
        client(daemon, "inspect", told["name"], "--verify")


def _understood(site: Site, settings: dict[str, Any]) -> bool:
    """Return whether the daemon knows these settings; raise what else keeps it from starting."""
    try:
        with site.daemon(**settings):
            return True
    except CommandFailed as error:
        if "there is no such setting" not in str(error):
            raise
        return False
