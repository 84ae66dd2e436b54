"""Make the pictures of the README from real runs: the client on a terminal, and the report in a browser.

    python scripts/pictures.py [DIRECTORY]      docs/pictures, unless told otherwise

Needs what the demo needs, pyte for the terminal, and chromium for the report, whose picture stays as it is without.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from arcbackupd.demo.story import Observatory

COLUMNS, LINES = 110, 40
COLORS = {"brown": "yellow", "default": None}
"""Where a terminal emulator calls a colour something else than who draws it."""


class Terminal:
    """A command on a terminal, as it looks at any moment."""

    def __init__(self, command: str, environment: dict[str, str]) -> None:
        self.command = command
        self._environment = environment
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)

    def run(self, until: Callable[[list[str]], bool] | None = None) -> Text:
        """Run it to its end; return how it looked then, or at the last moment at which ``until`` held."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(ours, (LINES, COLUMNS))
        argv = [sys.executable, "-m", "arcbackupd.ctl.main", *self.command.split()[1:]]
        process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=self._environment)
        os.close(theirs)
        kept: Text | None = None
        with contextlib.suppress(OSError):  # EIO: it has ended
            while data := os.read(ours, 65536):
                self._stream.feed(data)
                if until and until(list(self.screen.display)):
                    kept = self.look()
        os.close(ours)
        if process.wait() not in (0, 1):
            raise SystemExit(f"{self.command} ended with {process.returncode}:\n{self.look()}")
        return kept or self.look()

    def look(self) -> Text:
        """The screen, without the empty lines at its end."""
        lines = [self._line(number) for number in range(LINES)]
        while lines and not lines[-1].plain.strip():
            lines.pop()
        return Text("\n").join(lines)

    def _line(self, number: int) -> Text:
        cells = [self.screen.buffer[number][column] for column in range(COLUMNS)]
        line = Text()
        for (color, bold), run in groupby(cells, key=lambda cell: (_color(cell.fg), cell.bold)):
            line.append("".join(cell.data for cell in run), Style(color=color, bold=bold))
        line.rstrip()
        return line


def _color(name: str) -> str | None:
    """A colour as rich calls it, given pyte's name for it or its hexadecimal digits."""
    known = COLORS.get(name, name)
    return known if known is None or known.isalpha() else f"#{known}"


def draw(picture: Text, command: str, target: Path) -> None:
    """Write a terminal that shows the command and what it printed, as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {command}", style="bold"))
    console.print(picture)
    target.write_text(console.export_svg(title="arcbackupd", unique_id=target.stem), encoding="utf-8")


@contextlib.contextmanager
def observatory() -> Iterator[tuple[Observatory, dict[str, str]]]:
    """An observatory that has some backups, its daemon at work."""
    home = Path(tempfile.mkdtemp(prefix="arcbackupd-demo-", dir="/tmp"))  # a socket's path must be short
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        place = Observatory(home)
        stack.callback(place.close)
        place.build()
        place.start_daemon()
        place.start_backend()
        place.wait_for_boot_dump()
        place.ctl("backup")
        place.observe()
        place.ctl("backup")
        place.upgrade()
        place.ctl("verify", place.newest())
        yield place, {**os.environ, "ARCBACKUPD_SOCKET": str(home / "control.sock"), "TERM": "xterm-256color"}


def photograph(page: Path, target: Path) -> None:
    """What a browser makes of a page."""
    browser = shutil.which("chromium")
    if browser is None:
        print("There is no chromium: the picture of the report stays as it is.", file=sys.stderr)
        return
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1500"]
    command = [browser, *options, f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)


def main() -> None:
    """Make them all."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    target.mkdir(parents=True, exist_ok=True)
    with observatory() as (place, environment):
        for name, command in (("list", "arcbackupctl list"), ("inspect", "arcbackupctl inspect latest")):
            draw(Terminal(command, environment).run(), command, target / f"{name}.svg")
        backup = place.newest()
        place.lose_tables()
        command = f"arcbackupctl restore {backup} --yes"
        at_work = Terminal(command, environment).run(until=lambda lines: any(" left" in line for line in lines))
        draw(at_work, command, target / "restore.svg")
        draw(Terminal("arcbackupctl status", environment).run(), "arcbackupctl status", target / "status.svg")
        with tempfile.TemporaryDirectory() as scratch:
            page = Path(scratch) / "report.html"
            Terminal(f"arcbackupctl report --output {page}", environment).run()
            photograph(page, target / "report.png")


if __name__ == "__main__":
    main()
