"""Long inputs from short ones: what is slow or large only at length shows, and its seed stays small."""

from __future__ import annotations

import re

limit = 3 << 19
"""Bytes that an input grows to at most: past the longest piece that any reader here keeps, which is a megabyte."""
_PUMP = re.compile(rb"\x01(.)([^\x01]*)\x01", re.DOTALL)


def pumped(data: bytes) -> bytes:
    """The data with the piece of each ``\\x01 letter piece \\x01`` doubled: twice for a, four times for b …"""
    room = limit

    def grow(match: re.Match[bytes]) -> bytes:
        nonlocal room
        piece, doublings = match[2], (match[1][0] - ord("a") + 1) % 21
        grown = piece * min(1 << doublings, room // max(1, len(piece)))
        room -= len(grown)
        return grown

    return _PUMP.sub(grow, data)
