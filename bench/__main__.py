"""Measure what was asked for, keep the figures, write the report: `python -m bench --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from bench import daemon, dump, growth, listing, machine, plot, report, restoring, results
from bench.parameters import NOTES, WORK, Parameters, parse
from bench.peers import Missing
from bench.site import say, site
from tests.harness import images
from tests.harness.engine import Engine, EngineUnavailable, docker, work_dir
from tests.harness.process import CommandFailed, DeadlinePassed, exclusive

MEASURES = {"list": listing.measure, "dump": dump.measure, "restore": restoring.measure, "growth": growth.measure}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench and return its exit status."""
    parameters = parse(arguments)
    try:
        if not parameters.report_only:
            with exclusive(work_dir() / "bench.lock"):
                _measure(parameters)
        _report(parameters)
    except (CommandFailed, DeadlinePassed, EngineUnavailable, Missing, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(parameters: Parameters) -> None:
    engine = docker()
    # The peers and we find the engine by this alone, so that all talk to the same one.
    os.environ.update(engine.env)
    images.postgres(engine, parameters.major)
    images.backend(engine)
    run = datetime.now(UTC).isoformat(timespec="seconds")
    described = machine.describe()
    with ExitStack() as running:
        idle = _idle(running, engine, parameters)
        here = running.enter_context(site(engine, parameters))
        versions = machine.versions(here)

        def keep(part: str, figures: Any) -> None:
            results.keep(part, results.Kept(run, parameters.recorded(), described, versions, figures))

        for part in (part for part in MEASURES if part in parameters.only):
            keep(part, MEASURES[part](here))
        if idle is not None:
            work = daemon.at_work(here)
            running.close()  # fills in the idle daemon's figures
            keep("daemon", {"idle": idle, "work": work})


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
