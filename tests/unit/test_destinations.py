"""Destinations as plugins, their tables and streams in the configuration, and the recovery sheet."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from arcbackupd.destinations import Destination, DestinationSettings, StoredFile, Transfer
from arcbackupd.destinations.plugins import GROUP, FailedDestination, load_destinations
from arcbackupd.errors import UsageError
from arcbackupd.log import redacted
from arcbackupd.operations.offhost.offhost import load
from arcbackupd.operations.offhost.sheet import recovery_sheet
from arcbackupd.recovery import table_of
from arcbackupd.settings import load_settings

RECIPIENT = "age1ftjhuwerq5gskdp4mwd0ct03y9u43cnqy4l46mh87fj6zl2grfhqgytv05"
PAGE = Path(__file__).parents[2] / "docs" / "off-host.md"


class TapeSettings(DestinationSettings):
    drive: str


class Tape(Destination[TapeSettings]):
    Settings = TapeSettings

    @property
    def location(self) -> str:
        return f"tape:{self.settings.drive}"

    def check(self) -> None:
        """It is there."""

    def list(self, prefix: str) -> list[StoredFile]:
        return []

    def put(self, source: Path, key: str, transfer: Transfer) -> None:
        """Take it."""

    def get(self, key: str, target: BinaryIO, transfer: Transfer) -> None:
        """Give nothing."""

    def read(self, key: str, length: int) -> bytes:
        return b""

    def delete(self, key: str) -> None:
        """Forget it."""


class Rewound(Tape):
    @classmethod
    def problem(cls) -> tuple[str, str] | None:
        return "mt is not installed", "Install mt-st."


class Torn(Tape):
    def __init__(self, *arguments: Any) -> None:
        raise SystemExit(3)


class Lost(Tape):
    @property
    def location(self) -> str:
        raise OSError("no drive")


class Renamed(Tape):
    def __init__(self, name: str, settings: TapeSettings, state_dir: Path) -> None:
        super().__init__(f"tape {name}", settings, state_dir)


def points(**targets: str) -> list[EntryPoint]:
    return [EntryPoint(name, f"{__name__}:{target}", GROUP) for name, target in targets.items()]


def loaded(kind: str = "tape", own: Any = None, **targets: str) -> Destination[Any] | FailedDestination:
    own = {"drive": "/dev/st0"} if own is None else own
    return load_destinations({"vault": (kind, own)}, Path("/nowhere"), found=points(**targets))["vault"]


def failed(destination: Destination[Any] | FailedDestination) -> FailedDestination:
    assert isinstance(destination, FailedDestination)
    return destination


# Plugins


def test_a_package_can_bring_a_type_of_its_own() -> None:
    tape = loaded(tape="Tape")
    assert isinstance(tape, Tape)
    assert (tape.name, tape.location, tape.state_dir) == ("vault", "tape:/dev/st0", Path("/nowhere/vault"))


def test_an_unknown_type_is_a_configuration_error_that_names_the_installed_ones() -> None:
    with pytest.raises(UsageError, match=r"destinations\.vault\.type: no installed plugin provides disc") as caught:
        loaded("disc", tape="Tape")
    assert "tape" in caught.value.hint


def test_wrong_settings_of_a_third_party_type_fail_that_destination_alone() -> None:
    problem = failed(loaded(own={"drive": 5, "token": "hunter2"}, tape="Tape")).problem
    assert "destinations.vault.drive" in problem
    assert "hunter2" not in problem


def test_wrong_settings_of_a_built_in_type_are_a_configuration_error_without_the_value() -> None:
    with pytest.raises(UsageError, match=r"destinations\.nas\.path") as caught:
        load_destinations({"nas": ("directory", {"path": "hunter2"})}, Path("/nowhere"))
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("Missing", "AttributeError"),
        ("Rewound", "mt is not installed"),
        ("Torn", "can't be set up: SystemExit"),
        ("Lost", "can't be set up: OSError: no drive"),
        ("Renamed", "its class doesn't keep its name"),
    ],
)
def test_one_that_cannot_be_used_is_told_and_takes_nothing_down(target: str, problem: str) -> None:
    tape = failed(loaded(tape=target))
    assert problem in tape.problem
    assert tape.hint


def test_what_a_destination_has_of_secrets_is_kept_out_of_the_log() -> None:
    table = {"bucket": "observatory", "access_key_id": "A", "secret_access_key": "so-secret-a-key"}
    load_destinations({"cloud": ("s3", table)}, Path("/nowhere"))
    assert redacted("said so-secret-a-key") == "said ***"


# The configuration


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Callable[[str], Any]:
    def settings(text: str) -> Any:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load_settings(path)

    return settings


NAS = '[destinations.nas]\ntype = "directory"\npath = "/mnt/nas"\n'


@pytest.mark.parametrize(
    ("rate", "expected"), [("10 MB/s", 10_000_000), ("500kB/s", 500_000), ("1 GB/s", 10**9), ("42 B/s", 42)]
)
def test_a_bandwidth_limit_is_a_rate(settings: Callable[[str], Any], rate: str, expected: int) -> None:
    assert settings(f'{NAS}bandwidth_limit = "{rate}"\n').destinations["nas"].bandwidth_limit == expected


@pytest.mark.parametrize(
    "text",
    [
        f'{NAS}bandwidth_limit = "fast"\n',
        f'{NAS}bandwidth_limit = "0 MB/s"\n',
        "[destinations.nas]\npath = 'x'\n",
        "[upload.dumps]\nencrypt_to = ['hunter2']\n",
        "[upload.dumps]\nprefix = '../x'\n",
        "[upload.dumps]\nprefix = 'a'\n[upload.secrets]\nprefix = 'a'\n",
        "[upload.dumps]\nprefix = 'a'\n[upload.secrets]\nprefix = 'a/b'\n",
        "[upload.logs]\nto = ['nas']\n",
        f"{NAS}retention = {{ keep_days = 0 }}\n",
    ],
)
def test_what_makes_no_sense_is_refused_without_the_value(settings: Callable[[str], Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(text)
    assert "hunter2" not in caught.value.message


def test_retention_there_is_longer_than_here_by_default(settings: Callable[[str], Any]) -> None:
    retention = settings(NAS).destinations["nas"].retention
    assert (retention.keep_days, retention.keep_last, retention.keep_monthly) == (90, 3, 12)


@pytest.mark.parametrize("name", ["secret_access_key"])
def test_a_secret_of_a_destination_may_be_a_credential(
    settings: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / f"destinations__cloud__{name}").write_text("from-a-credential")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    cloud = '[destinations.cloud]\ntype = "s3"\nbucket = "observatory"\naccess_key_id = "A"\n'
    destination = load(settings(cloud))["cloud"]
    assert isinstance(destination, Destination)
    assert destination.settings.secret_access_key.get_secret_value() == "from-a-credential"


# The page


def blocks() -> list[str]:
    """The indented examples of the page that are configurations."""
    found = re.findall(r"(?m)^((?:(?: {4,}).*\n|\n)+)", PAGE.read_text())
    dedented = ["\n".join(line.strip() for line in block.splitlines()) for block in found]
    return [block for block in dedented if block.lstrip().startswith("[destinations.")]


@pytest.mark.parametrize("block", blocks())
def test_every_example_of_the_page_is_a_configuration(settings: Callable[[str], Any], block: str) -> None:
    text = block.replace("age1…", RECIPIENT).replace('"…"', '"KEY"')
    extra = 'secret_access_key = "x"\n' if 'type = "s3"' in text else ""
    tomllib.loads(text + "\n" + extra)
    assert load(settings(text + "\n" + extra))


def test_the_page_has_an_example_of_every_type() -> None:
    types = set(re.findall(r'type = "(\w+)"', "\n".join(blocks())))
    assert types == {"directory", "s3", "rclone", "restic"}


# The sheet


def test_the_recovery_sheet_names_places_keys_and_order_and_no_secret(settings: Callable[[str], Any]) -> None:
    text = (
        f'install_dir = "/srv/my arcsecond"\n{NAS}[destinations.cloud]\ntype = "s3"\nbucket = "observatory"\n'
        'access_key_id = "AKID"\nsecret_access_key = "hunter2"\n[upload]\n'
        f'dumps = {{ to = ["nas", "cloud"] }}\nsecrets = {{ to = ["cloud"], encrypt_to = ["{RECIPIENT}"] }}\n'
    )
    loaded_settings = settings(text)
    locations = {
        name: item.location for name, item in load(loaded_settings).items() if isinstance(item, Destination)
    }
    sheet = recovery_sheet(loaded_settings, locations, "dome", datetime(2026, 1, 2, tzinfo=UTC))
    assert "hunter2" not in sheet
    for needed in (RECIPIENT, "file:///mnt/nas", "NOWHERE", "an access key that may read", "--identity KEY-FILE",
                   "--install-dir '/srv/my arcsecond'", "docker compose up"):  # fmt: skip
        assert needed in sheet
    assert sheet.index("--dry-run") < sheet.index("--no-restore") < sheet.index("systemctl enable")


# Places on a command line


@pytest.mark.parametrize(
    ("source", "kind", "own"),
    [
        ("/mnt/nas", "directory", {"path": "/mnt/nas", "mount": False}),
        ("s3://observatory/a/c?endpoint=https://s3.example.org&region=eu", "s3",
         {"bucket": "observatory", "prefix": "a/c", "endpoint": "https://s3.example.org", "region": "eu"}),
        ("rclone:nas:x/y", "rclone", {"remote": "nas:x/y"}),
        ("restic:sftp:u@h:/r", "restic", {"repository": "sftp:u@h:/r"}),
    ],
)  # fmt: skip
def test_a_place_on_the_command_line(
    source: str, kind: str, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESTIC_PASSWORD", raising=False)
    table = table_of(source)
    assert (table.type, table.model_extra) == (kind, own)


@pytest.mark.parametrize("source", ["nas", "ftp://x", "s3:b", "rclone:", "", "s3://bucket?bandwidth_limit=x"])
def test_what_is_no_place_is_wrong_usage(source: str) -> None:
    with pytest.raises(UsageError, match="is no place"):
        table_of(source)
