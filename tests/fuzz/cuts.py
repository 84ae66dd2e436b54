"""The same bytes in pieces: a reader of a stream must not care where its blocks are cut."""

from __future__ import annotations

import random
import zlib
from itertools import pairwise

_BYTE_BY_BYTE = 100


def pieces(text: bytes) -> list[bytes]:
    """The text in pieces: single bytes of a short one, cut at some places of a long one; always the same ones."""
    if len(text) <= _BYTE_BY_BYTE:
        return [text[i : i + 1] for i in range(len(text))]
    chance = random.Random(zlib.crc32(text))
    places = sorted(chance.randrange(len(text)) for _ in range(chance.randrange(1, 12)))
    return [text[start:end] for start, end in pairwise([0, *places, len(text)])]
