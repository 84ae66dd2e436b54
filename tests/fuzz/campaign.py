"""A run of the fuzzer: its process, what it printed, and what of its corpus is worth keeping."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import targets

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".fuzz"
"""Logs, findings and the corpus that grows from run to run; not in the repository."""
MEMORY_MIB = 1024
LONGEST_INPUT = 4096
_COVERAGE = re.compile(r"#\d+\s+(INITED|\w+)\s+cov: (\d+) ft: (\d+)")
_DONE = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_FINDING = re.compile(r"Test unit written to (\S+-(?:crash|timeout|oom|leak)-\S+)")


@dataclass(frozen=True)
class Result:
    """How a run ended. Coverage is the fuzzer's count of places reached, at first by the corpus alone."""

    name: str
    executions: int
    coverage_before: int
    coverage: int
    features_before: int
    features: int
    finding: str | None

    def __str__(self) -> str:
        end = f"FOUND {self.finding}" if self.finding else "no finding"
        return (
            f"{self.name:15} {self.executions:>12,} executions, coverage {self.coverage_before} → {self.coverage},"
            f" features {self.features_before} → {self.features}, {end}"
        )


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def run(name: str, seconds: int) -> Result:
    """Fuzz a target for so long, or until it finds something."""
    corpus, findings, log = WORK / "corpus" / name, WORK / "findings", WORK / f"{name}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    options = (
        f"-max_total_time={seconds}",
        "-timeout=300",  # on the wall: a busy machine is no finding, and the engine watches the processor
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={LONGEST_INPUT}",
        "-len_control=20",
        "-entropic_scale_per_exec_time=1",
        "-print_final_stats=1",
        f"-dict={targets.words(name)}",
        f"-artifact_prefix={findings}/{name}-",
        str(corpus),
        str(targets.corpus(name)),
    )
    with log.open("wb") as output:
        ended = subprocess.run(_engine(name, *options), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    return result(name, log.read_text(errors="replace"), ended.returncode)


def result(name: str, log: str, status: int) -> Result:
    """What the fuzzer's output and exit status say."""
    seen = _COVERAGE.findall(log)
    first = next((line for line in seen if line[0] == "INITED"), ("", "0", "0"))
    last = seen[-1] if seen else first
    done, found = _DONE.search(log), _FINDING.search(log)
    finding = found[1] if found else f"the fuzzer ended with status {status}, see its log" if status else None
    return Result(
        name, int(done[1]) if done else 0, int(first[1]), int(last[1]), int(first[2]), int(last[2]), finding
    )


def keep_new(name: str) -> int:
    """Add those inputs to the repository's corpus that reach what no input there does; return how many."""
    before = set(targets.corpus(name).iterdir())
    merged = _engine(
        name, "-merge=1", f"-max_len={LONGEST_INPUT}", str(targets.corpus(name)), str(WORK / "corpus" / name)
    )
    with (WORK / f"{name}-merge.log").open("wb") as output:
        subprocess.run(merged, cwd=ROOT, check=True, stdout=output, stderr=subprocess.STDOUT)
    return len(set(targets.corpus(name).iterdir()) - before)


def _engine(name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.engine", name, *options]
