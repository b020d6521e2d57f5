"""A small signed chain for tests: genesis, records, voids and recoveries by members one holds the keys of."""

from collections.abc import Iterable, Sequence
from typing import Any

from proto.canonical import Message, PeerID
from verify.identity import Identity
from verify.record import Decided, Genesis, Goodbye, History, Join, Record, Recovery, Vote, void_value
from verify.statement import sign

KEYS = {
    identity.peer_id: identity
    for identity in sorted(
        (Identity.from_seed(bytes([50, index]) + bytes(30)) for index in range(40)), key=lambda i: i.peer_id
    )
}
PEERS = list(KEYS)


def genesis_of(members: Sequence[PeerID], **changes: object) -> Genesis:
    fields: dict[str, object] = {
        "manifest": b"m",
        "snapshot": bytes([7]) * 32,
        "shards": (),
        "data": bytes(32),
        "founder": members[0],
        "members": tuple(members),
        "stewards": tuple(members[:1]),
        "recovery_threshold": 1,
        "suspend_after": 3,
        "strikes": 3,
        "probation_checks": 0,
        "largest_cell": 8,
        "invited": False,
        "created": 0,
    }
    return Genesis.model_validate(fields | changes)


def begin(size: int, **changes: object) -> History:
    genesis = genesis_of(PEERS[:size], **changes)
    return History.begin(sign(KEYS[genesis.founder], genesis))


def record_after(history: History, **changes: object) -> Record:
    survivors = changes.get("survivors", history.members)
    fields: dict[str, object] = {
        "run": history.run,
        "round": history.round + 1,
        "attempt": 0,
        "previous": history.head,
        "snapshot": bytes([history.round + 1]) * 32,
        "session": bytes(32),
        "survivors": survivors,
        "weights": (1,) * len(survivors),  # type: ignore[arg-type]
        "tokens": 1,
        "loss": 1,
        "heldout": 1,
        "beacon": bytes([history.round + 1]) * 32,
        "data": (),
        "heads": tuple((peer, 0, bytes(32)) for peer in survivors),  # type: ignore[attr-defined]
        "energy": (),
        "cells": (),
        "statements": (),
    }
    return Record.model_validate(fields | changes)


def votes_for(
    history: History, round_: int, attempt: int, value: bytes, voters: Iterable[PeerID], view: int = 0
) -> tuple[bytes, ...]:
    vote = Vote(run=history.run, round=round_, attempt=attempt, view=view, step=1, value=value)
    return tuple(sign(KEYS[peer], vote) for peer in voters)


def decided(history: History, record: Record, voters: Iterable[PeerID] | None = None) -> bytes:
    voters = history.members[: history.quorum] if voters is None else voters
    votes = votes_for(history, record.round, record.attempt, record.digest(), voters)
    return Decided(
        round=record.round, attempt=record.attempt, recovery=False, body=record.encode(), votes=votes
    ).encode()


def void(history: History, attempt: int = 0, voters: Iterable[PeerID] | None = None) -> bytes:
    voters = history.members[: history.quorum] if voters is None else voters
    value = void_value(history.run, history.round + 1, attempt)
    votes = votes_for(history, history.round + 1, attempt, value, voters)
    return Decided(round=history.round + 1, attempt=attempt, recovery=False, body=b"", votes=votes).encode()


def recovery(
    history: History, members: Sequence[PeerID], signers: Sequence[PeerID], **changes: object
) -> bytes:
    message = Recovery(
        run=history.run, round=history.round + 1, previous=history.head, members=tuple(members), shards=()
    )
    fields: dict[str, object] = {
        "round": message.round,
        "attempt": 0,
        "recovery": True,
        "body": message.encode(),
        "votes": tuple(sign(KEYS[peer], message) for peer in signers),
    }
    return Decided.model_validate(fields | changes).encode()


def said(peer: PeerID, message: Message) -> bytes:
    return sign(KEYS[peer], message)


def join(
    history: History,
    peer: PeerID,
    round_: int | None = None,
    invitation: bytes | None = None,
    trial: tuple[tuple[int, ...], ...] = (),
    shard: int = 0,
) -> bytes:
    at = history.round if round_ is None else round_
    return said(peer, wish(history, round=at, shard=shard, invitation=invitation, trial=trial))


def wish(history: History, **stated: Any) -> Join:
    """Of a peer with no text of its own, for shard 0, unless `stated` otherwise."""
    common = Join(
        run=history.run,
        round=history.round,
        shard=0,
        data_root=None,
        data_count=0,
        invitation=None,
        trial=(),
    )
    return common.model_copy(update=stated)


def goodbye(history: History, peer: PeerID, round_: int | None = None) -> bytes:
    return said(peer, Goodbye(run=history.run, round=history.round if round_ is None else round_))


def follow(history: History, rounds: int = 1, **changes: object) -> History:
    for _ in range(rounds):
        history = history.extend(decided(history, record_after(history, **changes)))
    return history
