"""A ledger of many rounds without the training: every message is real, signed, and follows from the others.

Only what a ledger does not show is made up: losses, commitments, shares of secrets and hashes of sums.
"""

import hashlib
import json
from pathlib import Path

from proto.canonical import PeerID
from proto.merkle import EMPTY_ROOT
from secagg.keys import beacon_share
from secagg.messages import (
    SHARE_BYTES,
    Advert,
    FinalSet,
    PartSum,
    Receipt,
    Release,
    SetVote,
    SurvivorSet,
    seed_commitment,
    session_id,
)
from swarm.manifest import Manifest, parse_manifest
from swarm.rules import terms
from verify.carrying import median, union_of_statements
from verify.identity import Identity
from verify.ledger import Ledger
from verify.lottery import attempt_seed, draw_checks, in_turn, session_beacon
from verify.record import Decided, Genesis, History, Record, Vote, run_id
from verify.sketch import WIDTH
from verify.standing import Verdict
from verify.statement import sign

CHUNKS = 8
WEIGHT = 4


class SyntheticRun:
    """A run of `peers`, whose first one's ledger `ledger` grows by a round with each `add_round`."""

    def __init__(self, peers: int, directory: Path) -> None:
        self.identities = {one.peer_id: one for one in map(_identity, range(peers))}
        self.members = sorted(self.identities)
        self.author = self.members[0]
        text = f"[run]\nfounding_peers = {json.dumps(self.members[1:])}\n".encode()
        self.manifest: Manifest = parse_manifest(text)
        genesis = sign(self.identities[self.author], self._genesis(text))
        self.run = run_id(genesis)
        self.history = History.begin(genesis, self.run)
        self.ledger = Ledger(directory / "ledger.sqlite", self.author, self.run)
        self.ledger.append([("genesis", genesis)])
        self._head = (0, EMPTY_ROOT)
        self._verdicts: list[bytes] = []

    def _genesis(self, text: bytes) -> Genesis:
        return terms(self.manifest, text, self.author, _noise("snapshot"), bytes(32), 0)

    def add_round(self) -> None:
        """Log one more round."""
        history, members = self.history, self.members
        round_ = history.round + 1
        seeds = {peer: _noise("seed", round_, peer) for peer in members}
        adverts = {peer: self._advert(peer, round_, seeds[peer]) for peer in members}
        signed = {peer: sign(self.identities[peer], advert) for peer, advert in adverts.items()}
        session = session_id(adverts[self.author], list(signed.values()))
        proposer = in_turn(attempt_seed(history.beacon, round_, 0, "survivor-set"), members)[0]
        agreed = self._survivor_set(session)
        votes = []
        for peer in members:
            vote = SetVote(
                session=session, survivor_set=agreed.digest(), seed=None, statements=tuple(self._verdicts)
            )
            votes.append(sign(self.identities[peer], vote))
        chosen = self.identities[proposer]
        final = FinalSet(
            session=session,
            survivor_set=agreed.digest(),
            proposal=sign(chosen, agreed),
            votes=tuple(votes),
        )
        beacon = session_beacon(session, agreed.digest(), [beacon_share(seeds[peer]) for peer in members])
        entries = [("advert", signed[peer]) for peer in members]
        entries.append(("final-set", sign(chosen, final)))
        for at, peer in enumerate(members):
            share = _noise("share", round_, peer) + b"\0" * (SHARE_BYTES - 32)
            release = Release(
                session=session,
                survivor_set=agreed.digest(),
                seed=seeds[peer],
                shares=(share,) * len(members),
            )
            entries.append(("release", sign(self.identities[peer], release)))
            hashes = (_noise("sum", round_, peer),) * (CHUNKS // len(members))
            said = PartSum(session=session, part=at, survivor_set=agreed.digest(), hashes=hashes)
            entries.append(("part-sum", sign(self.identities[peer], said)))
        decided = self._decide(adverts, session, beacon)
        entries.sort(key=lambda entry: ("advert", "final-set", "release", "part-sum").index(entry[0]))
        self.ledger.append([*entries, ("decided", decided)])
        self._head = self.ledger.head()
        self.history = history.extend(decided)
        self._check(session, beacon)

    def _advert(self, peer: PeerID, round_: int, seed: bytes) -> Advert:
        return Advert(
            run=self.run,
            round=round_,
            attempt=0,
            shard=0,
            snapshot=self.history.snapshot,
            sequence=1,
            weight=WEIGHT,
            tokens=WEIGHT * 128,
            commitment=_noise("commitment", round_, peer),
            seed_commitment=seed_commitment(seed),
            loss=3_000_000,
            heldout=3_000_000,
            seal_key=_noise("seal", round_, peer),
            mask_key=_noise("mask", round_, peer),
            accused=(),
            data_root=None,
            data_count=10_000,
            head_size=self._head[0],
            head_root=self._head[1],
            energy=None,
            chains=(),
        )

    def _survivor_set(self, session: bytes) -> SurvivorSet:
        senders = tuple(self.members)
        receipts = []
        for part, owner in enumerate(self.members):
            headers = tuple(_noise("header", part, sender) for sender in senders)
            receipt = Receipt(session=session, part=part, senders=senders, headers=headers)
            receipts.append(sign(self.identities[owner], receipt))
        return SurvivorSet(session=session, survivors=senders, receipts=tuple(receipts))

    def _decide(self, adverts: dict[PeerID, Advert], session: bytes, beacon: bytes) -> bytes:
        history, said = self.history, list(adverts.values())
        record = Record(
            run=self.run,
            round=history.round + 1,
            attempt=0,
            previous=history.head,
            snapshot=_noise("snapshot", history.round + 1),
            session=session,
            survivors=tuple(self.members),
            weights=tuple(advert.weight for advert in said),
            tokens=sum(advert.tokens for advert in said),
            loss=sum(advert.loss * advert.weight for advert in said) // (WEIGHT * len(said)),
            heldout=median([advert.heldout for advert in said]),
            beacon=beacon,
            data=(),
            heads=tuple((peer, *self._head) for peer in self.members),
            energy=(),
            cells=(),
            statements=union_of_statements(history, [self._verdicts]),
        )
        vote = Vote(run=self.run, round=record.round, attempt=0, view=0, step=1, value=record.digest())
        votes = tuple(sign(one, vote) for one in self.identities.values())
        decided = Decided(round=record.round, attempt=0, recovery=False, body=record.encode(), votes=votes)
        return decided.encode()

    def _check(self, session: bytes, beacon: bytes) -> None:
        """The verdicts of this session's drawn checkers go into the next record."""
        given = self.manifest.verification
        weights = dict.fromkeys(self.members, WEIGHT)
        self._verdicts = []
        for draw in draw_checks(beacon, weights, CHUNKS, given.rate, given.chunk_fraction):
            verdict = Verdict(
                run=self.run,
                round=self.history.round,
                session=session,
                checked=draw.checked,
                slice=0,
                outcome="clean",
                sketch=(0,) * WIDTH,
            )
            self._verdicts.append(sign(self.identities[draw.checkers[0]], verdict))
        self._verdicts.sort()


def _identity(number: int) -> Identity:
    return Identity.from_seed(hashlib.sha256(b"synthetic" + bytes([number])).digest())


def _noise(*what: object) -> bytes:
    """32 bytes that nothing is known of."""
    return hashlib.sha256(repr(what).encode()).digest()
