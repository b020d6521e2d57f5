"""The proposer's side of a session: it gathers what members say, and proposes once that is enough.

It has no power over what is summed: what it proposes is signed by a quorum before it counts, and
whoever signs has checked it. Withholding costs the attempt; the next has another proposer.
"""

from collections.abc import Collection

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import FinalSet, ReadySet, ShareLists, SurvivorSet
from secagg.parts import Cut
from secagg.receipts import Receipts


class TooFew(MessageRefused):
    """Time is up, and fewer members than needed have said what they should."""


class Proposer:
    """What one proposer has gathered. `minimum`: members without whom nothing is proposed."""

    def __init__(self, session: bytes, minimum: int) -> None:
        self.session, self.minimum = session, minimum
        self.lists: dict[PeerID, bytes] = {}
        self.ready: dict[PeerID, bytes] = {}
        self.votes: dict[PeerID, bytes] = {}
        self.receipts = Receipts(Cut(0, (), (), 1))
        self.proposal: tuple[bytes, SurvivorSet] | None = None

    def share_lists(self) -> ShareLists:
        """The lists that came. Raises TooFew."""
        return ShareLists(session=self.session, lists=self._enough(self.lists, "dealt shares"))

    def ready_set(self) -> ReadySet:
        """The members that are ready: whoever is missing here masks nothing. Raises TooFew."""
        return ReadySet(session=self.session, ready=self._enough(self.ready, "are ready"))

    def survivor_set(self, late: bool) -> SurvivorSet:
        """Those whose every part has arrived, and the receipts; `late` as in Receipts. Raises TooFew."""
        receipts, survivors = self.receipts.candidates(late)
        self._check(len(survivors), "have delivered all parts")
        return SurvivorSet(session=self.session, survivors=survivors, receipts=receipts)

    def final_set(self) -> FinalSet:
        """The votes for the proposal. Raises TooFew."""
        assert self.proposal is not None
        raw, proposed = self.proposal
        votes = self._enough(self.votes, "signed the survivor set")
        return FinalSet(session=self.session, survivor_set=proposed.digest(), proposal=raw, votes=votes)

    def _enough(self, said: dict[PeerID, bytes], what: str) -> tuple[bytes, ...]:
        self._check(len(said), what)
        return tuple(said[member] for member in sorted(said))

    def _check(self, count: int, what: str) -> None:
        if count < self.minimum:
            raise TooFew(f"{count} members {what}, {self.minimum} are needed")


def all_of(said: dict[PeerID, bytes], members: Collection[PeerID]) -> bool:
    """Whether all of these have said it."""
    return said.keys() >= set(members)
