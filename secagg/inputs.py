"""What an owner holds: every member's (masked) part, kept apart until the survivor set is final."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import Part


@dataclass(frozen=True)
class Input:
    """One member's part: its signed header, the name of the Part in it, and the (masked) integers."""

    header: bytes
    name: bytes
    data: np.ndarray


class Inputs:
    """The parts that came to this member. A part is closed once its receipt is signed."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, PeerID], Input] = {}
        self._unchecked: dict[tuple[int, PeerID], Input] = {}
        self._closed: set[int] = set()
        self._all_closed = False

    def other_header(self, part: int, sender: PeerID, header: bytes) -> bytes | None:
        """A header of the same sender for the same part, if it sent another than this."""
        held = (self._held | self._unchecked).get((part, sender))
        return held.header if held is not None and held.header != header else None

    def has(self, part: int, sender: PeerID) -> bool:
        """Whether this sender's part is here, checked or not."""
        return (part, sender) in self._held or (part, sender) in self._unchecked

    def check_header(self, part: int, sender: PeerID, header: bytes, spare: int) -> None:
        """Raises MessageRefused for a part that cannot count; one that was sent again can.

        `spare`: parts of one sender beyond its first that this member stands in for, as many as may be gone.
        """
        if self.other_header(part, sender, header) is not None:
            raise MessageRefused(f"part: {sender} sent two different parts {part}")
        if self.has(part, sender):
            return
        self.check_open(part)
        if sum(peer == sender for _, peer in [*self._held, *self._unchecked]) > spare:
            raise MessageRefused(f"part: {sender} sent more parts than this member can stand in for")

    def check_open(self, part: int) -> None:
        """Raises MessageRefused if no further input of this part can count."""
        if self._all_closed or part in self._closed:
            raise MessageRefused(f"part: the receipt for part {part} is out, inputs are closed")

    def put(self, sender: PeerID, header: bytes, message: Part, data: np.ndarray) -> None:
        """Take a part whose data are still to be checked against its signed header, which holds `message`."""
        self._unchecked[message.part, sender] = Input(header, message.digest(), data)

    def checked(self, part: int, sender: PeerID, holds: bool) -> int:
        """Keep it or drop it; how many hold by now. Raises MessageRefused if it does not, or is too late."""
        held = self._unchecked.pop((part, sender), None)
        self.check_open(part)
        if held is None or not holds:
            raise MessageRefused(f"part: {sender}'s data are not those of its signed header")
        self._held[part, sender] = held
        return sum(number == part for number, _ in self._held)

    def close(self, part: int) -> tuple[tuple[PeerID, ...], tuple[bytes, ...]]:
        """The senders whose part is here, sorted, and their headers' digests; nothing if closed before."""
        if self._all_closed or part in self._closed:
            return (), ()
        self._closed.add(part)
        senders = sorted(sender for number, sender in self._held if number == part)
        return tuple(senders), tuple(self._held[part, sender].name for sender in senders)

    def take(self, part: int, survivors: Sequence[PeerID]) -> list[np.ndarray]:
        """The survivors' parts. Raises MessageRefused if one is not here."""
        for survivor in survivors:
            if (part, survivor) not in self._held:
                raise MessageRefused(f"part: this owner lacks part {part} of {survivor}")
        return [self._held[part, survivor].data for survivor in survivors]

    def drop(self) -> None:
        """Let go of everything."""
        self._all_closed = True
        self._held.clear()
        self._unchecked.clear()
