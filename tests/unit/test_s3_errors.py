"""What an S3 server's answers become for an operator; none of their text is shown."""

from __future__ import annotations

import pytest
from obstore.exceptions import (
    BaseError,
    GenericError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from arcbackupd.destinations import DestinationError
from arcbackupd.destinations.s3_errors import explained

CUT = "Error performing PUT http://s3.example/b/k in 3ms - HTTP error: error sending request, hush"


def answered(status: int, word: str = "") -> str:
    body = f"<Error><Code>{word}</Code><StringToSign>hush</StringToSign></Error>" if word else ""
    return (
        f"Error performing PUT http://s3.example/b/k - Server returned non-2xx status code: {status} Hush: {body}"
    )


def told(error: BaseException, key: str = "") -> DestinationError:
    with pytest.raises(DestinationError) as raised, explained("vault", "attic", "storing dumps/file", key):
        raise error
    return raised.value


@pytest.mark.parametrize(
    ("error", "code", "passing"),
    [
        (GenericError(CUT), "destination-unreachable", True),
        (GenericError(f"{CUT} source: TimedOut"), "destination-unreachable", True),
        (GenericError(f"{CUT} invalid peer certificate: UnknownIssuer"), "destination-unreachable", False),
        (GenericError("no credentials were found"), "destination-denied", False),
        (GenericError(answered(500, "InternalError")), "destination-unreachable", True),
        (GenericError(answered(503, "SlowDown")), "destination-unreachable", True),
        (GenericError(answered(429)), "destination-unreachable", True),
        (GenericError(answered(507)), "destination-full", False),
        (GenericError(answered(403, "QuotaExceeded")), "destination-full", False),
        (GenericError(answered(500, "XMinioStorageFull")), "destination-full", False),
        (GenericError(answered(403, "SignatureDoesNotMatch")), "destination-denied", False),
        (PermissionDeniedError(answered(403, "RequestTimeTooSkewed")), "destination-denied", False),
        (UnauthenticatedError(answered(401)), "destination-denied", False),
        (GenericError(answered(404, "NoSuchBucket")), "destination-missing", False),
        (FileNotFoundError(answered(404, "NoSuchBucket")), "destination-missing", False),
        (FileNotFoundError(answered(404, "NoSuchUpload")), "destination-unreachable", True),
        (GenericError(answered(301, "PermanentRedirect")), "destination-failed", False),
        (GenericError(answered(400, "AuthorizationHeaderMalformed")), "destination-failed", False),
        (InvalidPathError("hush"), "destination-failed", False),
        (ValueError("Could not parse path: hush"), "destination-failed", False),
    ],
    ids=lambda value: str(value)[-70:] if isinstance(value, BaseException) else "",
)
def test_each_answer_has_its_code(error: BaseError, code: str, passing: bool) -> None:
    made = told(error)
    assert (made.code, made.passing) == (code, passing)
    assert made.hint
    assert "'vault'" in made.message
    assert "hush" not in f"{made.message}{made.hint}".lower()
    assert made.__suppress_context__


def test_what_is_not_there_is_lacking_where_a_key_was_asked_for() -> None:
    assert told(FileNotFoundError(answered(404, "NoSuchKey")), "dumps/file").code == "destination-lacks"
    assert told(FileNotFoundError(answered(404)), "dumps/file").code == "destination-lacks"
    assert told(FileNotFoundError(answered(404, "NoSuchBucket")), "dumps/file").code == "destination-missing"


def test_a_wrong_clock_is_named() -> None:
    assert "clock" in told(PermissionDeniedError(answered(403, "RequestTimeTooSkewed"))).hint


def test_what_is_no_answer_of_a_server_goes_through() -> None:
    with pytest.raises(ZeroDivisionError), explained("vault", "attic", "storing dumps/file"):
        raise ZeroDivisionError
