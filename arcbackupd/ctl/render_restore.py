"""Restores and rollbacks as text for people: the plan, how it ended, what is kept. Pure; all texts are cleaned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from arcbackupd.ctl.render import COLORS, Fact, Row, Screen, facts
from arcbackupd.ctl.words import clean, duration, moment, paragraph, plural, since

RESTORES = ("restore", "rollback")
"""Kinds of operations that are followed, and reported on, as restores."""
DONE = ("restored", "rolled-back")
"""Outcomes that were wanted."""


def standing(plan: Row, *, force: bool) -> list[Row]:
    """The refusals of a plan that ``force`` leaves."""
    return [refusal for refusal in plan["refusals"] if not (force and refusal["forced"])]


def plan(plan: Row, screen: Screen, *, force: bool = False) -> str:
    """What a restore or a rollback is about to do; refusals that stand are the error after it, and not in it."""
    parts = [
        paragraph(_what(plan), screen.width),
        _facts(plan, screen),
        _migrations(plan, screen),
        *_warnings(plan, screen),
    ]
    overridden = [refusal for refusal in plan["refusals"] if force and refusal["forced"]]
    parts += [_warning(f"{refusal['message']} --force overrides this.", screen) for refusal in overridden]
    return "\n\n".join(part for part in parts if part)


def dry_run(plan_: Row, screen: Screen, *, force: bool = False) -> str:
    """The plan with every step and its commands, and what refuses it."""
    parts = [plan(plan_, screen, force=force), _steps(plan_["steps"])]
    parts += [_refusal(refusal, screen) for refusal in standing(plan_, force=force)]
    return "\n\n".join([*parts, "Nothing was touched."])


def _what(plan: Row) -> str:
    database = clean(plan["database"])
    if plan["kind"] == "rollback":
        return f"Roll back: the database {database} becomes again what the last restore replaced."
    return f"Restore {clean(plan['name'])}, in place of all that is in the database {database}."


def _facts(plan: Row, screen: Screen) -> str:
    rollback, taken = plan["kind"] == "rollback", plan["taken_at"]
    known: list[Fact] = [
        ("As of" if rollback else "Taken", f"{moment(taken)} UTC ({since(taken, screen.now)})"),
        ("Snapshot", plan["name"] if rollback else None),
        ("Status", *_status(plan)),
        ("In place", "without a second copy beside the database" if plan["in_place"] else None),
        ("Services", _stopping(plan)),
    ]
    return facts(known, screen)


def _status(plan: Row) -> tuple[str | None, str | None]:
    status = plan["status"]
    return (status.replace("-", " "), COLORS.get(status)) if status else (None, None)


def _stopping(plan: Row) -> str:
    lasts = "for as long as the loading takes" if plan["in_place"] else "for a short while"
    return f"those that use the database stop {lasts}, and are started again"


def _migrations(plan: Row, screen: Screen) -> str:
    names = plan["migrations"]
    if not names:
        return ""
    title = f"The backend will apply {plural(len(names), 'migration')} by itself to what comes back:"
    return "\n".join([paragraph(title, screen.width), *(f"  + {clean(name)}" for name in names)])


def _warnings(plan: Row, screen: Screen) -> Iterator[str]:
    return (_warning(text, screen) for text in plan["warnings"])


def _warning(text: str, screen: Screen) -> str:
    return screen.paint(paragraph(f"warning: {text}", screen.width), "yellow")


def _refusal(refusal: Row, screen: Screen) -> str:
    message = screen.paint(paragraph(f"refused: {refusal['message']}", screen.width), "red")
    hint = refusal_hint(refusal)
    return f"{message}\n{paragraph(f'hint: {hint}', screen.width, '  ')}" if hint else message


def refusal_hint(refusal: Row) -> str:
    """What to do about a refusal; of one that ``--force`` overrides, also that."""
    hint = str(refusal["hint"])
    return f"{hint} --force overrides this.".strip() if refusal["forced"] and "--force" not in hint else hint


def _steps(steps: Sequence[Row]) -> str:
    lines = ["What would be done:"]
    for number, step in enumerate(steps, 1):
        lines.append(f"{number:>3}. {clean(step['text'])}")
        # Not wrapped: commands are there to be copied.
        lines += [f"     $ {clean(command)}" for command in step["commands"]]
    return "\n".join(lines)


def report(report: Row, screen: Screen) -> str:
    """How it ended, and the ways from here."""
    good = report["outcome"] in DONE and not report["problem"]
    lines = [screen.paint(paragraph(_outcome(report), screen.width), "green" if good else "red")]
    if report["downtime_s"] is not None:
        lines.append(f"Services were down for {duration(report['downtime_s'])}.")
    if report["outcome"] in DONE:
        lines += [paragraph(line, screen.width) for line in _replaced(report)]
    return "\n".join([*lines, *trouble(report, screen)])


def _outcome(report: Row) -> str:
    name, database = clean(report["name"] or "it"), clean(report["database"])
    match report["outcome"]:
        case "restored":
            return f"Restored {name} into {database}."
        case "rolled-back":
            return f"Rolled back: {database} is again what was replaced before."
        case "undone":
            return f"Not {_done_to(report)}: {database} is what it was before."
        case "unfinished":
            return f"UNFINISHED: {database} is neither {_done_to(report)} nor what it was before, yet."
        case outcome:
            return clean(f"{outcome}: {name}")


def _done_to(report: Row) -> str:
    return "rolled back" if report["kind"] == "rollback" else "restored"


def _replaced(report: Row) -> Iterator[str]:
    if report["snapshot"]:
        yield f"What was there before is in the backup {clean(report['snapshot'])}."
    if report["replaced"]:
        until = report["keep_until"]
        ends = f"until {moment(until)} UTC" if until else "until you say: arcbackupctl discard-replaced"
        yield f"To bring it back: arcbackupctl rollback. It is kept {ends}."


def trouble(report: Row, screen: Screen) -> Iterator[str]:
    """What went wrong all the same, and what to do."""
    if report["problem"]:
        yield screen.paint(paragraph(f"problem: {report['problem']}", screen.width), "red")
    if report["problem"] and report["hint"]:
        yield paragraph(f"hint: {report['hint']}", screen.width, "  ")


def last_problem(report: Row | None, screen: Screen) -> str:
    """The last restore or rollback, in ``status``: only when there is something to say about it."""
    if report is None or (report["outcome"] in DONE and not report["problem"]):
        return ""
    text = f"The last {report['kind']}, {since(report['finished_at'], screen.now)}: {_outcome(report)}"
    return "\n".join([screen.paint(paragraph(text, screen.width), "red"), *trouble(report, screen)])


def kept(replaced: Sequence[Row], screen: Screen) -> str:
    """Replaced databases that are kept: until when, and what else holds the same."""
    return "\n".join(line for row in replaced for line in _kept(row, screen))


def _kept(row: Row, screen: Screen) -> Iterator[str]:
    until = f"until {moment(row['keep_until'])} UTC" if row["keep_until"] else "until it is discarded by hand"
    replaced = f"replaced {since(row['replaced_at'], screen.now)}"
    yield paragraph(f"Kept for arcbackupctl rollback: {row['database']}, {replaced}, {until}.", screen.width)
    if row["snapshot"]:
        yield paragraph(f"The backup {row['snapshot']} holds the same.", screen.width, "  ")
    else:
        yield screen.paint("  No backup holds the same.", "yellow")
    if row["problem"]:
        yield paragraph(f"problem: {row['problem']}", screen.width, "  ")


def discarded(names: Sequence[str]) -> str:
    """``discard-replaced``: what went."""
    if not names:
        return "No replaced database is kept: there is nothing to discard."
    return "\n".join(f"Discarded {clean(name)}." for name in names)
