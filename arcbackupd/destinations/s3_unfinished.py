"""Multipart uploads that were begun and never finished: invisible among the files, and paid for all the same.

obstore ends what it can, but not where the network or this process went away, and can't list them. So two requests
are made here without it, signed as S3 wants it (Signature Version 4). They are a courtesy: where they fail nothing
else does, and a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) does as well.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree  # of the server that is trusted with the backups, and cut at a limit

_ANSWER_LIMIT = 16 << 20
_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Keys:
    """What requests are signed with."""

    access: str
    secret: str
    token: str = ""


@dataclass(frozen=True)
class Bucket:
    """A bucket and how it is reached; ``url`` has no slash at its end."""

    url: str
    region: str
    keys: Keys
    timeout: float
    trust: ssl.SSLContext | None


@dataclass(frozen=True)
class Unfinished:
    """A multipart upload that wasn't finished, or isn't yet."""

    path: str
    upload: str
    begun_at: datetime


class _Stay(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: what is signed is for this server alone."""

    def redirect_request(self, *_told: object) -> None:
        """Let the answer stand as an error."""


def unfinished(bucket: Bucket, prefix: str) -> Iterator[Unfinished]:
    """Yield those whose path begins so. Raise OSError, or ParseError for what isn't understood."""
    marker: dict[str, str] = {}
    while True:
        answer = ask(bucket, "GET", "", {"uploads": "", "prefix": prefix, **marker})
        root = ElementTree.fromstring(answer)  # noqa: S314  # see the import
        for found in root.iterfind("{*}Upload"):
            yield Unfinished(_text(found, "Key"), _text(found, "UploadId"), _time(_text(found, "Initiated")))
        if _text(root, "IsTruncated") != "true":
            return
        following = {
            "key-marker": _text(root, "NextKeyMarker"),
            "upload-id-marker": _text(root, "NextUploadIdMarker"),
        }
        if following == marker:
            return
        marker = following


def abort(bucket: Bucket, upload: Unfinished) -> None:
    """Remove it and its parts. Raise OSError."""
    ask(bucket, "DELETE", upload.path, {"uploadId": upload.upload})


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""


def _time(text: str) -> datetime:
    """When an upload was begun; now, where the server doesn't say."""
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def ask(bucket: Bucket, method: str, path: str, query: dict[str, str]) -> bytes:
    """Make a request without a body and return the answer's. Raise OSError."""
    url = bucket.url + (f"/{quote(path, safe='/~')}" if path else "")
    asked = "&".join(f"{quote(name, safe='~')}={quote(query[name], safe='~')}" for name in sorted(query))
    headers = _signed(bucket, method, url, asked, datetime.now(UTC))
    request = urllib.request.Request(f"{url}?{asked}".rstrip("?"), method=method, headers=headers)  # noqa: S310  # the operator's
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=bucket.trust), _Stay())
    with opener.open(request, timeout=bucket.timeout) as answer:
        read: bytes = answer.read(_ANSWER_LIMIT)
        return read


def _signed(bucket: Bucket, method: str, url: str, query: str, now: datetime) -> dict[str, str]:
    """The headers of a request without a body."""
    there, time = urlsplit(url), f"{now:%Y%m%dT%H%M%SZ}"
    headers = {"host": there.netloc, "x-amz-content-sha256": _NOTHING, "x-amz-date": time}
    if bucket.keys.token:
        headers["x-amz-security-token"] = bucket.keys.token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join((method, there.path or "/", query, lines, names, _NOTHING))
    scope = f"{now:%Y%m%d}/{bucket.region}/s3/aws4_request"
    signature = _signature(bucket.keys.secret, scope, time, request)
    credential = f"Credential={bucket.keys.access}/{scope}"
    headers["Authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
    return headers


def _signature(secret: str, scope: str, time: str, request: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(("AWS4-HMAC-SHA256", time, scope, hashlib.sha256(request.encode()).hexdigest()))
    return hmac.new(key, text.encode(), "sha256").hexdigest()
