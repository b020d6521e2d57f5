"""Lies and their evidence, and what a session without lies leaves, for tests of evidence."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest

from proto.canonical import Message
from secagg.interface import SendPart, SendSum, Tell
from secagg.messages import (
    Evidence,
    Opening,
    Part,
    Receipt,
    Release,
    ShareList,
    ShareLists,
    SurvivorSet,
    chunk_hashes,
)
from tests.attacks.liars import (
    RULES,
    Hand,
    dealt_by,
    open_any,
    resigned,
    sends_nothing,
    without_last,
)
from tests.secagg.session_network import CHUNK, IDENTITIES, KEYS, Cell, advert_of
from verify.evidence import EvidenceRefused, PortableEvidence, examine, portable
from verify.record import Vote
from verify.statement import domain_of, sign

RUN = bytes(32)
N, GONE, LIAR = 5, 2, 4
STRANGER = IDENTITIES[N].peer_id


def look(hand: Hand, chunk: int = 0) -> Hand:
    """Everyone finds that its sum fails in this chunk, shows it, opens it and looks."""
    for peer in hand.peers:
        hand.cell.do(peer, hand.cell.sessions[peer].open_chunk(chunk, RULES.sane))
    hand.drain()
    return hand


def says(kind: type[Message], lie: Callable[[Message], list[Message]], place: int = LIAR) -> Hand:
    """A cell in which one member tells something else than its message of a kind."""
    hand = Hand(Cell(N), place)
    hand.says(hand.liars[0], kind, lambda to, message: lie(message))
    return hand


def deals(missing: bool = False, mute: bool = False, **lies: object) -> Hand:
    """A cell with a dealer that lies; `missing`: it does not survive; `mute`: it keeps its seed."""
    hand = Hand(Cell(N), LIAR)
    liar = hand.liars[0]
    hand.says(liar, ShareList, lambda to, message: [dealt_by(hand.cell, liar, **lies)])  # type: ignore[arg-type]
    if missing:
        sends_nothing(hand, liar)
    if mute:
        hand.loses(liar, Release)
    return hand


def two(**changes: object) -> Callable[[Message], list[Message]]:
    return lambda message: [message, message.model_copy(update=changes)]


def fewer_lists(message: Message) -> list[Message]:
    assert isinstance(message, ShareLists)
    return [message, message.model_copy(update={"lists": message.lists[:-1]})]


def fewer_senders(message: Message) -> list[Message]:
    assert isinstance(message, Receipt)
    fewer = {"senders": message.senders[:-1], "headers": message.headers[:-1]}
    return [message, message.model_copy(update=fewer)]


def other_share(message: Message) -> list[Message]:
    assert isinstance(message, Release)
    return [message.model_copy(update={"shares": (bytes(33), *message.shares[1:])})]


def two_parts() -> Hand:
    hand = Hand(Cell(N), LIAR)

    def again(sent: SendPart) -> list[SendPart]:
        data = sent.data + np.int16(1)
        header = Part(session=sent.session, part=sent.part, hashes=chunk_hashes(data, CHUNK))
        return [sent, replace(sent, header=sign(KEYS[hand.liars[0]], header), data=data)]

    hand.sends(hand.liars[0], SendPart, again)  # type: ignore[arg-type]
    return hand


def wrong_sum(missing: bool = False, secure: bool = True) -> Hand:
    hand = Hand(Cell(N, secure=secure), LIAR)
    if missing:
        sends_nothing(hand, hand.peers[GONE])
    hand.sends(
        hand.liars[0],
        SendSum,
        lambda sent: [resigned(sent, hand.liars[0], sent.data + np.int16(30_000))],  # type: ignore[list-item, arg-type]
    )
    hand.run()
    return look(hand, hand.session.cut.first(hand.session.cut.parts[-1]))


def garbage(missing: bool = False, opens: bool = True, secure: bool = True) -> Hand:
    """The last member's integers are wild in the last chunk, which is a short one."""
    cell = Cell(N, secure=secure)
    liar = cell.peers[LIAR]
    cell.sessions[liar].update[-3:] = cell.updates[liar][-3:] = 30_000
    hand = Hand(cell, LIAR)
    if missing:
        sends_nothing(hand, hand.peers[GONE])
    if not opens:
        hand.loses(liar, Opening)
    hand.run()
    return look(hand, hand.session.chunks - 1)


LIES: dict[str, tuple[str, Callable[[], Hand]]] = {
    "two lists": ("two lists", lambda: says(ShareLists, fewer_lists, 0)),
    "two sets": ("two sets", lambda: says(SurvivorSet, lambda m: [m, without_last(m)], 0)),
    "two parts": ("two parts", two_parts),
    "two receipts": ("two receipts", lambda: says(Receipt, fewer_senders)),
    "two releases": ("two releases", lambda: says(Release, two(survivor_set=bytes(32)))),
    "pair key": ("pair key", lambda: deals(roots={IDENTITIES[0].peer_id: bytes(32)})),
    "sealed garbage": ("dealing", lambda: deals(garbage=[IDENTITIES[0].peer_id])),
    "sealed other shares": ("dealing", lambda: deals(unmatched=[IDENTITIES[0].peer_id])),
    "dealt another seed": ("dealing", lambda: deals(mute=True, seed=bytes(32))),
    "dealt another mask key": ("dealing", lambda: deals(missing=True, mask=bytes([7]) * 32)),
    "dealt no polynomial": ("dealing", lambda: deals(mute=True, scattered=True)),
    "seed": ("seed", lambda: says(Release, lambda m: [m.model_copy(update={"seed": bytes(32)})])),
    "share": ("share", lambda: says(Release, other_share)),
    "sum": ("sum", wrong_sum),
    "sum without one dealer": ("sum", lambda: wrong_sum(missing=True)),
    "sum in a plain session": ("sum", lambda: wrong_sum(secure=False)),
    "garbage": ("garbage", garbage),
    "garbage without one dealer": ("garbage", lambda: garbage(missing=True)),
    "garbage by partners' keys": ("garbage", lambda: garbage(opens=False)),
    "garbage in a plain session": ("garbage", lambda: garbage(secure=False)),
}
"""Lies in a session: the kind of evidence that an honest member is left with, and a cell in which it does."""


@dataclass(frozen=True)
class Made:
    """A lie's evidence, from whichever honest member has it, and the session it is from."""

    hand: Hand
    evidence: PortableEvidence


@lru_cache(maxsize=64)
def made(lie: str) -> Made:
    kind, cell = LIES[lie]
    hand = cell()
    if not hand.cell.outcome:
        hand.run()
    found = [e for peer in hand.honest for e in hand.cell.sessions[peer].evidence if e.kind == kind]
    assert {one.against for one in found} == {hand.liars[0]}
    return Made(hand, portable(RUN, found[0]))


def outside(kind: str) -> PortableEvidence:
    """Evidence of what is not done in a session."""
    peer = IDENTITIES[0].peer_id
    vote = Vote(run=RUN, round=3, attempt=1, view=2, step=1, value=None)
    pairs: dict[str, list[Message]] = {
        "two votes": [vote, vote.model_copy(update={"value": bytes(32)})],
        "two heads": [advert_of(peer, head_size=9), advert_of(peer, head_size=9, head_root=b"\1" * 32)],
        "rewound": [advert_of(peer, head_size=9, round=4), advert_of(peer, head_size=8, round=5)],
    }
    statements = tuple(sign(KEYS[peer], message) for message in pairs[kind])
    return portable(RUN, Evidence(kind, peer, statements))


OUTSIDE = ["two votes", "two heads", "rewound"]
ALL = [*LIES, *OUTSIDE]


def evidence_of(name: str) -> PortableEvidence:
    return outside(name) if name in OUTSIDE else made(name).evidence


def refused(evidence: PortableEvidence) -> str:
    """Why it does not hold."""
    with pytest.raises(EvidenceRefused) as refusal:
        examine(evidence, RULES)
    return str(refusal.value)


def changed(evidence: PortableEvidence, **fields: object) -> PortableEvidence:
    return PortableEvidence.model_validate(evidence.model_dump() | fields)


@lru_cache(maxsize=4)
def honest(missing: bool = False, secure: bool = True, chunk: int = 0) -> Hand:
    """A cell without liars whose members show and open a chunk all the same."""
    hand = Hand(Cell(N, secure=secure))
    if missing:
        sends_nothing(hand, hand.peers[GONE])
    return look(hand.run(), chunk)


@lru_cache(maxsize=8)
def transcript(missing: bool = False, secure: bool = True, chunk: int = 0) -> dict[str, list[bytes]]:
    """Everything signed in such a cell, by kind."""
    hand = honest(missing, secure, chunk)
    raws = [raw for raw, _ in hand.session.adverts.values()]
    for _, effect in hand.emitted:
        match effect:
            case Tell(_, raw):
                raws.append(raw)
            case SendPart() | SendSum():
                raws.append(effect.header)
    for raw in list(raws):
        inner = open_any(raw)[1]
        raws += [*getattr(inner, "lists", ())] if isinstance(inner, ShareLists) else []
        raws += [*getattr(inner, "ready", ()), *getattr(inner, "receipts", ())]
    raws += [header for peer in hand.peers for header, _ in hand.cell.sessions[peer]._headers.values()]
    said: dict[str, list[bytes]] = {}
    for raw in sorted(set(raws)):
        said.setdefault(domain_of(raw), []).append(raw)
    return said
