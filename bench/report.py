"""RESULTS.md out of the figures. Pure, but for `write`.

Text about what wasn't reached can stand in NOTES.md beside it: what follows a heading `## KEY`, KEY being that of a
target, is put into the section of that target.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Run, Spread, ratios, show_size, spread
from bench.results import Kept, differences
from bench.targets import Verdict, runs, verdicts

_HEAD = """\
# Results

Written by `make bench`. Figures are medians, with the least and the greatest of the runs; ratios are medians of the
ratios of the same round. What stands alone was measured once."""

_ABOUT_DUMPS = """\
The daemon runs already; what is timed is `arcbackupctl backup` from its start to its end, with everything that
makes a backup: proof, manifest, fsync. None of the others syncs its file. Before each, a checkpoint and a sync;
once before all, unmeasured, pg_dump to nowhere and a backup."""

_ABOUT_CPU = """\
CPU outside the database is what the whole machine spent, less what the database's container did (server, pg_dump).
By who spent it, in seconds (commands: the client or the pipeline, with what they waited for; engine: dockerd,
containerd and shims; arcbackupd: the daemon and its children):"""

_ABOUT_RESTORES = """\
Start to end is, for the pipe and pg_restore: stop the backend, drop, create, load, start, wait until it is healthy
(it is asked each second); the services are down all that time. Without services is drop, create and load alone:
the targets are held against that of the pipe. Ours is one figure, from the client's start to its end; arcbackupd
loads beside the live database, and the downtime is what it reports: from the first service stopped until all are
healthy. pg_restore reads a dump in PostgreSQL's custom format, inside the container. Where Arcsecond's client would
start the services by Compose, they are started for it."""

CPU = ("cpu_commands", "cpu_engine", "cpu_daemon", "cpu_outside", "cpu_database")


def write(path: Path, plot: Path | None, parts: Mapping[str, Kept], notes: Path) -> None:
    """Write the report."""
    text = notes.read_text(encoding="utf-8") if notes.exists() else ""
    path.write_text(render(parts, notes_by_key(text), plot.name if plot else None), encoding="utf-8")


def notes_by_key(text: str) -> dict[str, str]:
    """Return the notes' texts by the keys of their headings."""
    pieces = re.split(r"^## +(\S+) *$", text, flags=re.MULTILINE)
    return {key: body.strip() for key, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def render(parts: Mapping[str, Kept], notes: Mapping[str, str], plot: str | None = None) -> str:
    """Return the report of what there is. Raise ValueError when there is nothing."""
    if not parts:
        raise ValueError("nothing was measured yet")
    figures = {part: kept.figures for part, kept in parts.items()}
    held = verdicts(figures)
    blocks = [
        _HEAD,
        *differences(parts),
        _origin(parts),
        _to_reach(held),
        _not_reached(held, figures, notes),
    ]
    sections = {"dump": _dump, "list": _list, "restore": _restore, "daemon": _daemon}
    blocks += [section(figures[part]) for part, section in sections.items() if part in figures]
    if "growth" in figures:
        blocks.append(_growth(figures["growth"], plot))
    return "\n\n".join(blocks) + "\n"


# Tables


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; what isn't in its first column stands on the right."""
    line = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, line, *rows))


def _origin(parts: Mapping[str, Kept]) -> str:
    newest = max(parts.values(), key=lambda kept: kept.run)
    facts = {**newest.machine, **newest.versions}
    given = ", ".join(f"{key} {value}" for key, value in newest.parameters.items())
    lines = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    return f"## Where\n\n{lines}\n- parameters: {given}"


def _to_reach(held: Sequence[Verdict]) -> str:
    words = {True: "yes", False: "**no**", None: "—"}
    rows = []
    for verdict in held:
        target = verdict.target
        bound = f"{'at least' if target.at_least else 'at most'} {target.limit:g}{target.unit}"
        rows.append([target.text, bound, verdict.shown, words[verdict.good]])
    return "## To reach\n\n" + table(["what", "target", "measured", "reached"], rows)


def _not_reached(held: Sequence[Verdict], figures: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    missed = [verdict for verdict in held if verdict.good is False]
    if not missed:
        return "## What was not reached\n\nAll that was measured was reached."
    blocks = ["## What was not reached"]
    for part in dict.fromkeys(verdict.target.part for verdict in missed):
        for verdict in missed:
            if verdict.target.part == part:
                blocks.append(f"### {verdict.target.text}: {verdict.shown}")
                blocks += [notes[verdict.target.key]] if verdict.target.key in notes else []
        if profile := _profile(part, figures):
            blocks.append(profile)
    return "\n\n".join(blocks)


def _profile(part: str, figures: Mapping[str, Any]) -> str:
    """Return where CPU and wall time went, for a part in which that was measured."""
    if part == "list":
        return _cold_table(figures["list"])
    if part not in ("dump", "restore"):
        return ""
    text = "CPU by who spent it, in seconds:\n\n" + _cpu_table(figures[part])
    if part == "dump":
        text += "\n\n" + _dump_path(figures["dump"])
    elif steps := [run["steps"] for run in runs(figures["restore"], "ours")]:
        text += "\n\nThe daemon's own words on the last one:\n\n```\n" + "\n".join(steps[-1]) + "\n```"
    return text


def _dump_path(part: Any) -> str:
    """Return how the wall time grows along the way of a dump."""
    ways = [key for key in ("limit", "ours", "engine", "stream", "pigz", "pipe") if _ran(part, key)]
    told = "; ".join(f"{part['methods'][key]['label']} {spread(runs(part, key), 'wall').text(1)} s" for key in ways)
    return f"Wall time along the way: {told}."


def _cpu_table(part: Any) -> str:
    heads = ["", "commands", "engine", "arcbackupd", "all outside the database", "in its container"]
    rows = [
        [method["label"], *(spread(method["runs"], name).text(1) for name in CPU)]
        for method in part["methods"].values()
        if method["runs"]
    ]
    return table(heads, rows)


def _ran(part: Any, key: str) -> bool:
    return bool(part["methods"].get(key, {}).get("runs"))


def _ratio(above: Sequence[Run], below: Sequence[Run], figure: str) -> str:
    try:
        return ratios(above, below, figure).text()
    except ValueError:
        return "—"


# Parts


def _dump(part: Any) -> str:
    pipe, limit = runs(part, "pipe"), runs(part, "limit")
    rows = []
    for method in part["methods"].values():
        if taken := method["runs"]:
            size = spread(taken, "size").median
            rows.append(
                [
                    method["label"],
                    spread(taken, "wall").text(),
                    _ratio(pipe, taken, "wall"),
                    _ratio(taken, limit, "wall"),
                    spread(taken, "cpu_outside").text(),
                    _ratio(taken, pipe, "cpu_outside"),
                    show_size(size) if size else "—",
                    f"{part['length'] / size:.2f}" if size else "—",
                ]
            )
    heads = ["", "wall, s", "times faster than the pipe", "times the limit", "CPU outside the database, s"]
    heads += ["part of the pipe's", "file", "ratio"]
    blocks = [
        f"## Dump of {show_size(part['length'])} of SQL",
        _ABOUT_DUMPS,
        table(heads, rows),
        _ABOUT_CPU,
        _cpu_table(part),
        *_left_out(part),
    ]
    if part.get("levels"):
        blocks += ["### Levels of compression (`dump.compression_level`), once each", _levels(part)]
    return "\n\n".join(blocks)


def _levels(part: Any) -> str:
    rows = [
        [
            str(run["round"]),
            f"{run['wall']:.2f}",
            f"{run['cpu_outside']:.2f}",
            f"{run['cpu_daemon']:.2f}",
            show_size(run["size"]),
            f"{part['length'] / run['size']:.2f}",
        ]
        for run in part["levels"]
    ]
    return table(["level", "wall, s", "CPU outside the database, s", "CPU of arcbackupd, s", "file", "ratio"], rows)


def _left_out(part: Any) -> list[str]:
    return [f"Not measured: {key}: {why}." for key, why in part["skipped"].items()]


def _list(part: Any) -> str:
    names = {
        "warm": "`arcbackupctl list`, warm daemon",
        "warm_json": "`arcbackupctl list --json`, warm daemon",
        "first_byte": "`arcbackupctl list --json`, to its first byte",
        "python": "for comparison: `python3 -c pass`",
        "docker_version": "for comparison: `docker version`",
        "docker_ps": "for comparison: `docker ps`",
    }
    rows = [[text, Spread.of(part[key]).text(0, 1000)] for key, text in names.items()]
    fewer = "" if part["dumps"] == part["wanted"] else f" ({part['wanted']} were wanted: there is no room for them)"
    blocks = [
        f"## List of {part['dumps']} dumps of {show_size(part['size'])}{fewer}",
        "Each is a file of its own, a real copy with a manifest of its own, an hour older than the one before.",
        table(["whole processes", "ms"], rows),
        _cold_table(part),
    ]
    peer = part["arcsecond"]
    if "skipped" in peer:
        return "\n\n".join([*blocks, f"Not measured: Arcsecond's client: {peer['skipped']}."])
    scaled = "" if peer["listed"] == part["dumps"] else f", so {peer['all']:.0f} s for {part['dumps']} (reckoned)"
    blocks.append(
        f"Arcsecond's client {peer['version']} took {peer['took']:.1f} s for {peer['listed']} of them,"
        f" {peer['each']:.2f} s for each{scaled}: {_list_times(part)} times as long as `arcbackupctl list`. It"
        f" decompresses a dump up to the table django_migrations;"
        f" {100 * part['share_before_migrations']:.0f} % of the SQL come before that here."
    )
    return "\n\n".join(blocks)


def _list_times(part: Any) -> str:
    return Spread.of([part["arcsecond"]["all"] / took for took in part["warm"]]).text(0)


def _cold_table(part: Any) -> str:
    rows = []
    for key, text in (("cold", "restarted"), ("dropped", "restarted, page cache dropped")):
        if part.get(key):
            figures = (Spread.of([run[name] for run in part[key]]).text() for name in ("ready", "list", "total"))
            rows.append([text, *figures])
    return table(["daemon", "until it is ready, s", "first `arcbackupctl list`, s", "in all, s"], rows)


def _restore(part: Any) -> str:
    pipe = runs(part, "pipe")
    rows = []
    for method in part["methods"].values():
        if taken := method["runs"]:
            faster = ratios(pipe, taken, "wall").text()
            down = ratios(taken, pipe, "downtime", "wall").text()
            figures = (spread(taken, name).text() for name in ("wall", "load"))
            rows.append([method["label"], *figures, faster, spread(taken, "downtime").text(), down])
    heads = ["", "start to end, s", "without services, s", "times faster than the pipe, start to end"]
    heads += ["downtime, s", "part of the pipe's"]
    return "\n\n".join(
        [
            f"## Restore of {show_size(part['length'])} of SQL",
            _ABOUT_RESTORES,
            table(heads, rows),
            "CPU by who spent it, in seconds:",
            _cpu_table(part),
            *_left_out(part),
        ]
    )


def _daemon(part: Any) -> str:
    idle, work = part["idle"], part["work"]
    first, last = idle["first"], idle["last"]
    mib = 2**20
    rows = [
        ["idle, resident at first", f"{first['rss'] / mib:.1f} MiB"],
        [f"idle, resident after {idle['seconds']:.0f} s", f"{last['rss'] / mib:.1f} MiB"],
        ["the same, its share of shared pages only (PSS)", f"{last['pss'] / mib:.1f} MiB"],
        ["the same, with its children", f"{last['pss_tree'] / mib:.1f} MiB"],
        ["idle, CPU with its children", f"{idle['cpu']:.2f} s, {100 * idle['share']:.3f} %"],
        [
            "the same, without its children",
            f"{idle['cpu_own']:.2f} s, {100 * idle['cpu_own'] / idle['seconds']:.3f} %",
        ],
        *_peaks("a dump", work["dump"]),
        *_peaks("a restore, with its safety backup", work["restore"]),
    ]
    text = (
        f"## The daemon\n\nIdle it was watched {'alone' if idle['alone'] else 'beside the other measurements'},"
        f" on a small stack of its own; at work with {show_size(work['length'])} of SQL.\n\n"
    )
    return text + table(["", ""], rows)


def _peaks(what: str, found: Mapping[str, int]) -> list[list[str]]:
    return [
        [f"peak resident during {what}", f"{found['peak'] / 2**20:.1f} MiB"],
        ["highest PSS seen meanwhile, with its children", f"{found['peak_tree'] / 2**20:.1f} MiB"],
    ]


def _growth(part: Any, plot: str | None) -> str:
    rows = [
        [
            show_size(row["length"]),
            show_size(row["size"]),
            *(f"{row[name]:.1f}" for name in ("dump", "restore", "downtime")),
            *(f"{row[name] / 2**20:.0f}" for name in ("dump_peak", "restore_peak")),
        ]
        for row in part
    ]
    heads = ["SQL", "file", "dump, s", "restore without safety backup, s", "downtime, s"]
    heads += ["peak of the daemon, dump, MiB", "restore, MiB"]
    picture = f"\n\n![Time and memory over the size of the database]({plot})" if plot else ""
    return f"## Growth\n\nOnce at each size.\n\n{table(heads, rows)}{picture}"
