"""Statements on their way into a record: one for each subject, as long as the history admits it."""

import itertools

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import MAX_STATEMENT
from verify.carrying import binds, in_fair_order
from verify.record import MOST_CARRIED, MOST_OF_ONE, History, Join, Subject

MOST_JOINS = 256
"""Joins that are kept, at most: anyone may hand one in."""
CARRIED_BYTES = 24_576
"""Bytes of statements that a set vote carries, at most."""


class Carried:
    """What this peer wants in the next record. Refusals are raised, or counted where nobody asked."""

    def __init__(self) -> None:
        self._kept: dict[Subject, bytes] = {}

    def take(self, raw: bytes, history: History) -> bool:
        """Keep a statement; whether nothing on its subject was kept before. Raises MessageRefused."""
        subject = history.subject(raw)
        if subject not in self._kept and self._full(subject, history):
            raise MessageRefused("statement: no room; try again after the next record")
        if len(raw) > MAX_STATEMENT:
            raise MessageRefused(f"statement: {len(raw)} bytes, a record carries at most {MAX_STATEMENT}")
        kept = self._kept.get(subject)
        if kept is None or not binds(kept):
            self._kept[subject] = raw
        return kept is None

    def admissible(self, history: History) -> list[bytes]:
        """What the next record may carry, as much as a vote holds; joins no more than a record takes."""
        self._forget(history)
        chosen = in_fair_order(history, self._kept)
        total = itertools.accumulate(map(len, chosen))
        return [raw for raw, end in zip(chosen, total, strict=True) if end <= CARRIED_BYTES][:MOST_CARRIED]

    def waiting(self, history: History) -> list[PeerID]:
        """Peers that asked to join and are not in the roster yet."""
        self._forget(history)
        return sorted(peer for domain, peer, *_ in self._kept if domain == Join.DOMAIN)

    def _forget(self, history: History) -> None:
        """Let go of what is carried by now, or out of date."""
        for subject, raw in list(self._kept.items()):
            try:
                history.subject(raw)
            except MessageRefused:
                del self._kept[subject]

    def _full(self, subject: Subject, history: History) -> bool:
        domain, signer, *_ = subject
        alike = [other for other in self._kept if other[0] == domain]
        if domain == Join.DOMAIN:  # strangers keep no former member out
            return len(alike) >= MOST_JOINS and signer not in history.proved
        return sum(other[1] == signer for other in alike) >= MOST_OF_ONE
