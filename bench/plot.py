"""The picture of growth. The only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SALT = "arcbackupd"
"""So that the same figures give the same file."""


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw time and peak memory over the bytes of SQL."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.hashsalt": SALT, "svg.fonttype": "none"}):
        figure, (time, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        sizes = [row["length"] / 1e6 for row in rows]
        for name in ("restore", "dump", "downtime"):
            time.plot(sizes, [row[name] for row in rows], marker="o", label=name)
        time.set(xscale="log", yscale="log", xlabel="SQL, MB", ylabel="seconds", title="Time")
        for name in ("restore", "dump"):
            memory.plot(sizes, [row[f"{name}_peak"] / 2**20 for row in rows], marker="o", label=name)
        memory.axhline(120, linestyle="--", color="grey", label="limit")
        memory.set(xscale="log", ylim=(0, None), xlabel="SQL, MB", ylabel="MiB", title="Peak memory of the daemon")
        for axes in (time, memory):
            axes.grid(visible=True, which="major", alpha=0.3)
            axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
