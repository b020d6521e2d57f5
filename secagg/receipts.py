"""Whose parts the owners have: what a survivor set is made from and checked against."""

from collections.abc import Sequence

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import Receipt
from secagg.parts import Cut


class Receipts:
    """The receipts of one session, whose vector is cut as `cut` says."""

    def __init__(self, cut: Cut) -> None:
        self._parts, self._dealers = cut.parts, cut.dealers
        self._chains = {part: cut.chain(part) for part in cut.parts}
        self._held: dict[tuple[int, PeerID], tuple[bytes, Receipt]] = {}

    def check(self, owner: PeerID, message: Receipt) -> None:
        """Raises MessageRefused unless this can be `owner`'s receipt for a part of this session."""
        senders = message.senders
        if message.part not in self._parts or owner not in self._dealers:
            raise MessageRefused(f"receipt: {owner} cannot own part {message.part}")
        if list(senders) != sorted(set(senders)) or not set(senders) <= set(self._dealers):
            raise MessageRefused("receipt: senders must be members that mask, each once, in order")
        if len(senders) != len(message.headers):
            raise MessageRefused("receipt: each sender needs the hash of its header")

    def add(self, owner: PeerID, raw: bytes, message: Receipt) -> bytes | None:
        """Keep a receipt; the one kept before, if that said something else."""
        self.check(owner, message)
        held, said = self._held.setdefault((message.part, owner), (raw, message))
        return held if said != message else None

    def candidates(self, late: bool) -> tuple[tuple[bytes, ...], tuple[PeerID, ...]]:
        """For each part its owner's receipt, and those whom all of them name; nothing if one lacks.

        `late`: take the first in the chain that has signed one. Before that an owner that is only slow
        could be pushed aside by a member that signs for what it does not have.
        """
        chosen: list[bytes] = []
        survivors = set(self._dealers)
        for part in self._parts:
            chain = self._chains[part] if late else self._chains[part][:1]
            owner = next((owner for owner in chain if (part, owner) in self._held), None)
            if owner is None:
                return (), ()
            raw, message = self._held[part, owner]
            chosen.append(raw)
            survivors &= set(message.senders)
        return tuple(chosen), tuple(sorted(survivors))

    def owners_of(
        self, survivors: Sequence[PeerID], receipts: Sequence[tuple[PeerID, Receipt]]
    ) -> dict[int, PeerID]:
        """The owner of each part. Raises MessageRefused if the receipts do not carry the survivor set."""
        if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(self._dealers):
            raise MessageRefused("survivor-set: survivors must be members that mask, each once, in order")
        if [message.part for _, message in receipts] != list(self._parts):
            raise MessageRefused("survivor-set: each part needs one receipt, in order")
        for owner, message in receipts:
            self.check(owner, message)
            if not set(survivors) <= set(message.senders):
                raise MessageRefused(
                    f"survivor-set: the receipt for part {message.part} does not name all survivors"
                )
        return {message.part: owner for owner, message in receipts}
