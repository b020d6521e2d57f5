"""The sessions of one cell in one process: no network, no threads, no clock, a plain queue.

A round is everything the members compute between them: fresh secrets, adverts signed and checked, shares,
masks, receipts, the survivor set, releases, sums without masks. A transfer costs the copy into the owner's
buffer. No member profits from another's work: each opens and checks every statement for itself, and
remembers for itself which signatures it has seen to hold, as the peer does.
"""

import gc
import heapq
import itertools
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.interface import (
    FROM,
    Check,
    Completed,
    Effect,
    Failed,
    Job,
    SendPart,
    SendSum,
    Sign,
    Step,
    Tell,
    Terms,
    Wait,
)
from secagg.keys import Secrets, check_public, public_key
from secagg.messages import Advert, Part, PartSum, SessionMessage, seed_commitment
from secagg.ring import BLOCK, CHUNK, Encoder, Ring, decode_mean
from secagg.session import Session
from verify.identity import Identity, verify
from verify.record import thresholds
from verify.statement import CACHED, BadSignature, _fields, domain_of, sign

RUN = bytes(32)
SLICES = 4
KINDS: dict[str, type[SessionMessage]] = {kind.DOMAIN: kind for kind in FROM}
PHASES = {Step.SHARE: "share", Step.READY: "share", Step.MASK: "agree", Step.AGREE: "agree"}
"""What handling a statement counts as, by the step from which it is understood; the others: release."""
JOBS = {"part": "hash", "part-sum": "hash"}
"""What a job counts as, where that is not its own name: deal, mask, sum."""

M = TypeVar("M", bound=Message)


class RoundFailed(Exception):
    """A session failed, or its sum is not the sum."""


def ring_of(members: int, bits: int = 16) -> Ring:
    """The ring of a manifest whose largest cell has so many members."""
    return Ring.for_cell(bits, members, SLICES)


def update_of(index: int, size: int, ring: Ring) -> np.ndarray:
    """Member `index`'s update: integers [size] such as `SLICES` slices give."""
    most = SLICES * ring.levels
    return np.random.default_rng(index).integers(-most, most + 1, size, dtype=ring.dtype)


def identity_of(index: int) -> Identity:
    """Member `index`'s identity, the same in every round."""
    return Identity.from_seed(bytes([index + 1]) * 32)


def fresh_secrets() -> Secrets:
    """Of the system's random source, as a peer's."""
    return Secrets.fresh(partial(os.urandom, 32))


def advert_of(secrets: Secrets, round_: int, secure: bool, commitment: bytes = bytes(32)) -> Advert:
    """What a member brings to round `round_`."""
    return Advert(
        run=RUN,
        round=round_,
        attempt=0,
        shard=0,
        snapshot=bytes(32),
        sequence=1,
        weight=SLICES,
        tokens=0,
        commitment=commitment,
        seed_commitment=seed_commitment(secrets.seed),
        loss=0,
        heldout=0,
        seal_key=public_key(secrets.seal) if secure else None,
        mask_key=public_key(secrets.mask) if secure else None,
        accused=(),
        data_root=None,
        data_count=0,
        head_size=0,
        head_root=bytes(32),
        energy=None,
        chains=(),
    )


def terms_of(members: Sequence[PeerID], secure: bool) -> Terms:
    """What a cell that is the whole roster is held to. Its timers are too long to decide anything."""
    threshold, minimum = thresholds(len(members), len(members), secure)
    return Terms(
        minimum=minimum,
        proposer=min(members),
        mask_seconds=120.0,
        agree_seconds=60.0,
        chunk=CHUNK,
        threshold=threshold,
    )


class Stopwatch:
    """Processor seconds by what they went into. What runs inside something else counts only once."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Whatever runs inside counts as `name`, but for what is measured in there by another name."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def _switch(self) -> None:
        now = self._clock()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


class NoWatch(Stopwatch):
    """Measures nothing, and costs next to nothing."""

    def measure(self, name: str) -> Any:
        """See Stopwatch."""
        return _NOTHING


_NOTHING = nullcontext()


def own_check(watch: Stopwatch) -> Check:
    """A member's way to open statements, as `verify.statement.open_signed` but with a memory of its own."""

    def holds(signer: PeerID, domain: str, body: bytes, signature: bytes) -> bool:
        with watch.measure("verify"):
            return verify(signer, domain, body, signature)

    remembered = lru_cache(maxsize=4_096)(holds)

    def check(raw: bytes, kind: type[M]) -> tuple[PeerID, M]:
        with watch.measure("parse"):
            domain, signer, body, signature = _fields(raw)
            if domain != kind.DOMAIN:
                raise MessageRefused(f"a {domain} came where a {kind.DOMAIN} belongs")
            if not (remembered if len(raw) <= CACHED else holds)(signer, domain, body, signature):
                raise BadSignature(f"{domain}: the signature is not that of {signer}")
            return signer, kind.parse(body)

    return check


def own_sign(identity: Identity, watch: Stopwatch) -> Sign:
    """A member's way to make statements."""

    def measured(message: Message) -> bytes:
        with watch.measure("sign"):
            return sign(identity, message)

    return measured


@dataclass
class Traffic:
    """Bytes that one member sent and got, by kind of message; TLS, gRPC and the meeting are not in them."""

    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Round:
    """A finished round. `cpu_seconds`: of all members together. `traffic` and `completed` by member."""

    cpu_seconds: float
    completed: Mapping[PeerID, Completed]
    traffic: Mapping[PeerID, Traffic]


class InProcess:
    """`InProcess(n, elements).round()`, as often as wanted.

    `bits`: of the ring. `dropped`: so many members leave when the masking has begun, and send no part;
    before that they dealt shares and signed that they are ready. `watch`: learns what the time goes into.
    `first`: the first member's update and what it commits to, in place of made-up ones.
    """

    def __init__(
        self,
        members: int,
        size: int,
        *,
        bits: int = 16,
        secure: bool = True,
        dropped: int = 0,
        watch: Stopwatch | None = None,
        first: tuple[np.ndarray, bytes] | None = None,
    ) -> None:
        self.first, self.sessions = first, dict[PeerID, Session]()
        self.members, self.size, self.secure = members, size, secure
        self.ring = ring_of(members, bits)
        self.identities = {one.peer_id: one for one in map(identity_of, range(members))}
        self.peers = sorted(self.identities)
        self.dropped = frozenset(self.peers[members - dropped :])
        self.watch = watch or NoWatch()
        self._places = {peer: place for place, peer in enumerate(self.identities)}
        self._round = 0

    def round(self) -> Round:
        """One whole round, its sum checked. Raises RoundFailed."""
        done = self.run()
        self.check(done)
        return done

    def run(self) -> Round:
        """One whole round. Raises RoundFailed if a session fails; whether the sum is right is for `check`."""
        self._round += 1
        updates = {peer: self._update(peer) for peer in self.peers}
        before = time.process_time()
        with self.watch.measure("rest"):
            queue = _Queue(self, self._meet(updates))
            queue.run()
        spent = time.process_time() - before
        return Round(spent, queue.completed, queue.traffic)

    def check(self, done: Round) -> None:
        """Raises RoundFailed unless every survivor's sum is exactly numpy's over the survivors."""
        survivors = tuple(peer for peer in self.peers if peer not in self.dropped)
        total = np.zeros(self.size, self.ring.dtype)
        for peer in survivors:
            total += self._update(peer)
        for peer in survivors:
            one = done.completed[peer]
            if one.survivors != survivors or not np.array_equal(one.total, total):
                raise RoundFailed(f"{peer}'s sum is not that of the {len(survivors)} survivors")

    def _update(self, peer: PeerID) -> np.ndarray:
        if self.first is not None and peer == self.peers[0]:
            return self.first[0].copy()
        return update_of(self._places[peer], self.size, self.ring)

    def _meet(self, updates: dict[PeerID, np.ndarray]) -> dict[PeerID, Session]:
        """Everyone's advert signed, and checked by everyone."""
        secrets: dict[PeerID, Secrets] = {}
        adverts: dict[PeerID, bytes] = {}
        with self.watch.measure("meet"):
            for peer, identity in self.identities.items():
                secrets[peer] = fresh_secrets()
                given = self.first if peer == self.peers[0] else None
                commitment = bytes(32) if given is None else given[1]
                advert = advert_of(secrets[peer], self._round, self.secure, commitment)
                adverts[peer] = own_sign(identity, self.watch)(advert)
            sessions = self.sessions = {}
            for peer in self.peers:
                check = own_check(self.watch)
                sessions[peer] = Session(
                    peer,
                    {one: (raw, _believe(raw, secrets[peer], check)) for one, raw in adverts.items()},
                    updates.pop(peer),
                    secrets[peer],
                    (),
                    terms_of(self.peers, self.secure),
                    own_sign(self.identities[peer], self.watch),
                    check,
                )
        return sessions


def _believe(raw: bytes, secrets: Secrets, check: Check) -> Advert:
    """An advert as a peer takes it where it meets: signed, and its keys fit to agree with."""
    _, advert = check(raw, Advert)
    for key in (advert.seal_key, advert.mask_key):
        if key is not None:
            check_public(key)
    return advert


class _Queue:
    """Carries out the sessions' effects in the order in which they are asked for; timers when it is empty."""

    def __init__(self, cell: InProcess, sessions: dict[PeerID, Session]) -> None:
        self.completed: dict[PeerID, Completed] = {}
        self.traffic = {peer: Traffic() for peer in sessions}
        self._sessions, self._watch, self._leaving = sessions, cell.watch, cell.dropped
        self._gone: set[PeerID] = set()
        self._waiting: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, PeerID, str]] = []
        self._asked = itertools.count()
        self._now = 0.0

    def run(self) -> None:
        """Until every member that stays has completed. Raises RoundFailed."""
        for peer, session in self._sessions.items():
            self._do(peer, session.start())
        while len(self.completed) + len(self._leaving) < len(self._sessions):
            if self._waiting:
                self._waiting.popleft()()
            elif self._timers:
                self._now, _, peer, name = heapq.heappop(self._timers)
                if peer not in self._gone:
                    self._do(peer, self._sessions[peer].elapsed(name))
            else:
                raise RoundFailed("the sessions wait for nothing")

    def _do(self, me: PeerID, effects: Iterable[Effect]) -> None:
        if me in self._leaving and self._sessions[me].step >= Step.MASK:
            self._gone.add(me)
        if me in self._gone:
            return
        for effect in effects:
            match effect:
                case Tell(to, raw):
                    self._waiting.append(partial(self._tell, me, to, raw))
                case SendPart() | SendSum():
                    self._waiting.append(partial(self._transfer, me, effect))
                case Job(_, name, run):
                    self._waiting.append(partial(self._run_job, me, name, run))
                case Wait(name, seconds):
                    heapq.heappush(self._timers, (self._now + seconds, next(self._asked), me, name))
                case Completed():
                    self.completed[me] = effect
                case Failed(reason):
                    raise RoundFailed(f"{me}: {reason}")

    def _tell(self, me: PeerID, to: PeerID, raw: bytes) -> None:
        if me in self._gone or to in self._gone:
            return
        with self._watch.measure("parse"):
            kind = KINDS[domain_of(raw)]
        self._count(me, to, kind.DOMAIN, len(raw))
        with self._watch.measure(PHASES.get(FROM[kind], "release")):
            self._do(to, self._sessions[to].receive(me, raw, kind))

    def _run_job(self, me: PeerID, name: tuple[str | int, ...], run: Callable[[], Any]) -> None:
        with self._watch.measure(JOBS.get(str(name[0]), str(name[0]))):
            value = run()
        self._do(me, self._sessions[me].job_done(name, value))

    def _transfer(self, me: PeerID, sent: SendPart | SendSum) -> None:
        if sent.to in self._gone:
            if isinstance(sent, SendPart):
                self._do(me, self._sessions[me].part_failed(sent.part, sent.to))
            return
        target, kind = self._sessions[sent.to], Part if isinstance(sent, SendPart) else PartSum
        room = target.room(me, sent.header, kind)
        with self._watch.measure("copy"):
            np.copyto(room, sent.data)
        self._count(me, sent.to, kind.DOMAIN, len(sent.header) + sent.data.nbytes)
        self._do(sent.to, target.arrived(me, sent.header, kind, room))

    def _count(self, me: PeerID, to: PeerID, kind: str, size: int) -> None:
        self.traffic[me].up[kind] += size
        self.traffic[to].down[kind] += size


@dataclass(frozen=True)
class Measured:
    """One round in a process of its own.

    `cpu_seconds`: of all members together. `up`, `down`: bytes a member sent and got, the mean, by kind.
    `seconds`: of `cpu_seconds`, by what they went into; empty unless watched. `memory`: bytes by which the
    process had grown at its largest, updates included.
    """

    cpu_seconds: float
    up: dict[str, float]
    down: dict[str, float]
    seconds: dict[str, float]
    memory: int


def serve(
    index: int, pipe: Connection, barrier: Barrier, members: int, size: int, settings: dict[str, Any]
) -> None:
    """A process that answers "round" with a Measured, and "coding" with `coding_seconds`.

    `settings`: of InProcess; `watched` in place of a watch. A small round that does not count comes first.
    """
    settings = dict(settings)
    watch = Stopwatch() if settings.pop("watched", False) else NoWatch()
    InProcess(members, CHUNK, **settings).round()
    idle = _kibibytes("VmRSS")
    cell = InProcess(members, size, watch=watch, **settings)
    try:
        while True:
            if pipe.recv() == "coding":
                pipe.send(coding_seconds(cell))
                continue
            gc.collect()  # a finished session is part of cycles, and would keep its vectors for a while
            watch.seconds.clear()
            done = cell.run()
            memory = _kibibytes("VmHWM") - idle << 10
            cell.check(done)
            up, down = (_mean(done, way) for way in ("up", "down"))
            pipe.send(Measured(done.cpu_seconds, up, down, dict(watch.seconds), memory))
            del done
    except EOFError:
        pass


def coding_seconds(cell: InProcess) -> float:
    """Processor seconds in which every member encodes one slice's gradient and decodes the mean once."""
    size = -(-cell.size // BLOCK) * BLOCK
    gradient = np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(1e-3)
    scales, counts = np.full(size // BLOCK, 1e-3, np.float32), np.full(size // BLOCK, BLOCK)
    before = time.process_time()
    for _ in range(cell.members):
        code = Encoder(cell.ring, scales, counts, bytes(32), 4.0).encode(gradient, 0)
        for at in range(0, size, CHUNK):
            piece = code[at : at + CHUNK]
            decode_mean(piece, cell.members, scales[at // BLOCK :][: len(piece) // BLOCK], cell.ring, 8.0)
    return time.process_time() - before


def _mean(done: Round, way: str) -> dict[str, float]:
    total: Counter[str] = Counter()
    for one in done.traffic.values():
        total.update(getattr(one, way))
    return {kind: size / len(done.traffic) for kind, size in total.items()}


def _kibibytes(name: str) -> int:
    """VmRSS (resident now) or VmHWM (at most so far) of this process (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
