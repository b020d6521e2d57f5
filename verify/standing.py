"""What checks have shown of each peer, and what follows: strikes and bans, a pure function of the records.

Members say two things of each other, signed, and records carry both:

    Verdict     a drawn checker's outcome: "clean", "wrong" (its evidence is told apart), "silent"
    Judgement   a member's finding on a piece of evidence, which it has examined itself

The promise: no c members can have anybody banned or struck, whatever they sign, and no c members can keep the
others from it. Evidence bans once more than c members found that it holds; where more than c found that it
does not, those who said it held are banned instead: an accusation costs its author what it would have cost
the accused. A silent peer is struck when more than c members could not make it answer, in more
sessions than one outage costs, while it took part; the manifest says how many strikes ban. A checker whose
sketches more than c others contradict, each having computed the same slice, has not computed what it signs:
it is banned too. A banned key stays banned.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field

from proto.canonical import Count, Digest, Message, PeerID
from proto.errors import MessageRefused
from verify.sketch import Sketch, agree

LIFETIME = 64
"""Records after which a verdict or judgement no longer counts."""
STRIKE_LIFETIME = 8 * LIFETIME
OUTAGE = 2
"""Sessions whose openings a peer loses when it is killed once."""
MOST_OPEN = 8
"""Charges that one member may have judged and nobody else has."""
SILENCE = "silence"
CONTRADICTED = "contradicted checks"
FALSE_ACCUSATION = "false accusation"

COMPUTED_AGAIN = {"update", "boundary"}
"""Evidence that only who holds the same shard can judge."""

K = TypeVar("K")
Kind = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z ]+$")]


class Verdict(Message):
    """What a drawn checker found of a session's work, or of a slice of a trial (`session` names it).

    `slice`: the drawn one. `sketch`: of what it computed itself, signed to the checked peer before it saw the
    other's; None where it came to no result.
    """

    DOMAIN: ClassVar[str] = "verdict"

    run: Digest
    round: Count  # the last record the checker has seen
    session: Digest
    checked: PeerID
    slice: Count
    outcome: Literal["clean", "wrong", "silent", "unclear"]
    sketch: Sketch | None


class Judgement(Message):
    """What a member finds of a piece of evidence: whether it holds."""

    DOMAIN: ClassVar[str] = "judgement"

    run: Digest
    round: Count  # the last record the member has seen
    evidence: Digest
    kind: Kind
    against: PeerID
    holds: bool


@dataclass(frozen=True)
class Ban:
    """Why a key is refused: since which record, for what, on which evidence (32 bytes; zeros: silence)."""

    round: int
    reason: str
    evidence: bytes

    def json(self, peer: PeerID) -> dict[str, str | int]:
        """As commands tell it: peer_id, round, reason, evidence in hex."""
        return {
            "peer_id": peer,
            "round": self.round,
            "reason": self.reason,
            "evidence": self.evidence.hex(),
        }


Complaint = tuple[PeerID, bytes]
"""Who could not make a peer answer, and in which session."""
Looked = tuple[bytes, PeerID]
"""A session, and whose work in it."""
Claim = tuple[PeerID, int, tuple[int, ...]]
"""Who computed it, in which record it says so, and the sketch."""
Charge = tuple[bytes, str, PeerID]
"""What is judged: evidence, its kind, and whom it is against."""


@dataclass(frozen=True)
class Tally:
    """What members found of one charge."""

    since: int
    found: Mapping[PeerID, bool]

    def saying(self, holds: bool) -> set[PeerID]:
        return {peer for peer, said in self.found.items() if said == holds}


@dataclass(frozen=True)
class Conduct:
    """What the records say so far. `after` gives the next value; nothing else changes it."""

    bans: Mapping[PeerID, Ban] = field(default_factory=lambda: MappingProxyType({}))
    strikes: Mapping[PeerID, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    passed: Mapping[PeerID, int] = field(default_factory=lambda: MappingProxyType({}))
    judged: Mapping[Charge, Tally] = field(default_factory=lambda: MappingProxyType({}))
    settled: Mapping[Charge, int] = field(default_factory=lambda: MappingProxyType({}))
    complaints: Mapping[PeerID, Mapping[Complaint, int]] = field(default_factory=lambda: MappingProxyType({}))
    seen: Mapping[tuple[PeerID, bytes, PeerID], int] = field(default_factory=lambda: MappingProxyType({}))
    computed: Mapping[Looked, tuple[Claim, ...]] = field(default_factory=lambda: MappingProxyType({}))
    contradicted: Mapping[PeerID, Mapping[PeerID, int]] = field(default_factory=lambda: MappingProxyType({}))

    def check_verdict(self, signer: PeerID, verdict: Verdict) -> None:
        """Raises MessageRefused for one that was counted before, or of oneself."""
        if signer == verdict.checked:
            raise MessageRefused("verdict: nobody checks itself")
        if verdict.outcome == "clean" and verdict.sketch is None:
            raise MessageRefused(f"verdict: {signer} finds clean what it has no sketch of")
        if verdict.outcome == "silent" and verdict.sketch is not None:
            raise MessageRefused(f"verdict: {signer} computed what it had no answer about")
        if (signer, verdict.session, verdict.checked) in self.seen:
            raise MessageRefused(f"verdict: {signer} said one of {verdict.checked} in that session before")

    def check_judgement(self, signer: PeerID, judgement: Judgement) -> None:
        """Raises MessageRefused for one that was counted before, or one too many."""
        if charge_of(judgement) in self.settled:
            raise MessageRefused(f"judgement: {judgement.evidence.hex()} was settled before")
        tally = self.judged.get(charge_of(judgement))
        if tally is None:
            alone = sum(set(other.found) == {signer} for other in self.judged.values())
            if alone >= MOST_OPEN:
                raise MessageRefused(
                    f"judgement: {signer} stands alone with {alone}, at most {MOST_OPEN} may be so"
                )
        elif signer in tally.found:
            raise MessageRefused(f"judgement: {signer} has judged this before")

    def after(
        self,
        round_: int,
        verdicts: Iterable[tuple[PeerID, Verdict]],
        judgements: Iterable[tuple[PeerID, Judgement]],
        present: Iterable[PeerID],
        sessions: Collection[bytes],
        roster: Collection[PeerID],
        may_collude: Callable[[PeerID | None], int],
        strikes: int,
    ) -> "Conduct":
        """The next value, at record `round_`. `present`: its survivors. All statements are admissible.

        `sessions`: of late records; what was passed in others is not counted. Only what members of `roster`
        said counts: one seat is one voice, however many keys sat in it.
        `may_collude`: members that may lie together, of all (None) or of those who can compute what a peer
        does; one more must agree, at least two, however small the roster.
        """

        def enough(peer: PeerID | None = None) -> int:
            return max(2, may_collude(peer) + 1)

        bans, passed, seen = dict(self.bans), dict(self.passed), _recent(self.seen, round_)
        complaints = {peer: _recent(said, round_) for peer, said in self.complaints.items()}
        here, seats = set(present), set(roster)
        computed = {
            subject: claims for subject, claims in self.computed.items() if claims[0][1] > round_ - LIFETIME
        }
        contradicted = {
            peer: {other: at for other, at in by.items() if at > round_ - STRIKE_LIFETIME}
            for peer, by in self.contradicted.items()
        }
        struck = {
            peer: tuple(at for at in rounds if at > round_ - STRIKE_LIFETIME)
            for peer, rounds in self.strikes.items()
        }
        for signer, verdict in verdicts:
            peer = verdict.checked
            seen[signer, verdict.session, peer] = round_
            if verdict.outcome == "clean" and verdict.session in sessions:
                passed[peer] = passed.get(peer, 0) + 1
            elif verdict.outcome == "silent" and verdict.round >= max(struck.get(peer, ()), default=0):
                complaints.setdefault(peer, {})[signer, verdict.session] = round_
            if verdict.sketch is not None and verdict.session in sessions:
                claims = computed.get((verdict.session, peer), ())
                for other, _, theirs in claims:
                    if not agree(verdict.sketch, theirs):
                        contradicted.setdefault(signer, {})[other] = round_
                        contradicted.setdefault(other, {})[signer] = round_
                computed[verdict.session, peer] = (*claims, (signer, round_, verdict.sketch))
        for peer, by in contradicted.items():
            if len(by.keys() & seats) >= enough(peer):
                bans.setdefault(peer, Ban(round_, CONTRADICTED, bytes(32)))
        for peer, said in complaints.items():
            signers = {signer for signer, _ in said} & seats
            sessions_of = {session for signer, session in said if signer in seats}
            # One outage loses two sessions, and is no strike; it is there again, and still answers nobody.
            if peer in here and len(signers) >= enough(peer) and len(sessions_of) > OUTAGE:
                struck[peer] = (*struck.get(peer, ()), round_)
                complaints[peer] = {}
                if len(struck[peer]) >= strikes:
                    bans.setdefault(peer, Ban(round_, SILENCE, bytes(32)))
        judged = {charge: tally for charge, tally in self.judged.items() if tally.since > round_ - LIFETIME}
        for signer, one in judgements:
            tally = judged.get(charge_of(one), Tally(round_, {}))
            judged[charge_of(one)] = replace(tally, found={**tally.found, signer: one.holds})
        settled = _recent(self.settled, round_)
        for charge, tally in list(judged.items()):
            name, kind, against = charge
            upheld, denied = (tally.saying(holds) & seats for holds in (True, False))
            needed = enough(against if kind in COMPUTED_AGAIN else None)
            if len(upheld) >= needed:
                bans.setdefault(against, Ban(round_, kind, name))
            elif len(denied) >= needed:
                for liar in tally.saying(True):
                    bans.setdefault(liar, Ban(round_, FALSE_ACCUSATION, name))
            else:
                continue
            settled[charge] = round_
            del judged[charge]
        open_complaints = {peer: said for peer, said in complaints.items() if said}
        open_contradictions = {peer: by for peer, by in contradicted.items() if by}
        return Conduct(
            bans, struck, passed, judged, settled, open_complaints, seen, computed, open_contradictions
        )


def charge_of(judgement: Judgement) -> Charge:
    """What a judgement is about."""
    return judgement.evidence, judgement.kind, judgement.against


def _recent(said: Mapping[K, int], round_: int) -> dict[K, int]:
    return {key: at for key, at in said.items() if at > round_ - LIFETIME}
