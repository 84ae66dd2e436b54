"""The table of a destination of the type s3."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from arcbackupd.destinations import PARTIAL, DestinationSettings
from arcbackupd.settings import AbsolutePath, Duration


def _server(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError('must be a URL such as "https://s3.example.org"')
    if url.username is not None:
        raise ValueError("credentials don't belong in it: set access_key_id and secret_access_key")
    return f"{url.scheme}://{url.netloc.lower()}{url.path.rstrip('/')}"


def _prefix(value: str) -> str:
    found = value.strip("/").split("/")
    if found != [""] and ({"", ".", "..", PARTIAL} & set(found) or not value.isprintable()):
        raise ValueError("must be a path such as observatory/backups")
    return "/".join(found)


class S3Settings(DestinationSettings):
    """What ``[destinations.NAME]`` of this type may say."""

    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,253}$")]
    """It must exist."""

    prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """What the names of all objects begin with, as a directory: a bucket may serve others too."""

    endpoint: Annotated[str, AfterValidator(_server)] | None = None
    """The server; left out, Amazon's of the region. Without TLS only where it says ``http://``."""

    region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,40}$")] = "us-east-1"

    access_key_id: Annotated[str, Field(pattern=r"^\S+$")] | None = None
    secret_access_key: Annotated[SecretStr, Field(min_length=1)] | None = None
    """Both or neither. Without them they are looked for where Amazon's tools do: the environment, the instance."""

    path_style: bool = True
    """Whether the bucket stands in the path of URLs, as most servers but Amazon want it, or in the host's name."""

    ca_file: AbsolutePath | None = None
    """Certificates, as PEM, of authorities that are trusted besides the system's."""

    storage_class: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    """One that gives files back at once: they are read to verify them, and their beginnings to list them."""

    verify: Literal["read", "size"] = "read"
    """How what went in parts is verified: read again whole; or by its size alone, where reading is paid for."""

    connect_timeout: Duration = timedelta(seconds=10)

    timeout: Duration = timedelta(minutes=2)
    """The longest that a server may be silent. Two parts of 5 MiB must get through in it: 90 kB/s by default.

    Ending an upload that failed may take it two or three times more, as nobody answers that either.
    """

    @model_validator(mode="after")
    def _both_keys_or_none(self) -> S3Settings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        return self

    @property
    def server(self) -> str:
        """The URL of the server, without the bucket."""
        return self.endpoint or f"https://s3.{self.region}.amazonaws.com"

    @property
    def url(self) -> str:
        """The URL of the bucket."""
        if self.path_style:
            return f"{self.server}/{self.bucket}"
        scheme, _, rest = self.server.partition("://")
        return f"{scheme}://{self.bucket}.{rest}"
