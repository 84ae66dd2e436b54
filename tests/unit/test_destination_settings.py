"""The settings of destinations: what is refused, and that no secret shows when it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arcbackupd.destinations.directory import DirectoryDestination, DirectorySettings
from arcbackupd.destinations.s3 import S3Destination
from arcbackupd.destinations.s3_settings import S3Settings

KEYS: dict[str, Any] = {"access_key_id": "AKIA", "secret_access_key": "hush"}


def location(**table: Any) -> str:
    return S3Destination("vault", S3Settings(**table), Path("/nowhere")).location


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"bucket": ""},
        {"bucket": "a/b"},
        {"bucket": "vault", "access_key_id": "AKIA"},
        {"bucket": "vault", "secret_access_key": "hush"},
        {"bucket": "vault", "access_key_id": "AKIA", "secret_access_key": ""},
        {"bucket": "vault", "endpoint": "s3.example.org"},
        {"bucket": "vault", "endpoint": "ftp://s3.example.org"},
        {"bucket": "vault", "endpoint": "https://user:hush@s3.example.org"},
        {"bucket": "vault", "endpoint": "https://s3.example.org/?secret=hush"},
        {"bucket": "vault", "prefix": "../up"},
        {"bucket": "vault", "prefix": "a//b"},
        {"bucket": "vault", "prefix": "a/\n"},
        {"bucket": "vault", "prefix": ".arcbackupd-partial"},
        {"bucket": "vault", "ca_file": "relative.pem"},
        {"bucket": "vault", "verify": "never"},
        {"bucket": "vault", "timeout": "0s"},
        {"bucket": "vault", "secret_acces_key": "hush"},
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_without_showing_it(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        S3Settings(**table)
    assert "hush" not in str(raised.value)


def test_a_secret_is_shown_nowhere() -> None:
    settings = S3Settings(bucket="vault", **KEYS)
    destination = S3Destination("vault", settings, Path("/nowhere"))
    for shown in (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        destination.location,
        repr(destination),
    ):
        assert "hush" not in shown


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({"bucket": "vault"}, "https://s3.us-east-1.amazonaws.com/vault"),
        (
            {"bucket": "vault", "region": "eu-west-1", "prefix": "/a/b/"},
            "https://s3.eu-west-1.amazonaws.com/vault/a/b",
        ),
        ({"bucket": "vault", "endpoint": "http://NAS.example:9000/"}, "http://nas.example:9000/vault"),
        ({"bucket": "vault", "endpoint": "https://x.example", "path_style": False}, "https://x.example/vault"),
    ],
)
def test_equal_places_have_equal_locations(table: dict[str, Any], where: str) -> None:
    assert location(**table) == location(**table, **KEYS) == where


def test_the_bucket_stands_in_the_path_or_in_the_hosts_name() -> None:
    table: dict[str, Any] = {"bucket": "vault", "endpoint": "https://s3.example.org:444"}
    assert S3Settings(**table).url == "https://s3.example.org:444/vault"
    assert S3Settings(**table, path_style=False).url == "https://vault.s3.example.org:444"


@pytest.mark.parametrize(
    "table", [{}, {"path": "relative"}, {"path": "/a", "mount": "relative"}, {"path": "/a", "x": 1}]
)
def test_a_directory_is_named_whole(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DirectorySettings(**table)


@pytest.mark.parametrize(("mount", "understood"), [(True, True), (False, False), ("/srv/nas", Path("/srv/nas"))])
def test_a_mount_is_asked_for_by_truth_or_by_name(mount: object, understood: object) -> None:
    assert DirectorySettings(path=Path("/srv/nas/a"), mount=mount).mount == understood  # type: ignore[arg-type]


def test_a_directorys_location_is_a_url() -> None:
    settings = DirectorySettings(path=Path("/srv/with space"))
    assert DirectoryDestination("nas", settings, Path("/nowhere")).location == "file:///srv/with%20space"
