"""Encryption to age recipients (https://age-encryption.org/v1): who reads what was encrypted is not this host.

pyrage calls back for every 8 KiB. In Python's own code other threads get their turn then; its functions for whole
files and bytes, and callbacks in native code, keep all of them waiting to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import pyrage

T = TypeVar("T")
SUFFIX = ".age"
"""Ends the name of what is encrypted."""


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many of them, none at the end."""


class Writable(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> int:
        """Take all of them; return how many these were."""

    def flush(self) -> None:
        """Everything was written."""


class CannotDecrypt(Exception):
    """It can't be decrypted; the text says why, and completes "It can't be decrypted: …"."""


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise ValueError for what is no recipient: a public key, ``age1…`` or ``ssh-ed25519 …``."""
    for number, recipient in enumerate(recipients, 1):
        if "SECRET" in recipient.upper() or "PRIVATE" in recipient.upper():
            raise ValueError(f"number {number} is an identity, which must never be here; name its recipient")
        try:
            _recipient(recipient)
        except pyrage.RecipientError:
            raise ValueError(f'number {number} is no recipient such as "age1…" (age-keygen makes one)') from None


def encrypt(source: Readable, target: Writable, recipients: Sequence[str]) -> None:
    """Encrypt all of a file to recipients that `check_recipients` found good, at least one."""
    with _Ends(source, target) as ends:
        pyrage.encrypt_io(ends, ends, [_recipient(recipient) for recipient in recipients])


def decrypt(source: Readable, target: Writable, identities: str) -> None:
    """Decrypt a file with the identities of an age identity file's text, or an SSH private key.

    Raise CannotDecrypt, also when the file was changed by so much as a bit; what was written until then is nothing.
    """
    keys = _identities(identities)
    try:
        with _Ends(source, target) as ends:
            pyrage.decrypt_io(ends, ends, keys)
    except (pyrage.DecryptError, OSError) as error:
        if getattr(error, "errno", None):  # of the file system's; pyrage's own has none
            raise
        raise CannotDecrypt(_why(str(error))) from None


class _Ends:
    """Both ends as pyrage calls them. Of what they raise it makes errors of its own; leaving this raises theirs."""

    def __init__(self, source: Readable, target: Writable) -> None:
        self._source = source
        self._target = target
        self._error: BaseException | None = None

    def __enter__(self) -> _Ends:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._error:
            raise self._error

    def read(self, size: int = -1) -> bytes:
        return self._keep(lambda: self._source.read(size))

    def write(self, data: bytes) -> int:
        return self._keep(lambda: self._target.write(data))

    def flush(self) -> None:
        self._keep(self._target.flush)

    def _keep(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as error:
            self._error = error
            raise


def _why(said: str) -> str:
    if "No matching keys" in said:
        return "it was encrypted to other recipients than this identity's"
    return "it is damaged, or no age file"


def _recipient(text: str) -> Any:
    if text.startswith("ssh-"):
        return pyrage.ssh.Recipient.from_str(text)
    return pyrage.x25519.Recipient.from_str(text)


def _identities(text: str) -> list[Any]:
    try:
        if "PRIVATE KEY-----" in text:
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        lines = [line.strip() for line in text.splitlines()]
        keys = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except pyrage.IdentityError:
        raise CannotDecrypt("the identity is no age identity (AGE-SECRET-KEY-…) and no SSH private key") from None
    if not keys:
        raise CannotDecrypt("the identity file holds no identity (AGE-SECRET-KEY-…)")
    return keys
