"""One peer's side of a chain: microbatches forward, gradients back, through whoever holds the next shard.

A chain is a stream of microbatches 0, 1, 2, ... that its *leader*, a peer of shard 0, sends through one peer
of each shard. Towards the stage before it a stage is a server: an `Activation` i is a request, `Gradient` i
its answer, and asking twice is answered twice and computed once. That makes every fault the same fault:

- A successor that dies, stalls or only seems to is replaced by the next replica of its shard, which says how
  far it is (`Alive`) and gets every activation from there again: stages keep what they sent until the end.
- What the lost peer had computed is computed again at its shard alone. The stages behind it recognise the
  microbatches they have had, and answer from what they kept. Nobody adds a gradient twice or takes one back.
- Lost, late, doubled and reordered messages are asked for again, or recognised.

Compute is one thing at a time, backward before forward (1F1B), each in rising order, at most `in_flight`
microbatches between a stage's forward and its backward. Gradients are added in one order, whoever computes.

The counting rule: a microbatch counts when its slice's gradients have reached shard 0 and a peer of *every*
shard has signed that it holds that slice: a certificate (`verify.chains`), which the leader closes
once and hands to the path. Gradients of a peer that no certificate names do not count, so a microbatch counts
once in every shard, or in none. A chain whose leader dies counts for nothing: nobody else may close it.

Sans-I/O: no sockets, clocks or torch. Tensors are encoded bytes, which the caller has decoded and checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.interface import Sign
from verify.chains import Confirmation, Counted, Place, open_certificate, open_confirmations

PATIENCE = 3
"""Ticks of silence after which a peer that owes an answer is replaced; a tick outlasts any microbatch."""
STUCK = 2
"""Ticks that one computation may last before its peer is silent itself, so that it is replaced."""


class ChainRefused(MessageRefused):
    """A message that this chain cannot have: its sender, number or microbatch is not one of the chain's."""


@dataclass(frozen=True)
class Post:
    """A peer's post in a chain.

    `replicas`: of each shard, in order, who holds it: the chain's own peer first, then who steps in.
    `microbatches`: of one slice. `slices`: at most; `least`: with which the chain is closed at the earliest.
    `in_flight`: microbatches between forward and backward.
    """

    place: Place
    shard: int
    replicas: tuple[tuple[PeerID, ...], ...]
    microbatches: int
    slices: int
    in_flight: int
    least: int = 1

    @property
    def leader(self) -> PeerID:
        return self.replicas[0][0]

    @property
    def last(self) -> bool:
        return self.shard == len(self.replicas) - 1

    @property
    def total(self) -> int:
        return self.microbatches * self.slices


# -- messages -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """To the next shard: microbatch `microbatch`; its gradient is wanted.

    `signed`: with a slice's last one, the sender's `BoundaryList` over that slice; else nothing.
    """

    microbatch: int
    tensor: bytes
    signed: bytes = b""


@dataclass(frozen=True)
class Gradient:
    """To the shard before: the gradient of what it sent for a microbatch. `signed`: as an activation's."""

    microbatch: int
    tensor: bytes
    signed: bytes = b""


@dataclass(frozen=True)
class Probe:
    """To the next shard: are you there, and how far?"""


@dataclass(frozen=True)
class Alive:
    """To the shard before: nothing is stuck here; gradients of microbatches below `done` are computed."""

    done: int


@dataclass(frozen=True)
class AskConfirm:
    """To the next shard: confirm these first slices as soon as you hold them."""

    slices: int


@dataclass(frozen=True)
class Confirmations:
    """To the shard before: signed confirmations of the sender's shard and all after it."""

    statements: tuple[bytes, ...]


@dataclass(frozen=True)
class AskCertificate:
    """To the leader, from a peer that confirmed: is the chain closed?"""


@dataclass(frozen=True)
class Certificate:
    """Signed confirmations of all shards: the chain is closed. From its leader, or from whoever knows."""

    statements: tuple[bytes, ...]


ChainSpeech = (
    Activation | Gradient | Probe | Alive | AskConfirm | Confirmations | AskCertificate | Certificate
)


# -- effects ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forward:
    """Compute a microbatch forward; answer with `computed`. `tensor`: its input, None at the leader."""

    microbatch: int
    tensor: bytes | None


@dataclass(frozen=True)
class Backward:
    """Compute a microbatch backward and add its gradient; answer with `computed`.

    `tensor`: the gradient from the next shard; at the last shard the input, for forward, loss and backward.
    """

    microbatch: int
    tensor: bytes


@dataclass(frozen=True)
class Send:
    """Tell a peer of this chain."""

    to: PeerID
    message: ChainSpeech


@dataclass(frozen=True)
class Timer:
    """Call `tick` after one tick."""


@dataclass(frozen=True)
class Replaced:
    """A peer of the next shard does not answer, or is gone; another one gets its microbatches."""

    shard: int
    was: PeerID
    now: PeerID


@dataclass(frozen=True)
class Starved:
    """No peer is left for a shard: the chain pauses until one `came`."""

    shard: int


@dataclass(frozen=True)
class Ended:
    """The chain is closed. `holds`: the certificate names this peer, and it has the gradients that count."""

    counted: Counted
    statements: tuple[bytes, ...]
    holds: bool


ChainEffect = Forward | Backward | Send | Timer | Replaced | Starved | Ended


@dataclass
class _Successor:
    """What this stage knows of the peer it sends to. Microbatches below `answered` have come back."""

    peer: PeerID
    open: bool = False
    sent: int = 0
    answered: int = 0
    silent: int = 0  # ticks
    came: set[int] = field(default_factory=set)  # answers beyond one that is still out

    def start(self, at: int) -> None:
        """Send from microbatch `at` on."""
        self.open, self.sent, self.answered = True, at, at
        self.came.clear()

    def take(self, microbatch: int) -> None:
        """Count an answer; whatever is between stays open."""
        if self.open and self.answered <= microbatch < self.sent:
            self.came.add(microbatch)
            while self.answered in self.came:
                self.came.remove(self.answered)
                self.answered += 1


class Chain:
    """The state machine. Every method returns effects, in order; a refused message changes nothing."""

    def __init__(self, me: PeerID, post: Post, sign: Sign) -> None:
        if me not in post.replicas[post.shard]:
            raise ValueError(f"{me} does not hold shard {post.shard}")
        self.me, self.post, self._sign = me, post, sign
        self._leads = post.shard == 0 and me == post.leader
        self._inputs: dict[int, bytes] = {}  # that came and wait
        self._taken = 0  # microbatches whose input was handed to compute
        self._outputs: list[bytes] = []  # of forward
        self._gradients: dict[int, bytes] = {}  # that came and wait
        self._answers: list[bytes] = []  # of backward: gradients for the stage before
        self._askers: dict[int, PeerID] = {}
        self._running: Forward | Backward | None = None
        self._running_for = 0  # ticks
        self._successor: _Successor | None = None
        self._turns = list(() if post.last else post.replicas[post.shard + 1])
        self._gone: set[PeerID] = set()
        self._starved = False
        self._closing: int | None = None  # slices
        self._confirm_to: PeerID | None = None
        self._later: tuple[bytes, ...] | None = () if post.last else None  # confirmations of later shards
        self._statements: tuple[bytes, ...] = ()
        self.ended: Ended | None = None

    @property
    def done(self) -> int:
        """Microbatches whose gradients were added here."""
        return len(self._answers)

    @property
    def in_flight(self) -> int:
        """Microbatches between forward and backward: their inputs are kept."""
        return self._taken - self.done

    # -- what happens ---------------------------------------------------------------------------------------

    def begin(self) -> list[ChainEffect]:
        """Take up the post."""
        return [Timer(), *self._compute()]

    def computed(self, tensor: bytes = b"") -> list[ChainEffect]:
        """The running computation is through: hidden states, or the input's gradient (none at shard 0)."""
        ran, self._running = self._running, None
        if ran is None:
            raise ValueError("nothing is being computed")
        if self.ended is not None:
            return []
        effects: list[ChainEffect] = []
        if isinstance(ran, Forward):
            self._outputs.append(tensor)
            effects += self._pump()
        else:
            self._answers.append(tensor)
            asker = self._askers.pop(ran.microbatch, None)
            if asker is not None:
                effects.append(Send(asker, Gradient(ran.microbatch, tensor)))
            effects += self._progress()
        return [*effects, *self._compute()]

    def heard(self, sender: PeerID, message: ChainSpeech) -> list[ChainEffect]:
        """A peer of this chain said something. Raises ChainRefused, MessageRefused."""
        self._check_sender(sender, message)
        if self.ended is not None:
            # Also a peer that was replaced and does not know it stops once it hears.
            over = isinstance(message, Certificate)
            return [] if over else [Send(sender, Certificate(self.ended.statements))]
        match message:
            case Activation(microbatch, tensor, _):
                return self._activation(sender, microbatch, tensor)
            case Gradient(microbatch, tensor, _):
                return self._gradient(sender, microbatch, tensor)
            case Probe():
                return self._sign_of_life(sender)
            case Alive(done):
                return self._alive(sender, done)
            case AskConfirm(slices):
                return self._ask_confirm(sender, slices)
            case Confirmations(statements):
                return self._confirmations(sender, statements)
            case Certificate(statements):
                return self._certificate(statements)
        return []

    def close(self) -> list[ChainEffect]:
        """The window ends (the leader's to say): the slices done now count, at least the first."""
        if not self._leads:
            raise ValueError("only the leader closes a chain")
        if self.ended is not None:
            return []
        if self._closing is None:
            self._closing = max(self.post.least, self.done // self.post.microbatches)
        return self._progress()

    def tick(self) -> list[ChainEffect]:
        """A tick has passed: ask again for what is owed, and give up on who is silent."""
        if self.ended is not None:
            return []
        self._running_for += self._running is not None
        effects: list[ChainEffect] = [Timer()]
        successor = self._successor
        if successor is not None and self._owes(successor):
            successor.silent += 1
            if successor.silent > PATIENCE:
                effects += self._next_successor()
            else:
                effects += self._ask_again(successor)
        if self._statements and not self._leads:
            effects.append(Send(self.post.leader, AskCertificate()))
        return effects

    def lost(self, peer: PeerID) -> list[ChainEffect]:
        """A replica of the next shard cannot be reached any more."""
        if self.post.last or peer not in self._turns:
            return []
        self._gone.add(peer)
        if self.ended is None and self._successor is not None and self._successor.peer == peer:
            return self._next_successor()
        return []

    def came(self, peer: PeerID) -> list[ChainEffect]:
        """A replica of the next shard that was lost can be reached again."""
        self._gone.discard(peer)
        if self.post.last or self.ended is not None or peer not in self._turns:
            return []
        return self._next_successor() if self._starved else []

    # -- the stage before -----------------------------------------------------------------------------------

    def _activation(self, sender: PeerID, microbatch: int, tensor: bytes) -> list[ChainEffect]:
        if microbatch < self.done:
            return [Send(sender, Gradient(microbatch, self._answers[microbatch]))]
        if microbatch >= self.done + self.post.in_flight:
            return self._sign_of_life(sender)  # more than may be in flight; it asks again
        self._askers[microbatch] = sender
        if microbatch < self._taken or microbatch in self._inputs:
            return self._sign_of_life(sender)
        self._inputs[microbatch] = tensor
        return self._compute()

    def _sign_of_life(self, sender: PeerID) -> list[ChainEffect]:
        # Who cannot go on is silent, so that the stage before tries another replica.
        stuck = self._running is not None and self._running_for >= STUCK
        return [] if stuck or self._starved else [Send(sender, Alive(self.done))]

    def _ask_confirm(self, sender: PeerID, slices: int) -> list[ChainEffect]:
        if self._closing != slices:
            self._closing, self._statements = slices, ()
            self._later = () if self.post.last else None
        self._confirm_to = sender
        return [*self._sign_of_life(sender), *self._progress()]

    # -- the stage after ------------------------------------------------------------------------------------

    def _gradient(self, sender: PeerID, microbatch: int, tensor: bytes) -> list[ChainEffect]:
        successor = self._current(sender)
        if successor is None or microbatch >= len(self._outputs):
            return []
        successor.take(microbatch)
        if microbatch >= self._next_back:
            self._gradients.setdefault(microbatch, tensor)
        return [*self._pump(), *self._compute()]

    def _alive(self, sender: PeerID, done: int) -> list[ChainEffect]:
        successor = self._current(sender)
        if successor is None:
            return []
        if not successor.open or done < successor.answered:  # new, or it has lost what it had
            successor.start(min(done, self._next_back))
            return [*self._ask_down(), *self._pump()]
        return []

    def _confirmations(self, sender: PeerID, statements: tuple[bytes, ...]) -> list[ChainEffect]:
        if self._closing is None or self._later is not None:
            return []
        post = self.post
        found = open_confirmations(statements, post.place, post.shard + 1, self.post.replicas)
        if found.path[0] != sender:
            raise ChainRefused(f"confirmations: {sender} brought those of {found.path[0]}")
        if self._current(sender) is not None and found.slices == self._closing:
            self._later = statements
        return self._progress()

    def _current(self, sender: PeerID) -> _Successor | None:
        """The successor, if it is who speaks; what a peer says that was replaced is too late."""
        successor = self._successor
        if successor is None or successor.peer != sender:
            return None
        successor.silent = 0
        return successor

    def _owes(self, successor: _Successor) -> bool:
        waits = self._closing is not None and self._later is None
        return not successor.open or successor.answered < successor.sent or waits

    def _ask_again(self, successor: _Successor) -> list[ChainEffect]:
        if not successor.open:
            return [Send(successor.peer, Probe())]
        if successor.answered < successor.sent:
            at = successor.answered
            return [Send(successor.peer, Activation(at, self._outputs[at])), *self._ask_down()]
        return self._ask_down()

    def _ask_down(self) -> list[ChainEffect]:
        successor = self._successor
        if successor is None or not successor.open or self._closing is None or self._later is not None:
            return []
        return [Send(successor.peer, AskConfirm(self._closing))]

    def _next_successor(self) -> list[ChainEffect]:
        """The next replica in turn that can be reached; maybe the same again, if it is the only one."""
        was, self._successor = self._successor, None
        if was is not None:
            self._turns.remove(was.peer)
            self._turns.append(was.peer)
        reachable = [peer for peer in self._turns if peer not in self._gone]
        self._starved = not reachable
        if self._starved:
            return [Starved(self.post.shard + 1)]
        self._successor = _Successor(reachable[0])
        replaced = was is not None and was.peer != reachable[0]
        said = [Replaced(self.post.shard + 1, was.peer, reachable[0])] if was is not None and replaced else []
        return [*said, Send(reachable[0], Probe())]

    def _pump(self) -> list[ChainEffect]:
        """Send activations, no more at a time than may be in flight; the first one looks for a successor."""
        if self._outputs and self._successor is None and not self._starved:
            return self._next_successor()
        successor, effects = self._successor, list[ChainEffect]()
        while (
            successor is not None
            and successor.open
            and successor.sent < len(self._outputs)
            and successor.sent - successor.answered < self.post.in_flight
        ):
            at = successor.sent
            effects.append(Send(successor.peer, Activation(at, self._outputs[at])))
            successor.sent += 1
        return effects

    # -- computing ------------------------------------------------------------------------------------------

    @property
    def _next_back(self) -> int:
        """The first microbatch whose gradient has not been handed to compute."""
        return self.done + isinstance(self._running, Backward)

    def _compute(self) -> list[ChainEffect]:
        """The next computation, if none runs: backward before forward."""
        if self._running is not None or self.ended is not None:
            return []
        back, forth = self.done, self._taken
        if self.post.last and back in self._inputs:
            self._taken += 1
            return self._run(Backward(back, self._inputs.pop(back)))
        if back in self._gradients:
            return self._run(Backward(back, self._gradients.pop(back)))
        if self.post.last or self.in_flight >= self.post.in_flight:
            return []
        if self._leads and forth < self._limit:
            self._taken += 1
            return self._run(Forward(forth, None))
        if forth in self._inputs:
            self._taken += 1
            return self._run(Forward(forth, self._inputs.pop(forth)))
        return []

    def _run(self, what: Forward | Backward) -> list[ChainEffect]:
        self._running, self._running_for = what, 0
        return [what]

    @property
    def _limit(self) -> int:
        """Microbatches that the leader still sends into the chain."""
        post = self.post
        return post.total if self._closing is None else self._closing * post.microbatches

    # -- closing --------------------------------------------------------------------------------------------

    def _progress(self) -> list[ChainEffect]:
        """Go on with closing, as far as what is here allows."""
        if self._leads and self._closing is None and self.done == self.post.total:
            self._closing = self.post.slices
        slices = self._closing
        if slices is None:
            return []
        if self._later is None:
            return self._ask_down() if not self._statements else []
        if not self._statements and self.done >= slices * self.post.microbatches:
            self._statements = (self._confirm(slices), *self._later)
        if not self._statements:
            return []
        if self._leads:
            return self._finish()
        to, self._confirm_to = self._confirm_to, None
        return [] if to is None else [Send(to, Confirmations(self._statements))]

    def _confirm(self, slices: int) -> bytes:
        later = self._later or ()
        after = self._path(later)
        place, shard = self.post.place, self.post.shard
        return self._sign(
            Confirmation(
                run=place.run,
                round=place.round,
                attempt=place.attempt,
                chain=place.chain,
                shard=shard,
                slices=slices,
                after=after,
            )
        )

    def _path(self, later: Sequence[bytes]) -> tuple[PeerID, ...]:
        if not later:
            return ()
        return open_confirmations(later, self.post.place, self.post.shard + 1, self.post.replicas).path

    def _finish(self) -> list[ChainEffect]:
        post = self.post
        counted = open_certificate(self._statements, post.place, post.leader, self.post.replicas)
        self.ended = Ended(counted, self._statements, holds=True)
        others = sorted({peer for held in post.replicas for peer in held} - {self.me})
        return [
            *(Send(peer, Certificate(self._statements)) for peer in others),
            self.ended,
        ]

    def _certificate(self, statements: tuple[bytes, ...]) -> list[ChainEffect]:
        post = self.post
        counted = open_certificate(statements, post.place, post.leader, self.post.replicas)
        named = counted.path[post.shard] == self.me
        holds = named and self.done >= counted.slices * post.microbatches
        self.ended = Ended(counted, statements, holds)
        return [self.ended]

    # -- refusals -------------------------------------------------------------------------------------------

    def _check_sender(self, sender: PeerID, message: ChainSpeech) -> None:
        shard, replicas = self.post.shard, self.post.replicas
        if isinstance(message, Activation | Probe | AskConfirm):
            fits = shard > 0 and sender in replicas[shard - 1]
        elif isinstance(message, Gradient | Alive | Confirmations):
            fits = sender in self._turns
        else:
            fits = any(sender in holders for holders in replicas)
        kind = type(message).__name__
        if not fits:
            raise ChainRefused(f"{kind} from {sender}, who has none to send to shard {shard} of this chain")
        if isinstance(message, Activation | Gradient) and not 0 <= message.microbatch < self.post.total:
            raise ChainRefused(f"{kind} of microbatch {message.microbatch}; the chain has {self.post.total}")
        if isinstance(message, Alive) and not 0 <= message.done <= self.post.total:
            raise ChainRefused(f"{kind}: {message.done} microbatches done; the chain has {self.post.total}")
        if isinstance(message, AskConfirm) and not 1 <= message.slices <= self.post.slices:
            raise ChainRefused(f"{kind}: {message.slices} slices; the chain has {self.post.slices}")
