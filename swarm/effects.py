"""What the round's state machine asks for: effects, plain values that the rim carries out.

Also the words they share: the slot an attempt has, the phase a peer is in, and the work it did.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from proto.canonical import PeerID
from secagg.interface import Job, SendPart, SendSum, Tell
from swarm.order import DataView, Order
from verify.commitment import Committed
from verify.opened import Apart, Passed, Tensors
from verify.record import Record
from verify.standing import Ban
from verify.wiring import Wired

Slot = tuple[int, int]
"""(round, attempt)."""


class Phase(enum.Enum):
    """Where a peer is in an attempt; `WATCH` is outside the roster, or without the snapshot."""

    WATCH = "watch"
    TRAIN = "train"
    MEET = "meet"
    SESSION = "session"
    APPLY = "apply"
    DECIDE = "decide"
    ENDED = "ended"

    @property
    def shared(self) -> bool:
        """Whether others count on what this peer brought in: who leaves now may cost them the attempt."""
        return self in (Phase.MEET, Phase.SESSION, Phase.APPLY, Phase.DECIDE)


@dataclass(frozen=True)
class OwnWork:
    """What a peer opens when it is drawn: its commitment, and its slices' integers by index, [size] each."""

    committed: Committed
    encoded: Callable[[int], np.ndarray]
    passed: Callable[[int], Passed] | None = None
    """Of a chain member: what came and went with a slice."""


@dataclass(frozen=True)
class Work:
    """What `train` gave: the update (ring integers, [size]), its weight in slices, losses in micronats."""

    update: np.ndarray
    weight: int
    tokens: int
    loss: int
    heldout: int
    own: OwnWork
    chains: tuple[tuple[bytes, ...], ...] = ()
    """The certificates of the chains that count for it, in a run of several shards."""


@dataclass(frozen=True)
class TrainChains:
    """Take up this peer's posts in an attempt's chains until all are closed; answer with `trained`.

    `slices`: for each chain its slices' sequences. `order(counted)`: what this peer's order is, once it is
    known how many slices of which chains count for it.
    """

    slot: Slot
    shard: int
    snapshot: bytes
    wired: tuple[Wired, ...]
    slices: tuple[tuple[tuple[int, ...], ...], ...]
    order: Callable[[Sequence[tuple[int, int]]], Order]
    rounding: bytes
    seconds: float


@dataclass(frozen=True)
class Train:
    """Do slices of the order until the window ends, at least one; answer with `trained`."""

    slot: Slot
    order: Order
    seconds: float


@dataclass(frozen=True)
class Meet:
    """Form a group of at least `minimum` of the roster within `seconds`; answer with `met`."""

    slot: Slot
    key: bytes
    roster: tuple[PeerID, ...]
    minimum: int
    advert: bytes
    seconds: float


@dataclass(frozen=True)
class Apply:
    """Test the sum and take the outer step, durably; answer with `applied` or `refused_sum`."""

    slot: Slot
    total: np.ndarray
    weight: int


@dataclass(frozen=True)
class Timer:
    """Call `elapsed(key)` after so many seconds."""

    key: tuple[str, Slot, tuple[str | int, ...]]
    seconds: float


@dataclass(frozen=True)
class SaveVote:
    slot: Slot
    raw: bytes


@dataclass(frozen=True)
class SaveEntered:
    """This attempt's update is about to leave the peer: never again in another session."""

    slot: Slot


@dataclass(frozen=True)
class SaveDecided:
    slot: Slot
    raw: bytes


@dataclass(frozen=True)
class Adopt:
    """The record is final: its snapshot is the agreed one now."""

    record: Record
    attempts: int


@dataclass(frozen=True)
class Abandon:
    """Stop training, meeting and sending for the current attempt: it is decided."""


@dataclass(frozen=True)
class CatchUp:
    """Ask peers for records from `round` on; answer with `learn`."""

    round: int


@dataclass(frozen=True)
class Fetch:
    """Download the snapshot; answer with `fetched`."""

    snapshot: bytes


@dataclass(frozen=True)
class Ask:
    """Ask a member, and give its answer to `answered(key, statements)`; None if none came."""

    key: int
    to: PeerID
    raw: bytes


@dataclass(frozen=True)
class Recompute:
    """Compute one slice of another's order again, at the order's snapshot; answer with `recomputed`.

    `text`: encoded openings of the slice's sequences, which `data` commits to; None: the shared set, or a
    trial's own. `tensors`: of a chain's slice, what came and what went, for all of its microbatches or one.
    """

    key: int
    order: Order
    slice: int
    text: tuple[bytes, ...] | None
    data: DataView
    tensors: Tensors | None = None


@dataclass(frozen=True)
class Again:
    """What computing again gave: a slice's integers [size], None where only one microbatch was computed.

    `apart`: how far what was sent is from it.
    """

    encoded: np.ndarray | None
    apart: Apart = field(default_factory=dict)


@dataclass(frozen=True)
class SaveEvidence:
    """Keep a piece of evidence under its name."""

    name: bytes
    raw: bytes


@dataclass(frozen=True)
class Log:
    """Append to the ledger, durably, before anything that follows: (kind, content) in order."""

    entries: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Voided:
    """An attempt came to nothing, and why this peer thinks so (None: it had the record)."""

    slot: Slot
    reason: str | None


@dataclass(frozen=True)
class Stalled:
    """Nobody in the roster holds a shard: the run stands still until stewards put somebody there."""

    shard: int


@dataclass(frozen=True)
class Banned:
    """This peer's own key is banned: it has no place in the run any more."""

    ban: Ban


@dataclass(frozen=True)
class Spent:
    """This peer may show no more of its own text, so nobody could check it: it leaves the run."""

    budget: int


@dataclass(frozen=True)
class Ended:
    """The run is over: the final model is `snapshot`."""

    snapshot: bytes


Effect = (
    Train
    | TrainChains
    | Stalled
    | Meet
    | Tell
    | SendPart
    | SendSum
    | Job
    | Apply
    | Timer
    | SaveVote
    | SaveEntered
    | SaveDecided
    | Adopt
    | Abandon
    | CatchUp
    | Fetch
    | Ask
    | Recompute
    | SaveEvidence
    | Log
    | Voided
    | Banned
    | Spent
    | Ended
)
