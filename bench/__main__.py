"""Measure what was asked for, keep the figures, write the report: `python -m bench --help`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from bench import daemon, dump, growth, listing, machine, plot, report, restoring, results
from bench.parameters import NOTES, WORK, Parameters, parse
from bench.site import Site, say, site
from tests.harness import images
from tests.harness.engine import Engine, EngineUnavailable, docker, work_dir
from tests.harness.process import CommandFailed, DeadlinePassed, exclusive

FAILURES = (CommandFailed, DeadlinePassed, subprocess.TimeoutExpired)
"""What ends one part; the others are measured all the same."""

MEASURES: dict[str, Callable[[Site], Any]] = {
    "list": listing.measure,
    "dump": dump.measure,
    "restore": restoring.measure,
    "growth": growth.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench and return its exit status."""
    parameters = parse(arguments)
    failures: list[str] = []
    try:
        if not parameters.report_only:
            with exclusive(work_dir() / "bench.lock"):
                failures = _measure(parameters)
        _report(parameters)
    except (*FAILURES, EngineUnavailable, ValueError) as error:
        failures.append(str(error))
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _measure(parameters: Parameters) -> list[str]:
    """Measure the chosen parts and keep their figures; return what failed, part by part."""
    engine = docker()
    # The peers and we find the engine by this alone, so that all talk to the same one.
    os.environ.update(engine.env)
    images.postgres(engine, parameters.major)
    images.backend(engine)
    for part in parameters.only:
        results.forget(part)
    failures: list[str] = []
    run = datetime.now(UTC).isoformat(timespec="seconds")
    described = machine.describe()
    with ExitStack() as running:
        idle = _idle(running, engine, parameters)
        here = running.enter_context(site(engine, parameters))
        versions = machine.versions(here)

        def keep(part: str, measure: Callable[[Site], Any]) -> None:
            say(f"part: {part}")
            try:
                figures = measure(here)
            except FAILURES as error:
                say(f"failed: {part}")
                failures.append(f"{part}: {error}")
            else:
                results.keep(part, results.Kept(run, parameters.recorded(), described, versions, figures))

        def daemon_part(here: Site) -> dict[str, Any]:
            work = daemon.at_work(here)
            running.close()  # fills in the idle daemon's figures
            return {"idle": idle, "work": work}

        for part in (part for part in MEASURES if part in parameters.only):
            keep(part, MEASURES[part])
        if idle is not None:
            keep("daemon", daemon_part)
    return failures


def _idle(running: ExitStack, engine: Engine, parameters: Parameters) -> dict[str, Any] | None:
    """Start to watch an idle daemon beside everything else."""
    if "daemon" not in parameters.only:
        return None
    say("starting the daemon that is watched while it is idle")
    return running.enter_context(
        daemon.idle(engine, parameters.idle, parameters.major, alone=parameters.idle_alone)
    )


def _report(parameters: Parameters) -> None:
    parts = results.kept()
    drawn = None
    if "growth" in parts:
        drawn = parameters.plot
        plot.draw(drawn, parts["growth"].figures)
    report.write(parameters.results, drawn, parts, NOTES)
    say(f"wrote {parameters.results}; the raw figures are in {WORK}")


if __name__ == "__main__":
    sys.exit(main())
