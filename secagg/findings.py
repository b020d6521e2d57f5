"""The evidence that a session comes upon."""

from collections.abc import Iterable
from dataclasses import replace

from proto.canonical import PeerID
from secagg.messages import Evidence


class Findings:
    """Adds to `evidence`, one piece of a kind a member: that bounds what it can make others keep.

    Each piece gets the session's signed `adverts`, without which a stranger cannot tell what the statements
    belong to.
    """

    def __init__(self, evidence: list[Evidence], adverts: Iterable[bytes]) -> None:
        self._evidence, self._adverts = evidence, tuple(sorted(adverts))
        self._kept: set[tuple[str, PeerID]] = set()

    def keep(self, found: Evidence) -> None:
        """Keep a piece, if it is the first of its kind against that member."""
        if (found.kind, found.against) not in self._kept:
            self._kept.add((found.kind, found.against))
            self._evidence.append(replace(found, adverts=self._adverts))

    def convict(self, kind: str, member: PeerID, first: bytes, second: bytes) -> None:
        """Keep two statements of a member that contradict each other."""
        self.keep(Evidence(kind, member, (first, second)))
