"""What goes wrong with an S3 server, as DestinationErrors: the one boundary that obstore's own errors end at.

obstore tells no more than a kind and a long text, with the whole request and answer in it. Only the status and the
server's code word are taken from that text, and it is never shown: nobody knows what a server puts into an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from obstore.exceptions import BaseError, InvalidPathError

from arcbackupd.destinations import DestinationError
from arcbackupd.destinations.transfers import lacking

_STATUS = re.compile(r"status code: (\d{3})")
_WORD = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "EntityTooLarge"})
_LATER = frozenset({408, 425, 429})
_CLOCK = "RequestTimeTooSkewed"
_NO_BUCKET = frozenset({"NoSuchBucket", "InvalidBucketName"})


@dataclass(frozen=True)
class Answer:
    """What a server answered: 0 and "" where it didn't."""

    status: int
    word: str

    @classmethod
    def of(cls, error: BaseException) -> Answer:
        text = str(error)
        status, word = _STATUS.search(text), _WORD.search(text)
        return cls(int(status[1]) if status else 0, word[1] if word else "")

    def __str__(self) -> str:
        return f"the server answered {self.status}" + (f" ({self.word})" if self.word else "")


@contextmanager
def explained(name: str, bucket: str, doing: str, key: str = "") -> Iterator[None]:
    """Turn what obstore raises inside into a DestinationError that says what was being done, to which key."""
    try:
        yield
    except FileNotFoundError as error:
        word = Answer.of(error).word
        if key and word not in _NO_BUCKET:
            raise lacking(name, key) from None
        if word == "NoSuchUpload":
            raise _unanswered(name, doing, "") from None
        raise _no_bucket(name, bucket) from None
    except InvalidPathError:
        message = f"The destination {name!r} failed while {doing}: a name there has control characters."
        hint = "Remove that file, or set a prefix that is this installation's alone."
        raise DestinationError("destination-failed", message, hint=hint) from None
    except BaseError as error:
        raise _translated(name, bucket, doing, error) from None
    except ValueError:  # that's how it calls a path that it can't send
        message = f"The destination {name!r} failed while {doing}: it can't have a file of that name."
        raise DestinationError("destination-failed", message, hint="Use no control characters in names.") from None


def _translated(name: str, bucket: str, doing: str, error: BaseError) -> DestinationError:
    answer = Answer.of(error)
    if answer.word in _NO_BUCKET:
        return _no_bucket(name, bucket)
    if not answer.status:
        return _unanswered(name, doing, str(error))
    code, hint = _meaning(answer)
    message = f"The destination {name!r} failed while {doing}: {answer}."
    return DestinationError(code, message, hint=hint, passing=code == "destination-unreachable")


def _meaning(answer: Answer) -> tuple[str, str]:
    """The code of an answer, and what to do about it."""
    if answer.status == 507 or answer.word in _FULL:
        return "destination-full", "Make room there, or raise the quota, or keep fewer dumps."
    if answer.word == _CLOCK:
        return "destination-denied", "Set this host's clock: the server takes only requests of the present."
    if answer.status in (401, 403):
        return "destination-denied", "Check both access keys, and what they may do in the bucket."
    if answer.status >= 500 or answer.status in _LATER:
        return "destination-unreachable", "Try again later; if it stays so, ask who runs the server."
    return "destination-failed", "Check endpoint, region and path_style, and look at the server's log."


def _unanswered(name: str, doing: str, text: str) -> DestinationError:
    """There was no answer: either no connection could be had, or it was cut, or it took too long."""
    message = f"The destination {name!r} failed while {doing}: "
    lower = text.lower()
    if "certificate" in lower:
        hint = "Set ca_file to the certificate of the authority that signed the server's."
        if "causedasendentity" in lower:  # what openssl makes when it isn't told, and TLS forbids
            hint = "It is an authority's own: make the server one with basicConstraints=CA:FALSE."
        return DestinationError("destination-unreachable", f"{message}its certificate isn't trusted.", hint=hint)
    if "credential" in lower or "169.254." in lower:
        hint = "Set access_key_id and secret_access_key."
        return DestinationError("destination-denied", f"{message}there are no credentials for it.", hint=hint)
    slow = "timedout" in lower or "timed out" in lower
    what = "the server didn't answer in time" if slow else "the connection failed or was cut"
    hint = "Check the network and endpoint" + ("; on a slow line, raise timeout." if slow else ".")
    return DestinationError("destination-unreachable", f"{message}{what}.", hint=hint, passing=True)


def _no_bucket(name: str, bucket: str) -> DestinationError:
    message = f"The destination {name!r} isn't there: the server has no bucket {bucket!r}."
    return DestinationError("destination-missing", message, hint="Create the bucket, or correct its name.")
