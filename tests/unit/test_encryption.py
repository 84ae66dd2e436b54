"""What is encrypted to recipients, and who can read it."""

from __future__ import annotations

import io
import subprocess
import threading
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.encryption import CannotDecrypt, check_recipients, decrypt, encrypt

IDENTITY = pyrage.x25519.Identity.generate()
OTHER = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN alice@host"


def encrypted(data: bytes, *recipients: str) -> bytes:
    target = io.BytesIO()
    encrypt(io.BytesIO(data), target, recipients or (RECIPIENT,))
    return target.getvalue()


def decrypted(data: bytes, identities: str = str(IDENTITY)) -> bytes:
    target = io.BytesIO()
    decrypt(io.BytesIO(data), target, identities)
    return target.getvalue()


@given(st.binary(max_size=200_000))
def test_whoever_has_the_identity_reads_what_was_encrypted_and_nobody_else(data: bytes) -> None:
    stored = encrypted(data)
    assert decrypted(stored) == data
    assert data[:16] not in stored or len(data) < 16
    with pytest.raises(CannotDecrypt, match="other recipients"):
        decrypted(stored, str(OTHER))


def test_any_of_several_recipients_reads_it() -> None:
    stored = encrypted(b"x", RECIPIENT, str(OTHER.to_public()))
    assert decrypted(stored) == decrypted(stored, str(OTHER)) == b"x"


def test_an_identity_file_has_comments_and_several_identities() -> None:
    text = f"# created: today\n# public key: {RECIPIENT}\n{OTHER}\n{IDENTITY}\n"
    assert decrypted(encrypted(b"x"), text) == b"x"


def test_a_changed_bit_is_noticed_wherever_it_is() -> None:
    stored = bytearray(encrypted(b"x" * 100_000))
    for place in (5, 30, 150, 250, len(stored) // 2, len(stored) - 1):
        damaged = stored.copy()
        damaged[place] ^= 1
        with pytest.raises(CannotDecrypt):
            decrypted(bytes(damaged))


def test_a_file_that_is_cut_short_is_noticed() -> None:
    with pytest.raises(CannotDecrypt):
        decrypted(encrypted(b"x" * 300_000)[:-100_000])


@pytest.mark.parametrize("identity", ["", "# nothing\n", "AGE-SECRET-KEY-1NOTONE", "hello"])
def test_what_is_no_identity_is_told_without_repeating_it(identity: str) -> None:
    with pytest.raises(CannotDecrypt) as caught:
        decrypted(encrypted(b"x"), identity)
    assert "identity" in str(caught.value)
    assert "NOTONE" not in str(caught.value)


@pytest.mark.parametrize("recipients", [[], [RECIPIENT], [SSH], [RECIPIENT, SSH]])
def test_public_keys_of_age_and_ssh_are_recipients(recipients: list[str]) -> None:
    check_recipients(recipients)


@pytest.mark.parametrize(
    "recipient",
    ["", "age1", RECIPIENT[:-1], RECIPIENT + "x", "ssh-ed25519 AAAA", "bob@x"],
    ids=["empty", "prefix", "cut", "longer", "ssh key cut", "address"],
)
def test_what_is_no_recipient_is_told_by_its_place(recipient: str) -> None:
    with pytest.raises(ValueError, match="number 2 is no recipient"):
        check_recipients([RECIPIENT, recipient])


def test_an_identity_in_place_of_a_recipient_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="must never be here") as caught:
        check_recipients([str(IDENTITY)])
    assert str(IDENTITY)[20:] not in str(caught.value)


def test_an_ssh_key_reads_what_was_encrypted_to_it(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    stored = encrypted(b"x", key.with_suffix(".pub").read_text().strip())
    assert decrypted(stored, key.read_text()) == b"x"


class Failing(io.BytesIO):
    """One end that fails."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        raise self.error

    def write(self, data: object, /) -> int:
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("stop")])
def test_what_reading_or_writing_raises_is_raised(error: Exception) -> None:
    for source, target in ((Failing(error), io.BytesIO()), (io.BytesIO(b"x"), Failing(error))):
        with pytest.raises(type(error)):
            encrypt(source, target, [RECIPIENT])
        stored = source if isinstance(source, Failing) else io.BytesIO(encrypted(b"x"))
        with pytest.raises(type(error)):
            decrypt(stored, target, str(IDENTITY))


def test_other_threads_go_on_meanwhile() -> None:
    ticks = 0
    stored = io.BytesIO()
    worker = threading.Thread(target=encrypt, args=(io.BytesIO(bytes(64 << 20)), stored, [RECIPIENT]))
    worker.start()
    while worker.is_alive():
        ticks += 1
        worker.join(0.001)
    assert ticks > 5
