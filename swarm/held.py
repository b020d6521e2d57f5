"""Statements that came before they could be understood: kept a while, a bounded share for each sender."""

from collections.abc import Iterator

from proto.canonical import PeerID

HELD = 256
"""Statements, at most."""
HELD_BYTES = 64 << 20


class Held:
    """What came early, in order."""

    def __init__(self) -> None:
        self._kept: list[tuple[PeerID, bytes]] = []

    def keep(self, sender: PeerID, raw: bytes, members: int) -> None:
        """Keep a statement if its sender, one of `members`, has not had its share of the room."""
        sizes = [len(held) for peer, held in self._kept if peer == sender]
        if len(sizes) < HELD // members and sum(sizes) + len(raw) <= HELD_BYTES // members:
            self._kept.append((sender, raw))

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[tuple[PeerID, bytes]]:
        return iter(self._kept)

    def take(self) -> list[tuple[PeerID, bytes]]:
        """All of it; nothing is kept."""
        kept, self._kept = self._kept, []
        return kept
