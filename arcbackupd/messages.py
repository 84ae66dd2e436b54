"""The kinds of event that the journal's catalogue explains (``journalctl -x``).

Given as ``message_id=`` to a log call; the texts are in ``systemd/arcbackupd.catalog``. An id is for ever:
other people's alarms match on it, so a kind that is no longer logged leaves its id unused.
"""

from __future__ import annotations

from enum import StrEnum


class MessageId(StrEnum):
    """What happened, as journald's 128-bit ids."""

    DUMP_PUBLISHED = "b683261faba14cc69e435d6134f8d506"
    """fields: BACKUP, REASON, BYTES, DURATION_S"""

    DUMP_UNCHANGED = "875f01ca3f254fdfa7032404f6dd4fc2"
    """fields: BACKUP, REASON"""

    DUMP_FAILED = "5ccaa34e64f8448baff60f2d3ec36f01"
    """fields: REASON, HINT, ERROR_CODE"""

    DUMP_ANOMALY = "63e44bc051894981a508071bc9848132"
    """fields: BACKUP, HINT"""

    PRUNE_DONE = "f96e632e0e954c9e814f90045f51f997"

    PRUNE_FROZEN = "c83278b4b9eb48bba50547641da0f65b"
    """fields: HINT"""

    CONFIG_REJECTED = "494038f5505347f4a909da8782095268"
    """fields: HINT"""

    DAEMON_READY = "329b09b0eeb94680845479a4278a1399"

    DAEMON_STOPPING = "91a6bc2efcb0422d85927d73f84cfba1"

    SOCKET_RESTRICTED = "ef2c7d23f22748618f37dc044966569e"
    """fields: HINT"""

    RESTORE_DONE = "8dfbdadc54064b4d9b0056d807f4862c"
    """fields: BACKUP, REPLACED, DOWNTIME_S"""

    RESTORE_FAILED = "7e3f437c848c4d6899146cfd6c988db9"
    """fields: HINT, ERROR_CODE"""

    SNAPSHOT_FAILED = "7c64c05d5723452d9c84aae8e7e1c677"
    """fields: HINT, ERROR_CODE"""

    REPLACED_DROPPED = "398ed63a126d4f70b69f560bd2709e3b"

    BACKEND_NOT_HELD = "af7df9d5484448f5a41c5c1456722cea"
    """fields: HINT"""

    HOLD_TOO_LONG = "43f3457e857248c98c4baab6f036cdca"
    """fields: DURATION_S"""

    HOLD_STUCK = "5a37099790cb426db83277d33b68c2f7"
    """fields: HINT"""

    HOLD_LEFT_OVER = "0f5807453d174bb9a9f78103adfbe426"

    UPLOAD_DONE = "7fc9fa16b60a4aa9a697e06fe8e8bcd1"
    """fields: DESTINATION, BYTES"""

    UPLOAD_FAILED = "85be2e25ada4467da0d47e2291a9ce44"
    """fields: DESTINATION, HINT, ERROR_CODE"""

    DRILL_PROVED = "bcc3ba263b0244ea9c5f6b384c852853"
    """fields: BACKUP, BYTES, DURATION_S, LOAD_S"""

    DRILL_FAILED = "82ce32d9f6a246649bae22d1ccc514cf"
    """fields: BACKUP, HINT, ERROR_CODE"""

    BOOT_NOT_SEEN = "93dcf1e9c4b4480c9c65d523e2139d11"
    """fields: HINT"""

    ALARM_UNDELIVERED = "88aa81ef11a44fcbaee47f6a43e7ef3e"
    """fields: ALARM, HINT, ERROR_CODE"""

    METRICS_NOT_WRITTEN = "0191edc84f6f4269a2b1ff5dcb5533b3"
    """fields: HINT"""
