"""What `setup` asks: on a terminal, a person; without one, what the options say must be enough."""

from __future__ import annotations

import pwd
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from arcbackupd.ctl.render import Screen
from arcbackupd.ctl.words import clean
from arcbackupd.errors import Refused, UsageError
from arcbackupd.setup.installs import is_install


class Dialogue:
    """Says and asks. ``asking``: whether there is somebody who answers."""

    def __init__(self, *, yes: bool) -> None:
        self.asking = not yes and sys.stdin.isatty() and sys.stdout.isatty()
        self._yes = yes

    def say(self, text: str = "") -> None:
        """Print lines."""
        click.echo(text)

    def screen(self) -> Screen:
        """What findings are rendered for."""
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else 10_000
        return Screen(
            datetime.now(UTC), width, lambda text, color: click.style(text, fg=color) if terminal else text
        )

    def install_dir(self, found: Sequence[Path]) -> Path:
        """Which installation it is. Raise UsageError when nobody can say."""
        if len(found) == 1:
            return found[0]
        if not self.asking:
            raise _ambiguous(found)
        if found:
            self.say("Several installations were found. Which one is the observatory's?")
            return found[self._choice(list(map(str, found)))]
        self.say("No installation was found. In which directory are docker-compose.yml and .env?")
        while True:
            answer = Path(click.prompt("Directory")).expanduser().absolute()
            if is_install(answer):
                return answer
            self.say(f"{clean(answer)} has no Compose file, or no .env with SHARED_DATA_PATH.")

    def database(self, found: Sequence[str], standard: str) -> str:
        """Which container is the database's: the standard one where none was found. Raise UsageError, as above."""
        if len(found) <= 1:
            return found[0] if found else standard
        if not self.asking:
            hint = "Say --database NAME."
            raise UsageError("several-databases", f"Several containers may be it: {', '.join(found)}.", hint=hint)
        self.say("Which container is the database's?")
        return found[self._choice(found)]

    def users(self, proposed: str) -> tuple[str, ...]:
        """Who may look at backups and take one, besides root."""
        if not self.asking:
            return tuple(proposed.split())
        while True:
            question = "Who may look at backups and take one, besides root? (users; - for nobody)"
            answer = click.prompt(question, default=proposed or "-")
            users = tuple(name for name in answer.replace(",", " ").split() if name != "-")
            if not (unknown := unknown_users(users)):
                return users
            self.say(f"No such user: {', '.join(map(clean, unknown))}.")

    def confirm(self, replaced: Sequence[str], *, force: bool) -> None:
        """Have the plan confirmed. Raise Refused without a yes, or when nobody said that what is there may go."""
        if replaced and not force and not self.asking:
            hint = "--force replaces it and keeps a copy; or say what the configuration says already."
            raise Refused("would-replace", f"Nothing was done: somebody wrote {'; '.join(replaced)}.", hint=hint)
        if not self.asking:
            if not self._yes:
                hint = "Say --yes if you mean it; --dry-run shows what it would do."
                message = "Nothing was done: there is no terminal to confirm it on."
                raise Refused("confirmation-needed", message, hint=hint)
            return
        if replaced and not force:
            self.say("Somebody wrote what this replaces (a copy is kept):")
            for sentence in replaced:
                self.say(f"    {clean(sentence)}")
        if not click.confirm("Do it?", default=not replaced or force):
            raise Refused("not-confirmed", "Nothing was done.")

    def _choice(self, names: Sequence[str]) -> int:
        for number, name in enumerate(names, 1):
            self.say(f"  {number}  {clean(name)}")
        return int(click.prompt("Number", type=click.IntRange(1, len(names)))) - 1


def unknown_users(names: Sequence[str]) -> list[str]:
    """Those of them that this host doesn't have."""
    unknown = []
    for name in names:
        try:
            pwd.getpwnam(name)
        except KeyError:
            unknown.append(name)
    return unknown


def _ambiguous(found: Sequence[Path]) -> UsageError:
    if found:
        message = f"Several installations were found: {', '.join(map(str, found))}."
        return UsageError("several-installs", message, hint="Say which: --install-dir DIR.")
    hint = "Say where docker-compose.yml and .env are: --install-dir DIR."
    return UsageError("no-install", "No installation was found.", hint=hint)
