"""Make the manual pages: `python -m manpages DIRECTORY`. Needs docutils besides the package itself.

The texts are docs/man/NAME.SECTION.rst. A line ``.. generated: NAME`` in one is replaced by what the code says, so
that no page lists an option or a setting that isn't there, or leaves one out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from docutils.core import publish_string

from arcbackupd import __version__
from arcbackupd.__main__ import cli as daemon
from arcbackupd.ctl.main import cli as client
from manpages import commands, settings

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "docs" / "man"
_GENERATED = re.compile(r"^\.\. generated: (.+)$", re.MULTILINE)
_EMPTY_SPACE = re.compile(r"^(\.S[HS] .*)\n\.sp$", re.MULTILINE)
"""A heading brings its own space; formatters complain of more."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

GENERATED: Mapping[str, Callable[[], str]] = {
    "commands of arcbackupctl": lambda: commands.described(client, "arcbackupctl"),
    "commands of arcbackupd": lambda: commands.described(daemon, "arcbackupd"),
    "options of arcbackupctl": lambda: commands.options(client),
    "options of arcbackupd": lambda: commands.options(daemon),
    "settings": lambda: settings.described((ROOT / "config.example.toml").read_text(encoding="utf-8")),
    "settings of destinations": settings.of_destinations,
    "settings of alarms": settings.of_alarms,
    "jobs": settings.of_jobs,
}


def main(target: Path) -> None:
    """Write all pages into a directory."""
    target.mkdir(parents=True, exist_ok=True)
    for source in sorted(SOURCES.glob("*.[1-8].rst")):
        page = publish_string(
            whole(source.read_text(encoding="utf-8")),
            source_path=str(source),
            writer="manpage",
            settings_overrides={"halt_level": 2, "output_encoding": "unicode", "smart_quotes": False},
        )
        (target / source.stem).write_text(_tidied(str(page)), encoding="ascii")


def _tidied(page: str) -> str:
    """What docutils makes, so that no formatter has anything to say against it, whatever its encoding."""
    page = _EMPTY_SPACE.sub(r"\1", page).replace(".SH Name\n", ".SH NAME\n")
    return _NOT_ASCII.sub(lambda found: f"\\[u{ord(found[0]):04X}]", page)


def whole(text: str) -> str:
    """A page's source with version, date and all that is generated. Raise KeyError for what nobody generates."""
    text = _GENERATED.sub(lambda found: GENERATED[found[1]](), text)
    return text.replace("|version|", __version__).replace("|date|", f"{_date():%Y-%m-%d}")


def _date() -> datetime:
    """The day of the page: that of the source where a packager tells it, so that a build can be repeated."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(told), UTC) if told else datetime.now(UTC)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
