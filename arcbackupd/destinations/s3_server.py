"""How an S3 server is reached: obstore's store, its credentials and its patience."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError  # an error only

from obstore.store import S3Store

from arcbackupd.destinations import DestinationError
from arcbackupd.destinations.s3_settings import S3Settings
from arcbackupd.destinations.s3_unfinished import Bucket, Keys, Unfinished, abort, unfinished

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Credential

_LONGEST = timedelta(days=7)
"""Of one request: what ends it is that it doesn't go on, not that it takes long."""


class S3Server:
    """The server of one destination; making the object touches nothing."""

    def __init__(self, name: str, settings: S3Settings) -> None:
        self._name = name
        self._settings = settings

    @cached_property
    def store(self) -> S3Store:
        """The bucket. Raise DestinationError when what it needs can't be read."""
        settings = self._settings
        return S3Store(
            settings.bucket,
            endpoint=settings.server if settings.path_style else settings.url,
            region=settings.region,
            virtual_hosted_style_request=not settings.path_style,
            # obstore heeds the environment in what isn't said here.
            conditional_put="etag",
            skip_signature=False,
            disable_bulk_delete=True,  # not every server can
            client_options=self._client_options(),
            retry_config={"max_retries": 1, "retry_timeout": settings.timeout},
            credential_provider=None if settings.secret_access_key is None else self._credentials,
        )

    def abandon(self, path: str) -> None:
        """Remove what uploads to a path left unfinished. It may fail, and says nothing then."""
        self._abandon(path, lambda upload: upload.path == path)

    def abandon_old(self, prefix: str, begun_before: datetime) -> None:
        """Remove what uploads below a prefix left unfinished, as `abandon` does, if they are that old."""
        self._abandon(prefix, lambda upload: upload.begun_at < begun_before)

    def _abandon(self, prefix: str, unwanted: Callable[[Unfinished], bool]) -> None:
        if (keys := self._keys()) is None:
            return
        settings = self._settings
        with contextlib.suppress(OSError, ValueError, HTTPException, ParseError):
            trust = None if settings.ca_file is None else ssl.create_default_context()
            if trust is not None:
                trust.load_verify_locations(settings.ca_file)
            bucket = Bucket(settings.url, settings.region, keys, settings.timeout.total_seconds(), trust)
            for upload in tuple(unfinished(bucket, prefix)):
                if unwanted(upload):
                    abort(bucket, upload)

    def _client_options(self) -> ClientConfig:
        options: ClientConfig = {
            "allow_http": self._settings.server.startswith("http:"),
            "connect_timeout": self._settings.connect_timeout,
            "read_timeout": self._settings.timeout,
            "timeout": _LONGEST,
        }
        if self._settings.ca_file is not None:
            options["root_certificate"] = self._certificates(self._settings.ca_file)
        return options

    def _certificates(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            message = f"The destination {self._name!r} can't be used: {path} can't be read: {error.strerror}."
            raise DestinationError("destination-failed", message, hint="Correct ca_file.") from error

    def _credentials(self) -> S3Credential:
        """The keys of the table alone: obstore would add a token from the environment to them."""
        keys = self._keys()
        assert keys is not None
        return {"access_key_id": keys.access, "secret_access_key": keys.secret, "token": None, "expires_at": None}

    def _keys(self) -> Keys | None:
        """The table's keys, or the environment's, or none: obstore asks an instance for its own, we don't."""
        access, secret = self._settings.access_key_id, self._settings.secret_access_key
        if access is not None and secret is not None:
            return Keys(access, secret.get_secret_value())
        found = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        return Keys(*found, os.environ.get("AWS_SESSION_TOKEN", "")) if all(found) else None
