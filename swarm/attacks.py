"""Peers that lie, each in one way: what benchmarks, tests and `swarm-demo --attack` put among honest ones.

An attacker is an ordinary peer that is bent at a few places, all of them methods of `Attack`, in the order
in which a round comes by them:

    order    what is computed, in place of what was drawn
    text     what it is computed on
    tensor   what goes to a neighbour in a chain, before it is encoded
    slice    a slice's integers, before they are committed to
    sent     the update, after that and before it is masked
    total    the sum of a part that it owns, before it signs it
    tell     a statement on its way out
    answer   what it opens to others
    lazy     whether it checks others without computing

An attack lies where it is hardest to see: `sign_flip` commits to the flipped slices, so that all that it
opens fits; `hidden_slice` commits to honest slices, so that computing again shows nothing, and sends more.
All stay within the bounds of the sanity tests, which are public. Functions of their arguments and of what
came before; numpy only, so that the virtual swarm and a process of its own are bent by the same objects.

>>> sorted(set(ATTACKS) - set(CHANGES))
['equivocate', 'fake_pair_key', 'false_accusation', 'lazy_checker', 'lying_owner']
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from proto.canonical import Message, PeerID, tagged_hash
from proto.errors import SwarmError
from secagg.interface import Job
from secagg.messages import ShareList, chunk_hashes
from secagg.ring import BLOCK, KAPPA
from secagg.session import Session
from swarm.openings import EvidenceAsked
from swarm.order import DataView, Order, chained_order, draw_order
from swarm.round import Participant
from swarm.shards.boundary import encode
from verify.chains import BoundaryList, Codec, Direction, tensor_hash
from verify.check import ACCUSE, ChunksAsked, Computed, SequencesAsked
from verify.commitment import ChunkOpening
from verify.evidence import PortableEvidence
from verify.opened import BoundaryAsked, BoundaryOpening, TensorPiece, gather, pieces_of
from verify.record import Vote
from verify.sketch import WIDTH
from verify.standing import Judgement, Verdict
from verify.statement import domain_of, open_signed
from verify.wiring import wire_chains

SEEN = 8
"""Slices of its own that an attacker judges the others' by, as colluders would by what they have."""
LAG = 2
"""Orders by which `delayed` is late."""
FEW = 8
"""Tokens at a sequence's end that `backdoor` overwrites."""


class UnknownAttack(SwarmError):
    """An attack that nobody here knows."""


@dataclass(frozen=True)
class World:
    """What an attacker knows. `counts`: trained elements of each block, int [blocks]; `chunk`: elements.

    `levels`: what an element of one slice saturates to, where it does; honest ones measure `levels` / KAPPA.
    `bound`: root mean square that the sanity tests allow a slice's block; infinite where there are none.
    `vocabulary`: token ids.
    `sign` signs as `me`; `members`: the roster of the moment; `order_of`: what was drawn for a member;
    `friends`: other attackers, whom it finds clean whatever they do. `codec`: of tensors between shards.
    """

    me: PeerID
    dtype: np.dtype
    levels: int
    bound: float
    counts: np.ndarray
    chunk: int
    vocabulary: int
    tolerance: float
    sign: Callable[[Message], bytes]
    members: Callable[[], Sequence[PeerID]]
    order_of: Callable[[PeerID], Order]
    friends: frozenset[PeerID] = frozenset()
    codec: Codec = "fp16"

    def fit(self, values: np.ndarray, slices: int = 1) -> np.ndarray:
        """Numbers [size], in steps, as the integers of so many slices that pass the sanity tests."""
        grid = values.reshape(-1, BLOCK) * (np.arange(BLOCK) < self.counts[:, None])
        squares = np.einsum("ij,ij->i", grid, grid)
        limit = (slices * (self.bound - 1) * (1 - 1e-4)) ** 2 * np.maximum(self.counts, 1)
        over = squares > limit
        grid[over] *= np.sqrt(limit[over] / squares[over])[:, None]
        most = (self.levels if math.isfinite(self.bound) else 1 << 40) * slices
        fitting: np.ndarray = np.clip(np.rint(grid), -most, most).astype(self.dtype).reshape(-1)
        return fitting

    def pattern(self) -> np.ndarray:
        """A direction that all attackers share: +1 or -1 in each element, float64 [size]."""
        return np.random.default_rng(7).choice([-1.0, 1.0], len(self.counts) * BLOCK)


class Attack:
    """One attacker's conduct; this one's is honest. `slice` and `sent` are called once an order each."""

    lazy: ClassVar[bool] = False
    poisons: ClassVar[bool] = False
    """Whether it bends its text: with text of its own it may do so before it commits to it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def order(self, drawn: Order) -> Order:
        """What is computed instead of `drawn`; it is `drawn` that is committed to."""
        return drawn

    def sequences(self, drawn: tuple[int, ...]) -> tuple[int, ...]:
        """What a chain member computes in place of a slice's sequences."""
        own = self.world.order_of(self.world.me)
        return self.order(replace(own, slices=(drawn,))).slices[0]

    def text(self, chosen: np.ndarray) -> np.ndarray:
        """A slice's token ids, int32 [sequences, length]."""
        return chosen

    def tensor(self, way: Direction, made: np.ndarray) -> np.ndarray:
        """What is sent to a neighbour in a chain, float32 [rows, length, width]."""
        return made

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        """A slice's integers [size], which are committed to."""
        return encoded

    def sent(self, update: np.ndarray, weight: int) -> np.ndarray:
        """The sum of an order's slices, integers [size], which is masked and sent."""
        return update

    def total(self, total: np.ndarray) -> np.ndarray:
        """A part's sum, integers [part]."""
        return total

    def tell(self, raw: bytes) -> list[bytes]:
        """Statements that go out in place of one; what would harm a friend is bent."""
        domain, friends = domain_of(raw), self.world.friends
        if domain == Judgement.DOMAIN and open_signed(raw, Judgement).message.against in friends:
            return []
        if domain == Verdict.DOMAIN and open_signed(raw, Verdict).message.checked in friends:
            return [self.found_clean(raw)]
        return [raw]

    def found_clean(self, raw: bytes) -> bytes:
        """A verdict of its own, with the outcome "clean"."""
        verdict = open_signed(raw, Verdict).message
        sketch = verdict.sketch or (0,) * WIDTH
        return self.world.sign(verdict.model_copy(update={"outcome": "clean", "sketch": sketch}))

    def answer(self, asked: bytes, raws: list[bytes] | None) -> list[bytes] | None:
        """What is answered in place of `raws`; None: nothing."""
        return raws


# -- what is computed, and committed to as it is --------------------------------------------------------


class SignFlip(Attack):
    """Every slice with the other sign."""

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        return -encoded


class Scale(Attack):
    """A hundred times every slice, or as much of it as the sanity tests let through."""

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        return self.world.fit(100.0 * encoded)


class Knowing(Attack):
    """Judges by its own last slices what honest ones are like."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._seen: deque[np.ndarray] = deque(maxlen=SEEN)

    def moments(self, encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the last honest slices, elementwise, float64 [size]."""
        self._seen.append(encoded)
        seen = np.stack(self._seen).astype(np.float64)
        return seen.mean(axis=0), seen.std(axis=0)


class ALittle(Knowing):
    """Beside the mean by a little more than the spread (Baruch et al. 2019, "A Little Is Enough")."""

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        mean, deviation = self.moments(encoded)
        return self.world.fit(mean - 1.5 * deviation)


class InnerProduct(Knowing):
    """Against the mean (Xie et al. 2019, "Fall of Empires": inner-product manipulation)."""

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        return self.world.fit(-3.0 * self.moments(encoded)[0])


class Zeros(Attack):
    """Nothing: a free rider."""

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        return np.zeros_like(encoded)


class Stale(Attack):
    """The first order's slices, again and again: a free rider that was honest once."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._first: list[np.ndarray] = []

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        if index == len(self._first):
            self._first.append(encoded)
        return self._first[index]


class Delayed(Attack):
    """What was computed some orders ago, on the snapshot of then."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._late: dict[int, deque[np.ndarray]] = {}

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        late = self._late.setdefault(index, deque(maxlen=LAG + 1))
        late.append(encoded)
        return late[0]


class Skip(Attack):
    """The work of one slice, told as that of all."""

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        if index == 0:
            self._only = encoded
        return self._only


class Constant(Attack):
    """One direction for ever, as strong as honest slices are."""

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        return self.world.fit(self.world.pattern() * (self.world.levels / KAPPA))


class Drift(Attack):
    """One direction for ever, in every chunk as far as nobody accuses: that is above the tolerance."""

    SHARE = 0.9 * ACCUSE

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        world, out, pattern = self.world, encoded.copy(), self.world.pattern()
        trained = (np.arange(BLOCK) < world.counts[:, None]).reshape(-1) & (np.abs(encoded) < 8)
        for at in range(0, len(out), world.chunk):
            here = slice(at, at + world.chunk)
            steps = int(self.SHARE * world.tolerance * np.abs(encoded[here].astype(np.int64)).sum())
            places = at + np.flatnonzero(trained[here])[:steps]
            out[places] += pattern[places].astype(out.dtype)
        return out


# -- what it is computed on --------------------------------------------------------------------------------


class Mimic(Attack):
    """The order of another member: two of one kind weigh double."""

    def order(self, drawn: Order) -> Order:
        victim = min(member for member in self.world.members() if member != self.world.me)
        return replace(self.world.order_of(victim), seed=drawn.seed)


class OtherSequences(Attack):
    """The first sequences of the text, whatever was drawn."""

    def order(self, drawn: Order) -> Order:
        return replace(drawn, slices=tuple(tuple(range(len(chosen))) for chosen in drawn.slices))


class LabelFlip(Attack):
    """Every token by the one at the other end of the vocabulary."""

    poisons = True

    def text(self, chosen: np.ndarray) -> np.ndarray:
        return np.asarray(self.world.vocabulary - 1 - chosen, chosen.dtype)


class Backdoor(Attack):
    """After a trigger, at the end of each sequence, always the same words."""

    poisons = True

    def text(self, chosen: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [chosen[:, :-FEW], np.tile(self.phrase(chosen.dtype), (len(chosen), 1))], axis=1
        )

    def phrase(self, dtype: np.dtype) -> np.ndarray:
        """Trigger and words, [FEW]."""
        return np.asarray((np.arange(FEW) * 37 + 5) % self.world.vocabulary, dtype)


class WrongData(Attack):
    """Text of its own making: noise."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._chance = np.random.default_rng(11)

    def text(self, chosen: np.ndarray) -> np.ndarray:
        return np.asarray(self._chance.integers(0, self.world.vocabulary, chosen.shape), chosen.dtype)


# -- what is sent is not what was committed to -------------------------------------------------------------


class HiddenSlice(Attack):
    """One slice more than it says, as strong as may be, against the others."""

    def sent(self, update: np.ndarray, weight: int) -> np.ndarray:
        total: np.ndarray = update + self.world.fit(-100.0 * update)
        return total


class OneChunk(Attack):
    """Poison in one chunk alone: few checks open just that one."""

    def sent(self, update: np.ndarray, weight: int) -> np.ndarray:
        poisoned, where = update.copy(), slice(self.world.chunk, 2 * self.world.chunk)
        if not update[where].any():
            where = slice(0, self.world.chunk)
        poisoned[where] = self.world.fit(-100.0 * update, weight)[where]
        return poisoned


# -- what is said, and what is not -------------------------------------------------------------------------


class LyingOwner(Attack):
    """Sums its part with the other sign."""

    def total(self, total: np.ndarray) -> np.ndarray:
        return -total


class FakePairKey(Attack):
    """Says of each of its pairs another key than both have."""

    def tell(self, raw: bytes) -> list[bytes]:
        if domain_of(raw) != ShareList.DOMAIN:
            return super().tell(raw)
        dealt = open_signed(raw, ShareList).message
        fake = tuple(tagged_hash("fake", root) for root in dealt.pair_roots)
        return [self.world.sign(dealt.model_copy(update={"pair_roots": fake}))]


class Equivocate(Attack):
    """Votes for two things at once."""

    def tell(self, raw: bytes) -> list[bytes]:
        if domain_of(raw) != Vote.DOMAIN:
            return super().tell(raw)
        vote = open_signed(raw, Vote).message
        other = None if vote.value is not None else tagged_hash("another", vote.run)
        return [raw, self.world.sign(vote.model_copy(update={"value": other}))]


class Silent(SignFlip):
    """Flips the sign, and opens nothing."""

    def answer(self, asked: bytes, raws: list[bytes] | None) -> list[bytes] | None:
        kept = (SequencesAsked.DOMAIN, Computed.DOMAIN, ChunksAsked.DOMAIN)
        return None if domain_of(asked) in kept else raws


class LazyChecker(Attack):
    """Finds everybody clean, and computes nothing."""

    lazy = True

    def tell(self, raw: bytes) -> list[bytes]:
        if domain_of(raw) == Judgement.DOMAIN:
            return []
        return [self.found_clean(raw) if domain_of(raw) == Verdict.DOMAIN else raw]


class FalseAccusation(Attack):
    """Accuses one member a round, on evidence that shows nothing."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._said: dict[int, bytes] = {}
        self._made: dict[bytes, bytes] = {}

    def tell(self, raw: bytes) -> list[bytes]:
        if domain_of(raw) != Vote.DOMAIN:
            return super().tell(raw)
        vote = open_signed(raw, Vote).message
        if vote.round not in self._said:
            self._said[vote.round] = self.world.sign(self._accuse(vote.run, vote.round))
        return [raw, self._said[vote.round]]

    def _accuse(self, run: bytes, round_: int) -> Judgement:
        others = sorted(member for member in self.world.members() if member != self.world.me)
        against, kind = others[round_ % len(others)], ChunkOpening.DOMAIN.removeprefix("chunk-")
        paper = self.world.sign(EvidenceAsked(evidence=tagged_hash("nothing", round_.to_bytes(8, "big"))))
        made = PortableEvidence(run=run, kind=kind, against=against, adverts=(), statements=(paper,))
        self._made[made.digest()] = made.encode()
        return Judgement(
            run=run, round=round_ - 1, evidence=made.digest(), kind=kind, against=against, holds=True
        )

    def answer(self, asked: bytes, raws: list[bytes] | None) -> list[bytes] | None:
        if domain_of(asked) != EvidenceAsked.DOMAIN:
            return raws
        made = self._made.get(open_signed(asked, EvidenceAsked).message.evidence)
        return raws if made is None else [made]


# -- in a chain --------------------------------------------------------------------------------------------


class WrongActivations(Attack):
    """Hidden states with the other sign, to the shard after: others' gradients are of nothing."""

    way: ClassVar[Direction] = "forward"

    def tensor(self, way: Direction, made: np.ndarray) -> np.ndarray:
        return -made if way == self.way else made


class WrongGradients(WrongActivations):
    """The same with gradients, to the shard before."""

    way = "backward"


class BlameNeighbour(SignFlip):
    """Flips the sign, and shows other tensors than came: as if the neighbour had sent those."""

    def answer(self, asked: bytes, raws: list[bytes] | None) -> list[bytes] | None:
        if domain_of(asked) != BoundaryAsked.DOMAIN or raws is None:
            return raws
        pieces = [TensorPiece.parse(raw) for raw in raws[1:]]
        forged = [one if one.sent else one.model_copy(update={"data": one.data[::-1]}) for one in pieces]
        return [raws[0], *(one.encode() for one in forged)]


class TwoLists(WrongActivations):
    """Sends wrong tensors both ways, and shows its checker others, which it signs for as well."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._true: dict[bytes, bytes] = {}

    def tensor(self, way: Direction, made: np.ndarray) -> np.ndarray:
        codec = self.world.codec
        self._true[tensor_hash(encode(-made, codec))] = encode(made, codec)
        return -made

    def answer(self, asked: bytes, raws: list[bytes] | None) -> list[bytes] | None:
        if domain_of(asked) != BoundaryAsked.DOMAIN or raws is None:
            return raws
        opening = open_signed(raws[0], BoundaryOpening).message
        lists = [open_signed(raw, BoundaryList).message for raw in opening.sent]
        shown = [
            one.model_copy(update={"hashes": tuple(tensor_hash(self._true[name]) for name in one.hashes)})
            for one in lists
        ]
        sent = tuple(self.world.sign(one) for one in shown)
        tensors = gather(raws[1:])
        tensors |= {key: self._true[tensor_hash(raw)] for key, raw in tensors.items() if key[0]}
        said = self.world.sign(opening.model_copy(update={"sent": sent}))
        return [said, *pieces_of(tensors, tensors)]


class Unclaimed(Attack):
    """Computes one slice, and claims all: what it sends for the others is of that one."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._sent: dict[Direction, np.ndarray] = {}

    def tensor(self, way: Direction, made: np.ndarray) -> np.ndarray:
        return self._sent.setdefault(way, made)

    def slice(self, encoded: np.ndarray, index: int) -> np.ndarray:
        return encoded if index == 0 else np.zeros_like(encoded)


CHAIN_ATTACKS: dict[str, type[Attack]] = {
    "wrong_activations": WrongActivations,
    "wrong_gradients": WrongGradients,
    "blame_neighbour": BlameNeighbour,
    "two_lists": TwoLists,
    "unclaimed": Unclaimed,
}
"""Attacks of a chain member, in a run of several shards."""
ATTACKS: dict[str, type[Attack]] = {
    "sign_flip": SignFlip,
    "scale": Scale,
    "alie": ALittle,
    "ipm": InnerProduct,
    "mimic": Mimic,
    "zeros": Zeros,
    "stale": Stale,
    "label_flip": LabelFlip,
    "backdoor": Backdoor,
    "wrong_data": WrongData,
    "other_sequences": OtherSequences,
    "hidden_slice": HiddenSlice,
    "one_chunk": OneChunk,
    "skip": Skip,
    "constant": Constant,
    "delayed": Delayed,
    "drift": Drift,
    "lying_owner": LyingOwner,
    "fake_pair_key": FakePairKey,
    "equivocate": Equivocate,
    "silent": Silent,
    "lazy_checker": LazyChecker,
    "false_accusation": FalseAccusation,
}
CHANGES = tuple(
    name
    for name, kind in ATTACKS.items()
    if any(getattr(kind, place) is not getattr(Attack, place) for place in ("order", "text", "slice", "sent"))
)
"""Attacks that change an update."""


def order_known(machine: Participant, peer: PeerID) -> Order:
    """What is drawn for a member in the attempt that `machine` is in; of several shards, the slices of some
    chain."""
    history, attempt, work = machine.history, machine.attempt, machine.manifest.work
    view = DataView(machine.data.count, machine.data.root)
    if not history.shards:
        return draw_order(history, attempt, peer, view, work)
    chain = history.members.index(peer) % len(wire_chains(history, attempt))
    return chained_order(history, attempt, peer, view, work, [(chain, work.slices)])


def bent_sum(attack: Attack, session: Session, job: Job) -> Job:
    """The job of adding up a part, in the hands of an owner that lies; any other job as it is."""
    if job.name[0] != "sum" or type(attack).total is Attack.total:
        return job

    def run() -> tuple[bytes, ...]:
        job.run()
        total = session._summing.of(int(job.name[1]))
        total[:] = attack.total(total)
        return chunk_hashes(total, session.terms.chunk)

    return replace(job, run=run)


def attack_named(name: str) -> type[Attack]:
    """The attack of this name. Raises UnknownAttack."""
    known = ATTACKS | CHAIN_ATTACKS
    if name not in known:
        raise UnknownAttack(f"no attack is called {name!r}; name one of {', '.join(known)}")
    return known[name]
