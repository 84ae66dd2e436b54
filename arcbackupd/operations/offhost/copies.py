"""Which dumps are where, as of the last look at each destination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.operations.offhost.dumps import StoredDump, stored_dumps
from arcbackupd.operations.offhost.sending import Place

Copy = tuple[Place, StoredDump]


class Copies:
    """Looked up once, from what is remembered; asks no destination."""

    def __init__(self, places: Iterable[Place], prefix: str) -> None:
        self._by_name: dict[str, list[Copy]] = defaultdict(list)
        self._by_content: dict[str, set[str]] = defaultdict(set)
        for place in places:
            for dump in stored_dumps(place.memory, prefix):
                self._by_name[str(dump.name)].append((place, dump))
                if dump.manifest:
                    self._by_content[dump.manifest.content_sha256].add(place.name)

    def of(self, name: str) -> list[Copy]:
        """The copies of that name."""
        return self._by_name.get(name, [])

    def where(self, backup: Backup) -> tuple[str, ...]:
        """The destinations that have a backup's content, under its name or another's."""
        named = {
            place.name
            for place, dump in self.of(backup.name)
            if not (dump.manifest and backup.content) or dump.manifest.content_sha256 == backup.content
        }
        return tuple(sorted(named | self._by_content.get(backup.content or "", set())))

    def only_there(self, here: Container[str]) -> list[Backup]:
        """The dumps under none of those names here; of several copies the one that is best known."""
        return [
            min((dump for _, dump in copies), key=lambda dump: dump.manifest is None).backup
            for name, copies in self._by_name.items()
            if name not in here
        ]
