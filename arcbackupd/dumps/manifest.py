"""The manifest of a dump: what it is, where it comes from, what it holds. Travels inside the dump file."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from arcbackupd.dumps.names import Kind

_Text = Annotated[str, Field(max_length=4096)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=2**63)]


class Reason(StrEnum):
    """Why a dump was taken."""

    BOOT = "boot"
    SCHEDULED = "scheduled"
    MANUAL = "manual"
    PRE_RESTORE = "pre-restore"
    FOREIGN = "foreign"

    @property
    def automatic(self) -> bool:
        """Whether the daemon takes such dumps by itself, so that they count towards catching up."""
        return self in (Reason.BOOT, Reason.SCHEDULED)


class Contents(BaseModel):
    """What a dump holds. Large databases make it large, so it may stand outside the manifest proper.

    ``rows``: table, as the dump quotes it, to number of rows. ``migrations``: ``app.name`` in recorded order,
    ``None`` when there is no ``django_migrations``. ``roles``: names that must exist to restore, never passwords.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    rows: dict[str, _Count] = {}
    migrations: tuple[_Text, ...] | None = Field(default=None, strict=False)
    roles: tuple[_Text, ...] = Field(default=(), strict=False)


class Manifest(BaseModel):
    """All that is known of a dump without decompressing it. Times in UTC, lengths in bytes.

    ``contents_length`` (bytes of the file) and ``contents_sha256`` (of their JSON) are set instead of ``contents``
    when those stand behind the data (see `dumpfile`).
    Unknown fields are ignored, so that a newer minor version can add some.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    kind: Kind
    reason: Reason
    started_at: AwareDatetime
    finished_at: AwareDatetime
    host: _Text
    """Identity of the host that took the dump; derived from its machine-id."""
    arcbackupd_version: _Text
    database: _Text
    server_version: _Text
    pg_dump_version: _Text
    backend_image: _Text | None = None
    sql_length: _Count
    sql_sha256: _Sha256
    content_sha256: _Sha256
    compressed_length: _Count
    contents: Contents | None = None
    contents_length: _Count = 0
    contents_sha256: _Sha256 | None = None
    before_migrations: bool | None = None
    """Of a boot's dump: whether it was surely taken before the migrations of that start."""
    not_surely_before: _Text | None = None
    """Why that isn't sure."""

    @property
    def duration(self) -> float:
        """Seconds that the dump took."""
        return (self.finished_at - self.started_at).total_seconds()


def encode(model: BaseModel) -> bytes:
    """Compact JSON, the same for the same values."""
    value: dict[str, Any] = model.model_dump(mode="json", exclude_none=True)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(
        "utf-8", "backslashreplace"
    )


def digest(contents: bytes) -> str:
    """SHA-256 of encoded contents that stand outside the manifest, in hexadecimal."""
    return hashlib.sha256(contents).hexdigest()
