"""A page whose commands run: its console blocks, one after another, and what they show compared with what they say.

    ```console
    # arcbackupctl backup
    …
    Published backup-20260101-120000.sql.gz, …
    ```

Every such block is run, as root (``#``). What it shows has to match line by line. A line of ``…`` stands for any
lines, ``…`` within one for any text; times, sizes and durations may be others. A backup's name stands for another
one, the same from then on, in commands too. What follows "To go on, type …: " is typed.

``<!-- test: NAME -->`` stands for what the reader does by other means than the test: it calls that action.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

_BLOCK = re.compile(r"^```console\n(.*?)^```$|^<!-- test: (.+?) -->$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(To go on, type .+: )(.+)$", re.MULTILINE)
_NAME = re.compile(r"(?:backup|pre-restore)-\d{8}-\d{6}\.sql\.gz")
_VALUES = (
    r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?",
    r"\d[\d.,]* (?:bytes|B|kB|MB|GB|s|min|h)\b",
    r"just now|\d+ (?:s|min|h|d) ago",
    r"arcbackupd_replaced_\w+",
)
"""What is another one each time; the guide's need not be as long as the real one."""
_PARTS = re.compile("|".join([_NAME.pattern, *_VALUES, "…", r"\s+"]))


@dataclass(frozen=True)
class Command:
    """A command, and the lines that it should show."""

    line: str
    expected: tuple[str, ...]

    @property
    def prompts(self) -> list[tuple[str, str]]:
        """What is asked, and what is typed then."""
        return _PROMPT.findall("\n".join(self.expected))


@dataclass(frozen=True)
class Action:
    """Something that the test does in the reader's place."""

    name: str


def steps(page: str) -> Iterator[Command | Action]:
    """All commands and actions of a page, in their order."""
    for block, action in _BLOCK.findall(page):
        if action:
            yield Action(action)
            continue
        for part in re.split(r"^# (?=\S)", block, flags=re.MULTILINE)[1:]:
            line, *expected = part.rstrip("\n").split("\n")
            yield Command(line, tuple(expected))


@dataclass
class Console:
    """Runs commands. ``places``: what is called otherwise here than in the page, the longest first."""

    environment: Mapping[str, str]
    actions: Mapping[str, Callable[[], None]]
    places: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def follow(self, step: Command | Action) -> None:
        """Do a step. Raise AssertionError when it shows something else than it says."""
        if isinstance(step, Action):
            self.actions[step.name]()
            return
        shown = self._run(self._here(step.line), [(asked, self._here(typed)) for asked, typed in step.prompts])
        self._compare(step, shown)

    def _here(self, text: str) -> str:
        for said, real in {**self.places, **self.names}.items():
            text = text.replace(said, real)
        unknown = [name for name in _NAME.findall(text) if name not in self.names.values()]
        assert not unknown, f"the page hasn't shown {unknown} before"
        return text

    def _run(self, line: str, prompts: list[tuple[str, str]]) -> str:
        if prompts:
            return _at_a_terminal(line, prompts, self.environment)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return done.stdout

    def _compare(self, step: Command, shown: str) -> None:
        for said, real in self.places.items():
            shown = shown.replace(real, said)
        lines = [line.rstrip() for line in shown.splitlines() if line.strip()]
        expected = [line for line in step.expected if line.strip()]
        found = _match(expected, lines, self.names)
        assert found is not None, f"# {step.line}\nshould show\n\n{_text(expected)}\n\nand shows\n\n{_text(lines)}"
        self.names |= found


def _text(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) or "    nothing"


def _match(expected: list[str], lines: list[str], names: dict[str, str]) -> dict[str, str] | None:
    """The names after both have been compared, or nothing when they differ."""
    if not expected:
        return None if lines else names
    if expected[0].strip() == "…":
        ends = (_match(expected[1:], lines[skipped:], names) for skipped in range(len(lines) + 1))
        return next((end for end in ends if end is not None), None)
    known = _line(expected[0], lines[0], names) if lines else None
    return None if known is None else _match(expected[1:], lines[1:], known)


def _line(expected: str, line: str, names: dict[str, str]) -> dict[str, str] | None:
    order: list[str] = []
    pattern, position = "", 0
    for found in _PARTS.finditer(expected):
        pattern += re.escape(expected[position : found.start()]) + _standing_for(found[0], names, order)
        position = found.end()
    match = re.fullmatch(pattern + re.escape(expected[position:]), line)
    if match is None:
        return None
    return {**names, **dict(zip(order, match.groups(), strict=True))}


def _standing_for(text: str, names: dict[str, str], order: list[str]) -> str:
    """The pattern for a part of a line. A name that is new is a group, and noted in ``order``."""
    if text == "…":
        return ".*"
    if not text.strip():
        return r"\s+"
    if _NAME.fullmatch(text):
        if text in names:
            return re.escape(names[text])
        order.append(text)
        return f"({_NAME.pattern})"
    return next(f"(?:{value})" for value in _VALUES if re.fullmatch(value, text))


def _at_a_terminal(line: str, prompts: list[tuple[str, str]], environment: Mapping[str, str]) -> str:
    """Run a line where somebody types; return all that the terminal shows."""
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    with subprocess.Popen(
        ["bash", "-c", line], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            shown = _typed(ours, prompts, time.monotonic() + 120)
        finally:
            process.kill()
            os.close(ours)
    return shown


def _typed(terminal: int, prompts: list[tuple[str, str]], deadline: float) -> str:
    shown, left = "", list(prompts)
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # all have closed it
            block = b""
        if not block:
            return shown
        shown += block.decode()
        if left and left[0][0] in shown:
            os.write(terminal, f"{left.pop(0)[1]}\n".encode())
    raise AssertionError(f"it didn't come to an end:\n{shown}")
