"""What counts where a quorum speaks."""

from collections.abc import Sequence

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import Advert, SetVote, seed_commitment


def check_quorum(what: str, signers: Sequence[PeerID], minimum: int) -> None:
    """Raises MessageRefused unless so many members signed, each once and in order."""
    if len(signers) < minimum or list(signers) != sorted(set(signers)):
        raise MessageRefused(f"{what}: {len(signers)} signatures in order, {minimum} are needed")


def check_vote(sender: PeerID, advert: Advert, vote: SetVote, survivor_set: bytes, masked: bool) -> None:
    """Raises MessageRefused unless this is a vote for that set, with a seed where nothing is masked."""
    if vote.survivor_set != survivor_set:
        raise MessageRefused("set-vote: for another survivor set")
    if (vote.seed is None) != masked:
        raise MessageRefused("set-vote: seeds are shown in plain sessions only")
    if vote.seed is not None and seed_commitment(vote.seed) != advert.seed_commitment:
        raise MessageRefused(f"set-vote: {sender} reveals a seed its advert did not commit to")
