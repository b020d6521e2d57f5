"""One peer's part in all chains of an attempt: what it computes, says and signs, until all are closed.

    begin -> (heard, computed, tick)* -> Done

A chain's first slice is for evaluation: the held-out sequences go forward, nothing comes back, and nobody
counts it. With a slice's last tensor its sender's signed list comes over all of the slice's; it is checked
against what came before anything is computed from that last one. So a slice is complete only where both
neighbours' lists are held, and what came can be shown to a checker. Where a neighbour was replaced in the
midst of a slice, the one that stepped in signs for all of it: a peer that has computed from tensors that no
list names, nor any like it, has nothing to show, and leaves that chain to others.

Time goes in ticks. When the window ends, leaders close their chains, with one slice at least; who misses
a certificate asks for it, and gives up on leaders that cannot be reached. Once nothing has been heard or
computed for the grace, or after `MOST` windows, everyone goes on with what is closed.

Sans-I/O, as `swarm.shards.chain` is, which it drives.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from proto.canonical import PeerID
from secagg.interface import Sign
from swarm.shards.chain import (
    Activation,
    Alive,
    AskCertificate,
    Backward,
    Certificate,
    Chain,
    ChainEffect,
    ChainRefused,
    ChainSpeech,
    Ended,
    Forward,
    Gradient,
    Post,
    Replaced,
    Send,
    Starved,
)
from verify.chains import (
    EVALUATED,
    BoundaryList,
    Codec,
    Counted,
    Direction,
    Place,
    check_list,
    tensor_hash,
)
from verify.opened import Passed
from verify.statement import open_signed
from verify.wiring import Wired

MOST = 3
"""Windows, with their grace, that a first slice may take."""


@dataclass(frozen=True)
class Task:
    """What all chains of an attempt have in common.

    `place`: run, round and attempt (its chain means nothing). `microbatches` of a slice; `slices` to train
    on, at most. `window` and `grace` in ticks.
    """

    place: Place
    shard: int
    wired: tuple[Wired, ...]
    microbatches: int
    slices: int
    codec: Codec
    window: int
    grace: int

    def post(self, wired: Wired) -> Post:
        """This shard's post in a chain."""
        return Post(
            self.at(wired.chain),
            self.shard,
            wired.replicas,
            self.microbatches,
            self.slices + EVALUATED,
            2 * len(wired.replicas),  # as many as the stage before sends
            EVALUATED + 1,
        )

    def at(self, chain: int) -> Place:
        """A chain's place."""
        return replace(self.place, chain=chain)


@dataclass(frozen=True)
class Run:
    """Compute a microbatch; answer with `computed`. `tensor`: as in `Forward` and `Backward`."""

    chain: int
    microbatch: int
    backward: bool
    tensor: bytes | None


@dataclass(frozen=True)
class Speak:
    """Tell a peer of a chain."""

    to: PeerID
    place: Place
    message: ChainSpeech


@dataclass(frozen=True)
class Tick:
    """Call `tick` after one tick."""


@dataclass(frozen=True)
class Done:
    """The attempt's chains are over. `counted`: those that name this peer, which holds what counts;
    `certificates`: theirs."""

    counted: tuple[Counted, ...]
    certificates: tuple[tuple[bytes, ...], ...]


CrewEffect = Run | Speak | Tick | Replaced | Starved | Done


@dataclass
class Tensors:
    """What one peer sent in one direction of a chain, by microbatch; `lists`: by slice, with their authors'
    signatures."""

    raw: dict[int, bytes] = field(default_factory=dict)
    lists: dict[int, bytes] = field(default_factory=dict)


class Crew:
    """The state machine. `sign`: gives nothing for what was said in another way before this peer was started
    anew. `check(tensor)`: raises MessageRefused for what is no boundary tensor of this run. `alike(a, b)`:
    whether two honest machines may have made them of the same.
    `led`: chains that this peer led in this attempt before it was started anew: it does so no more, and says
    so to whoever asks for a certificate, by an empty one. A chain without its leader counts for nothing."""

    def __init__(
        self,
        me: PeerID,
        task: Task,
        sign: Sign,
        check: Callable[[bytes], None],
        led: Collection[int] = (),
        alike: Callable[[bytes, bytes], bool] = bytes.__eq__,
    ) -> None:
        self._me, self._task, self._sign, self._check, self._alike = me, task, sign, check, alike
        self._used: dict[tuple[int, Direction, int], bytes] = {}  # what was computed from
        self._chains = {one.chain: Chain(me, task.post(one), sign) for one in task.wired}
        self._dropped = {chain for chain in led if self._leads(chain)}
        self._ticks = self._idle = 0
        self._done = False
        self.received: dict[tuple[int, Direction, PeerID], Tensors] = {}
        self.sent: dict[tuple[int, Direction], Tensors] = {}

    # -- what happens ---------------------------------------------------------------------------------------

    def begin(self) -> list[CrewEffect]:
        """Take up all posts."""
        effects: list[CrewEffect] = [Tick()]
        for number, chain in self._chains.items():
            if number not in self._dropped:
                effects += self._from(number, chain.begin())
        return [*effects, *self._finish()]

    def heard(self, sender: PeerID, place: Place, message: ChainSpeech) -> list[CrewEffect]:
        """A peer speaks. Raises MessageRefused."""
        chain = self._chains.get(place.chain)
        if chain is None or place != self._task.at(place.chain):
            raise ChainRefused("chain: of another run or attempt")
        if place.chain in self._dropped:
            asked = isinstance(message, AskCertificate) and self._leads(place.chain)
            return [Speak(sender, place, Certificate(()))] if asked else []
        self._idle = 0
        if message == Certificate(()) and sender == chain.post.leader and chain.ended is None:
            self._dropped.add(place.chain)
            return self._finish()
        if chain.ended is None and isinstance(message, AskCertificate):
            return [Speak(sender, place, Alive(chain.done))]  # it is not closed, but it goes on
        if isinstance(message, Alive) and sender == chain.post.leader:
            return []
        if isinstance(message, Activation | Gradient) and chain.ended is None:
            self._check_tensor(sender, place, message)
        if place.chain in self._dropped:
            return self._finish()
        return [*self._from(place.chain, chain.heard(sender, message)), *self._finish()]

    def computed(self, chain: int, tensor: bytes) -> list[CrewEffect]:
        """What a `Run` gave: hidden states, or the input's gradient (none at shard 0, and in evaluation)."""
        self._idle = 0
        if chain in self._dropped:
            return self._finish()
        return [*self._from(chain, self._chains[chain].computed(tensor)), *self._finish()]

    def tick(self) -> list[CrewEffect]:
        """A tick has passed."""
        if self._done:
            return []
        self._ticks, self._idle = self._ticks + 1, self._idle + 1
        task, effects = self._task, list[CrewEffect]([Tick()])
        for number in self._open():
            chain = self._chains[number]
            effects += self._from(number, chain.tick())
            if self._ticks >= task.window:
                if self._leads(number):
                    effects += self._from(number, chain.close())
                elif self._ticks > task.window:
                    effects.append(Speak(chain.post.leader, chain.post.place, AskCertificate()))
        late = self._ticks >= task.window + task.grace and self._idle >= task.grace
        if late or self._ticks >= MOST * (task.window + task.grace):
            self._dropped |= set(self._open())
        return [*effects, *self._finish()]

    def lost(self, peer: PeerID) -> list[CrewEffect]:
        """A peer cannot be reached. After the window nobody waits for the chains it led."""
        effects: list[CrewEffect] = []
        for number in self._open():
            chain = self._chains[number]
            if chain.post.leader == peer and self._ticks > self._task.window:
                self._dropped.add(number)
            else:
                effects += self._from(number, chain.lost(peer))
        return [*effects, *self._finish()]

    @property
    def leading(self) -> list[int]:
        """The open chains that this peer leads."""
        return [number for number in self._open() if self._leads(number)]

    def came(self, peer: PeerID) -> list[CrewEffect]:
        """A peer that was lost speaks again."""
        effects: list[CrewEffect] = []
        for number in self._open():
            effects += self._from(number, self._chains[number].came(peer))
        return effects

    # -- tensors --------------------------------------------------------------------------------------------

    def _check_tensor(self, sender: PeerID, place: Place, message: Activation | Gradient) -> None:
        """Keep what came, and check the list that its slice's last one brings. Raises MessageRefused."""
        slice_, at = divmod(message.microbatch, self._task.microbatches)
        if slice_ < EVALUATED and isinstance(message, Gradient):
            if message.tensor:
                raise ChainRefused("gradient: of a microbatch for evaluation")
            return
        post = self._chains[place.chain].post
        if not 0 <= message.microbatch < post.total:
            raise ChainRefused(f"microbatch {message.microbatch}; the chain has {post.total}")
        self._check(message.tensor)
        if slice_ < EVALUATED:
            return
        forward = isinstance(message, Activation)
        direction: Direction = "forward" if forward else "backward"
        shard = self._task.shard + (-1 if forward else 1)
        if not 0 <= shard < len(post.replicas) or sender not in post.replicas[shard]:
            raise ChainRefused(f"{direction}: {sender} does not hold shard {shard} of this chain")
        got = self.received.setdefault((place.chain, direction, sender), Tensors())
        got.raw[message.microbatch] = message.tensor
        if at == self._task.microbatches - 1:
            self._check_signed(got, sender, place, shard, direction, slice_, message.signed)

    def _check_signed(
        self,
        got: Tensors,
        sender: PeerID,
        place: Place,
        shard: int,
        direction: Direction,
        slice_: int,
        raw: bytes,
    ) -> None:
        signed = open_signed(raw, BoundaryList)
        named = self._microbatches(slice_)
        check_list(signed.message, place, shard, direction, self._task.codec)
        if signed.signer != sender or signed.message.microbatches != named:
            raise ChainRefused(f"boundary list of {sender}: not over slice {slice_}, or another's")
        if any(number not in got.raw for number in named):
            raise ChainRefused(f"boundary list of {sender}: not all of slice {slice_} has come; say it again")
        hashes = tuple(tensor_hash(got.raw[number]) for number in named)
        if hashes != signed.message.hashes:
            raise ChainRefused(f"boundary list of {sender}: not of the tensors that it sent")
        got.lists[slice_] = raw
        self._check_tied(place.chain, direction, slice_)

    def _check_tied(self, chain: int, direction: Direction, slice_: int) -> None:
        """Leave a chain of which something was computed that those who signed for the slice did not send."""
        used = [at for at in self._microbatches(slice_) if (chain, direction, at) in self._used]
        signed = self._signed(chain, direction, slice_)
        if signed and not any(self._all_of(got, used, chain, direction) for _, got in signed):
            self._dropped.add(chain)

    def _signed(self, chain: int, direction: Direction, slice_: int) -> list[tuple[PeerID, Tensors]]:
        return [
            (sender, got)
            for (at, way, sender), got in self.received.items()
            if (at, way) == (chain, direction) and slice_ in got.lists
        ]

    def _all_of(self, got: Tensors, used: Iterable[int], chain: int, direction: Direction) -> bool:
        pairs = [(got.raw[at], self._used[chain, direction, at]) for at in used]
        return all(sent == taken or self._alike(sent, taken) for sent, taken in pairs)

    def passed(self, chain: int, index: int) -> Passed:
        """What came and went with the slice `index` that counts: lists, and all tensors."""
        slice_ = index + EVALUATED
        named = self._microbatches(slice_)
        ends: dict[tuple[bool, Direction], Tensors] = {}
        ways: tuple[Direction, ...] = ("forward", "backward")
        for way in ways:
            for _, got in self._signed(chain, way, slice_):
                if (False, way) not in ends and self._all_of(got, named, chain, way):
                    ends[False, way] = got
        for way in ways:
            if (chain, way) in self.sent and slice_ in self.sent[chain, way].lists:
                ends[True, way] = self.sent[chain, way]
        lists = {end: got.lists[slice_] for end, got in ends.items()}
        return Passed(
            tuple(raw for (sent, _), raw in lists.items() if not sent),
            tuple(raw for (sent, _), raw in lists.items() if sent),
            {(*end, at): got.raw[one] for end, got in ends.items() for at, one in enumerate(named)},
        )

    def _listed(self, chain: int, direction: Direction, slice_: int) -> bytes:
        """This peer's signed list over a slice that it has sent, signed once."""
        mine = self.sent[chain, direction]
        place, named = self._task.at(chain), self._microbatches(slice_)
        if any(number not in mine.raw for number in named):
            return b""  # a peer that asks out of turn gets no list
        if slice_ not in mine.lists:
            signed = self._sign(
                BoundaryList(
                    run=place.run,
                    round=place.round,
                    attempt=place.attempt,
                    chain=chain,
                    shard=self._task.shard,
                    direction=direction,
                    codec=self._task.codec,
                    microbatches=named,
                    hashes=tuple(tensor_hash(mine.raw[number]) for number in named),
                )
            )
            if not signed:
                self._dropped.add(chain)
                return b""
            mine.lists[slice_] = signed
        return mine.lists[slice_]

    def _microbatches(self, slice_: int) -> tuple[int, ...]:
        first = slice_ * self._task.microbatches
        return tuple(range(first, first + self._task.microbatches))

    # -- chains ---------------------------------------------------------------------------------------------

    def _from(self, number: int, effects: Sequence[ChainEffect]) -> list[CrewEffect]:
        given: list[CrewEffect] = []
        for effect in effects:
            match effect:
                case Forward(microbatch, tensor):
                    given += self._run(number, microbatch, False, tensor)
                case Backward(microbatch, tensor):
                    given += self._run(number, microbatch, True, tensor)
                case Send(to, message):
                    given.append(Speak(to, self._task.at(number), self._with_list(number, message)))
                case Replaced() | Starved():
                    given.append(effect)
        return given

    def _run(self, number: int, microbatch: int, backward: bool, tensor: bytes | None) -> list[CrewEffect]:
        """Have it computed, unless those who signed for its slice sent something else."""
        slice_ = microbatch // self._task.microbatches
        if tensor is not None and slice_ >= EVALUATED:
            last = self._task.shard == len(self._chains[number].post.replicas) - 1
            direction: Direction = "backward" if backward and not last else "forward"
            self._used[number, direction, microbatch] = tensor
            self._check_tied(number, direction, slice_)
        return [] if number in self._dropped else [Run(number, microbatch, backward, tensor)]

    def _with_list(self, chain: int, message: ChainSpeech) -> ChainSpeech:
        if not isinstance(message, Activation | Gradient):
            return message
        slice_, at = divmod(message.microbatch, self._task.microbatches)
        if slice_ < EVALUATED:
            return message
        direction: Direction = "forward" if isinstance(message, Activation) else "backward"
        mine = self.sent.setdefault((chain, direction), Tensors())
        mine.raw[message.microbatch] = message.tensor
        last = at == self._task.microbatches - 1
        return replace(message, signed=self._listed(chain, direction, slice_)) if last else message

    def _leads(self, chain: int) -> bool:
        return self._chains[chain].post.leader == self._me

    def _open(self) -> list[int]:
        return [
            number
            for number, chain in self._chains.items()
            if chain.ended is None and number not in self._dropped
        ]

    def _finish(self) -> list[CrewEffect]:
        if self._done or self._open():
            return []
        self._done = True
        ended = [chain.ended for chain in self._chains.values()]
        mine = [one for one in ended if one is not None and self._counts(one)]
        return [Done(tuple(one.counted for one in mine), tuple(one.statements for one in mine))]

    def _counts(self, ended: Ended) -> bool:
        return ended.holds and ended.counted.path[self._task.shard] == self._me
