"""What a session is given by its caller, what it asks of it, and the steps it takes."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.messages import (
    Disclosure,
    FinalSet,
    Opening,
    Ready,
    ReadySet,
    Receipt,
    Release,
    SessionMessage,
    SetVote,
    ShareList,
    ShareLists,
    Shown,
    SurvivorSet,
)

M = TypeVar("M", bound=Message)
Sign = Callable[[Message], bytes]


class Check(Protocol):
    """Opens a signed statement: (signer, message). Raises MessageRefused."""

    def __call__(self, raw: bytes, kind: type[M], /) -> tuple[PeerID, M]: ...


class Step(enum.IntEnum):
    SHARE = 0
    READY = 1
    MASK = 2
    AGREE = 3
    UNMASK = 4
    DONE = 5
    OPEN = 6
    VOID = 7


FROM: dict[type[SessionMessage], Step] = {
    ShareList: Step.SHARE,
    ShareLists: Step.SHARE,
    Ready: Step.READY,
    ReadySet: Step.READY,
    Receipt: Step.MASK,
    SurvivorSet: Step.MASK,
    SetVote: Step.AGREE,
    FinalSet: Step.MASK,
    Release: Step.UNMASK,
    Shown: Step.OPEN,
    Opening: Step.OPEN,
    Disclosure: Step.READY,
}
"""The statements of a session, and the step from which each is understood: one that comes earlier is held."""
BY_PROPOSER = (ShareLists, ReadySet, SurvivorSet, FinalSet)
TO_PROPOSER = (ShareList, Ready, Receipt, SetVote)


def check_way(kind: type[SessionMessage], sender: PeerID, to: PeerID, proposer: PeerID) -> None:
    """Raises MessageRefused for what is no statement of a session, or not `sender`'s to tell `to`."""
    if kind not in FROM:
        raise MessageRefused(f"{kind.DOMAIN}: not a statement of a session")
    if kind in BY_PROPOSER and sender != proposer:
        raise MessageRefused(f"{kind.DOMAIN}: {sender} is not the proposer")
    if kind in TO_PROPOSER and to != proposer:
        raise MessageRefused(f"{kind.DOMAIN}: this member is not the proposer")


@dataclass(frozen=True)
class Terms:
    """What a session is held to; all of it from the manifest and the last record.

    `minimum`: members a survivor set needs, and signatures that make it final. `owners`: the members
    that own a part each, in order; empty for all that mask. `threshold`: shares that rebuild a
    member's secret; 0: nothing is masked. `mask_seconds`, `agree_seconds`: time for parts to arrive, and for
    each of the other steps. `chunk`: elements in a chunk. `colluders`: members that may lie together.
    """

    minimum: int
    proposer: PeerID
    mask_seconds: float
    agree_seconds: float
    chunk: int
    owners: tuple[PeerID, ...] = ()
    threshold: int = 0
    colluders: int = 0


class NotYet(MessageRefused):
    """A transfer that comes before what it rests on; the caller may hold it for a while and ask again."""


@dataclass(frozen=True)
class Tell:
    to: PeerID
    raw: bytes


@dataclass(frozen=True)
class SendPart:
    """Stream a part; if that fails, say so with `part_failed`."""

    to: PeerID
    session: bytes
    part: int
    header: bytes
    data: np.ndarray


@dataclass(frozen=True)
class SendSum:
    """Stream a part's sum; nobody waits for the reply."""

    to: PeerID
    session: bytes
    part: int
    header: bytes
    data: np.ndarray


@dataclass(frozen=True)
class Wait:
    """Call `elapsed(name)` after so many seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Job:
    """Long work: `run()` in another thread, one job after the other; its result goes to `job_done`."""

    session: bytes
    name: tuple[str | int, ...]
    run: Callable[[], Any] = field(repr=False)  # it knows masks


@dataclass(frozen=True)
class Completed:
    """The sum over the survivors, in the ring, and what the record is made of.

    `beacon`: what each revealed seed gives to the next beacon, in the order of the members it is from.
    """

    total: np.ndarray
    survivors: tuple[PeerID, ...]
    survivor_set: bytes
    votes: tuple[tuple[PeerID, SetVote], ...]
    beacon: tuple[bytes, ...]


@dataclass(frozen=True)
class Failed:
    reason: str


Effect = Tell | SendPart | SendSum | Wait | Job | Completed | Failed
