"""Run targets under the fuzzer: ``python -m tests.fuzz [--seconds N] [--keep] [TARGET…]``; see CONTRIBUTING.md."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import click

from tests.fuzz import targets
from tests.fuzz.campaign import Result, keep_new, processors, run


@click.command()
@click.option("--seconds", default=1800, show_default=True, help="How long each target runs.")
@click.option("--keep", is_flag=True, help="Add what widened the coverage to the corpus of the repository.")
@click.argument("names", metavar="[TARGET]…", nargs=-1, type=click.Choice(targets.NAMES))
def main(seconds: int, keep: bool, names: tuple[str, ...]) -> None:
    """Fuzz all targets, or those that are named, as many at a time as there are processors."""
    chosen = names or targets.NAMES
    click.echo(f"Fuzzing {', '.join(chosen)}, {seconds} s each; what they say is in .fuzz/TARGET.log.")
    with ThreadPoolExecutor(processors()) as pool:
        results = list(pool.map(lambda name: _told(run(name, seconds)), chosen))
    if keep:
        for name in chosen:
            click.echo(f"{name}: {keep_new(name)} inputs added to {targets.corpus(name)}")
    sys.exit(any(result.finding for result in results))


def _told(result: Result) -> Result:
    click.echo(str(result))
    return result


if __name__ == "__main__":
    main()
