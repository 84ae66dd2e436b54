"""The recovery sheet: what one needs when the host is gone, on paper. No secret is on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from arcbackupd.settings import Settings, Stream

_STREAMS = (
    ("secrets", ".env and the Compose files"),
    ("data", "the shared data"),
    ("dumps", "the dumps of the database"),
)


def recovery_sheet(settings: Settings, locations: Mapping[str, str], host: str, printed: datetime) -> str:
    """The sheet as text of 80 columns. ``locations``: where each destination is, by name, without secrets."""
    return "\n".join(_lines(settings, locations, host, printed)) + "\n"


def _lines(settings: Settings, locations: Mapping[str, str], host: str, printed: datetime) -> Iterator[str]:
    yield f"RECOVERY SHEET of {host}, printed {printed:%Y-%m-%d} (UTC)"
    yield "Keep it away from this host, together with the keys that it names. It holds none."
    yield ""
    yield "WHAT IS WHERE"
    for name, what in _STREAMS:
        stream: Stream = getattr(settings.upload, name)
        yield f"  {what}:"
        yield from _places(stream, locations)
    yield ""
    yield "WHAT YOU NEED"
    yield from (f"  [ ] {need}" for need in _needs(settings, locations))
    yield ""
    yield "IN WHICH ORDER"
    for number, step in enumerate(_steps(settings), 1):
        first, *more = step
        yield f"  {number}. {first}"
        yield from (f"         {line}" for line in more)
    yield ""
    yield "  Nothing that is there is replaced; begun again, it goes on where it was."


def _places(stream: Stream, locations: Mapping[str, str]) -> Iterator[str]:
    if not stream.to:
        yield "    NOWHERE: they would be lost with the host"
    for name in stream.to:
        yield f"    {locations.get(name, 'a place that cannot be used now')}  (prefix {stream.prefix})"
    for recipient in stream.encrypt_to:
        yield f"    encrypted to {recipient}"


def _needs(settings: Settings, locations: Mapping[str, str]) -> Iterator[str]:
    streams = [getattr(settings.upload, name) for name, _ in _STREAMS]
    for recipient in dict.fromkeys(recipient for stream in streams for recipient in stream.encrypt_to):
        yield f"the identity (private key) of one of the recipients, as of {recipient}, in a file"
    for name in dict.fromkeys(name for stream in streams for name in stream.to):
        yield from _keys_for(name, settings.destinations[name].type, locations.get(name, name))
    yield "a host with Docker (or what ran the database) and the same version of Arcsecond"
    yield "arcbackupd: its README tells how to install it"
    yield "if you kept it: /etc/arcbackupd/config.toml"


def _keys_for(name: str, kind: str, location: str) -> Iterable[str]:
    match kind:
        case "directory":
            return [f"the disk or share of {location}, mounted"]
        case "s3":
            return [f"an access key that may read {location}"]
        case "rclone":
            return [f"rclone, and the rclone.conf that has the remote of {location}"]
        case "restic":
            return [f"restic, and the password of {location}"]
    return [f"what the type {kind} of {name} needs"]


def _steps(settings: Settings) -> Iterator[list[str]]:
    identity = any(getattr(settings.upload, name).encrypt_to for name, _ in _STREAMS)
    key = " --identity KEY-FILE" if identity else ""
    directory = shlex.quote(str(settings.install_dir))
    yield ["Install Docker and arcbackupd. Don't start the daemon yet."]
    yield [
        "Put config.toml back in /etc/arcbackupd; without it name the place:",
        "--from /PATH | s3://BUCKET/PREFIX?endpoint=URL | rclone:REMOTE:PATH | restic:REPO",
        "(keys from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, RESTIC_PASSWORD)",
    ]
    yield ["See what it would do:", f"arcbackupd recover{key} --install-dir {directory} --dry-run"]
    yield [
        "Bring the files back, with the newest dump:",
        f"arcbackupd recover{key} --install-dir {directory} --no-restore",
    ]
    yield [
        "Start the database alone, from the recovered Compose file:",
        f"cd {directory} && docker compose up --detach SERVICE-OF-{settings.engine.database}",
    ]
    yield ["Restore the dump:", f"arcbackupd recover{key} --install-dir {directory}"]
    yield [
        "Start everything:",
        f"cd {directory} && docker compose up --detach",
        "systemctl enable --now arcbackupd",
        "arcbackupctl status",
    ]
