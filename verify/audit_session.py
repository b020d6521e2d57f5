"""The sessions of one round from their statements alone: a pure function, which other processes may run.

`check_round` checks every signature, computes each session's id from its adverts and its beacon from the
seeds that came out, and says at which entry something does not follow. What the run's records say of the
round (`Stage`) is given; without it (None: the chain of records is broken) only what the statements say of
each other is checked.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from proto.canonical import Message, PeerID, plain_cbor
from proto.errors import MessageRefused
from secagg.keys import beacon_share
from secagg.messages import (
    MAX_CELL,
    Advert,
    FinalSet,
    PartSum,
    Receipt,
    Release,
    SessionMessage,
    SetVote,
    SurvivorSet,
    seed_commitment,
    session_id,
)
from secagg.shamir import combine
from secagg.votes import check_quorum, check_vote
from verify.audit_entries import Line
from verify.audit_report import Member
from verify.chains import Confirmation, Counted, chains_of
from verify.identity import verify
from verify.lottery import attempt_seed, in_turn, session_beacon
from verify.record import Roster, colluders, thresholds
from verify.statement import open_signed
from verify.wiring import Wired, WiringRefused, wire

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=SessionMessage)


@dataclass(frozen=True)
class Stage:
    """What the records before a round, and the manifest, say of it."""

    round: int
    roster: Roster
    snapshots: tuple[bytes, ...]  # of each shard
    beacon: bytes
    throughput: tuple[Mapping[PeerID, int], ...]  # of each shard's members, as chains are wired by it
    secure: bool
    own: bool
    slices: int
    slice_tokens: int

    @property
    def several(self) -> bool:
        """Whether the run has several shards."""
        return len(self.snapshots) > 1

    def size(self, shard: int, members: int) -> int:
        """By how many the thresholds of a cell's session go, in which so many are."""
        if self.several and not self.secure:
            return members
        return sum(standing.shard == shard for standing in self.roster.values())

    def wired(self, attempt: int) -> tuple[Wired, ...]:
        """The chains of an attempt; none in a run of one shard, or where nobody holds a shard."""
        if not self.several:
            return ()
        try:
            return wire(self.beacon, self.round, attempt, self.throughput)
        except WiringRefused:
            return ()


@dataclass(frozen=True)
class RoundTask:
    """The statements of a round as each ledger has them; ledgers by number."""

    run: bytes
    stage: Stage | None
    lines: tuple[tuple[int, tuple[Line, ...]], ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slip:
    """Something wrong at an entry of a ledger; `by` as in a Finding."""

    ledger: int
    index: int
    what: str
    by: PeerID | None = None


@dataclass(frozen=True)
class SessionFacts:
    """One session as one ledger has it. `id`: from the adverts; None where they do not hold.

    `beacon`, `chunks`: None where not enough came out. `final`: the entry of the final set.
    """

    ledger: int
    first: int
    slot: tuple[int, int]
    shard: int
    id: bytes | None
    members: Mapping[PeerID, Member]
    final: int | None = None
    proposer: PeerID | None = None
    survivors: tuple[PeerID, ...] = ()
    carried: tuple[tuple[bytes, ...], ...] = ()
    owners: Mapping[int, PeerID] = field(default_factory=dict)
    beacon: bytes | None = None
    chunks: int | None = None


@dataclass(frozen=True)
class RoundFacts:
    """What `check_round` found. `statements`: signatures that were checked."""

    sessions: tuple[SessionFacts, ...]
    slips: tuple[Slip, ...]
    statements: int


@dataclass(frozen=True)
class Opened(Generic[M]):
    """A statement whose signature holds, and its entry."""

    index: int
    signer: PeerID
    message: M
    raw: bytes


def check_round(task: RoundTask) -> RoundFacts:
    """Check the statements of one round, as every ledger has them."""
    desk = _Desk(task)
    sessions: list[SessionFacts] = []
    for ledger, lines in task.lines:
        desk.ledger = ledger
        for group in _groups(desk, lines):
            facts = _Session(desk, group).check()
            if facts is not None:
                sessions.append(facts)
    return RoundFacts(tuple(sessions), tuple(desk.slips), desk.statements)


def check_any(raw: bytes) -> bool:
    """Whether `raw` is a signed statement of whatever kind, whose signature holds. Raises MessageRefused if
    it has the form of one and does not hold; False: it has not."""
    if raw[:1] != b"\x84":
        return False
    match plain_cbor(raw, max_depth=1):
        case [str(domain), str(signer), bytes(body), bytes(signature)] if len(domain) + len(signer) < 128:
            if not verify(signer, domain, body, signature):
                raise MessageRefused(f"{domain}: the signature is not that of {signer}")
            return True
    return False


class _Desk:
    """What the sessions of one task share: opened statements, what was said where, what is wrong."""

    def __init__(self, task: RoundTask) -> None:
        self.run, self.stage, self.ledger = task.run, task.stage, 0
        self.slips: list[Slip] = []
        self.statements = 0
        self._names = task.names
        self._opened: dict[bytes, tuple[PeerID, Message]] = {}
        self._said: dict[tuple[object, ...], tuple[Opened[Any], int, int]] = {}
        self._wired: dict[int, tuple[Wired, ...]] = {}
        self._chains: dict[bytes, tuple[Counted, ...]] = {}

    def slip(self, index: int, what: str, by: PeerID | None = None) -> None:
        """Something is wrong at an entry."""
        self.slips.append(Slip(self.ledger, index, what, by))

    def open(self, index: int, raw: bytes, kind: type[M]) -> Opened[M]:
        """A signed statement. Raises MessageRefused."""
        known = self._opened.get(raw)
        if known is None or not isinstance(known[1], kind):
            signed = open_signed(raw, kind)
            self.statements += 1
            self._opened[raw] = (signed.signer, signed.message)
            return Opened(index, signed.signer, signed.message, raw)
        return Opened(index, known[0], known[1], raw)

    def wired(self, attempt: int) -> tuple[Wired, ...]:
        """The chains of an attempt of this round."""
        if attempt not in self._wired:
            self._wired[attempt] = () if self.stage is None else self.stage.wired(attempt)
        return self._wired[attempt]

    def chains(self, one: "Opened[Advert]") -> tuple[Counted, ...]:
        """The chains that count for an advert's author. Raises MessageRefused.

        Where the round's chains are not known, only that what is there is signed.
        """
        if one.raw not in self._chains:
            advert = one.message
            self.statements += sum(map(len, advert.chains))
            read: tuple[Counted, ...] = ()
            if self.stage is not None:
                read = chains_of(advert, one.signer, self.wired(advert.attempt))
            else:
                for raw in itertools.chain.from_iterable(advert.chains):
                    open_signed(raw, Confirmation)
            self._chains[one.raw] = read
        return self._chains[one.raw]

    def once(self, what: str, key: tuple[object, ...], said: Opened[M]) -> None:
        """An honest peer says one thing of `key`, in whatever ledger it stands."""
        first, ledger, index = self._said.setdefault((said.signer, *key), (said, self.ledger, said.index))
        if first.raw != said.raw and first.message != said.message:  # not only signed anew
            other = f"entry {index}" + (f" of {self._names[ledger]}" if ledger != self.ledger else "")
            self.slip(said.index, f"{said.signer} signed another {what} than in {other}", said.signer)


@dataclass
class _Group:
    """The statements of one session, in order."""

    adverts: list[Opened[Advert]] = field(default_factory=list)
    rest: list[Line] = field(default_factory=list)
    broken: bool = False  # an advert could not be opened


def _groups(desk: _Desk, lines: Iterable[Line]) -> list[_Group]:
    groups: list[_Group] = []
    for line in lines:
        index, kind, raw = line
        if kind != Advert.DOMAIN:
            if not groups:
                groups.append(_Group())
            groups[-1].rest.append(line)
            continue
        try:
            advert = desk.open(index, raw, Advert)
        except MessageRefused as refusal:
            desk.slip(index, str(refusal))
            if not groups or groups[-1].rest:
                groups.append(_Group())
            groups[-1].broken = True
            continue
        now = (advert.message.round, advert.message.attempt)
        before = groups[-1].adverts[-1].message if groups and groups[-1].adverts else None
        another = before is not None and (before.round, before.attempt) != now
        if not groups or groups[-1].rest or another:
            groups.append(_Group())
        groups[-1].adverts.append(advert)
    return groups


class _Session:
    """One session, as one ledger has it."""

    def __init__(self, desk: _Desk, group: _Group) -> None:
        self.desk, self.group, self.stage = desk, group, desk.stage
        self.adverts = {one.signer: one for one in sorted(group.adverts, key=lambda one: one.signer)}
        self.members = list(self.adverts)
        self.named: bytes | None = None  # the session that everything else must be of
        self.final: Opened[FinalSet] | None = None
        self.agreed: SurvivorSet | None = None
        self.votes: list[Opened[SetVote]] = []
        self.owners: dict[int, PeerID] = {}
        self.chains: dict[PeerID, tuple[Counted, ...]] = {}

    @property
    def shard(self) -> int:
        """The shard whose cell this is the session of, by its first advert."""
        return self.group.adverts[0].message.shard

    def check(self) -> SessionFacts | None:
        """What the session is; None where there are no adverts that hold."""
        group, desk = self.group, self.desk
        if not group.adverts:
            for index, kind, _ in group.rest[:1]:
                if not group.broken:
                    desk.slip(index, f"a {kind} without the adverts of its session before it")
            self._check_signatures()
            return None
        first = group.adverts[0]
        self._check_adverts()
        id_ = None if group.broken else session_id(first.message, [one.raw for one in group.adverts])
        self.named = id_
        parts: dict[str, list[Line]] = {"final-set": [], "release": [], "part-sum": []}
        for line in group.rest:
            parts[line[1]].append(line)
        for index, kind, _ in parts["final-set"][1:]:
            desk.slip(index, f"a second {kind} in one session")
        if parts["final-set"]:
            self._check_final(parts["final-set"][0], id_)
        elif group.rest:
            desk.slip(group.rest[0][0], f"a {group.rest[0][1]} without a final set before it")
        if self.final is None or self.agreed is None:
            self._check_signatures()
            return self._facts(id_, None, None)
        releases = self._check_releases(parts["release"])
        chunks = self._check_sums(parts["part-sum"])
        return self._facts(id_, self._beacon(releases), chunks)

    def _facts(self, id_: bytes | None, beacon: bytes | None, chunks: int | None) -> SessionFacts:
        first = self.group.adverts[0]
        members = {peer: _member(one, self.chains.get(peer, ())) for peer, one in self.adverts.items()}
        slot = (first.message.round, first.message.attempt)
        facts = SessionFacts(self.desk.ledger, first.index, slot, self.shard, id_, members)
        if self.final is None or self.agreed is None:
            return facts
        return SessionFacts(
            facts.ledger,
            facts.first,
            facts.slot,
            facts.shard,
            facts.id,
            facts.members,
            self.final.index,
            self.final.signer,
            self.agreed.survivors,
            tuple(vote.message.statements for vote in self.votes),
            self.owners,
            beacon,
            chunks,
        )

    def _check_signatures(self) -> None:
        """Where nothing else can be checked."""
        kinds: dict[str, type[SessionMessage]] = {"release": Release, "part-sum": PartSum}
        for index, name, raw in self.group.rest:
            if name in kinds:
                self._open(index, raw, kinds[name])

    # -- adverts --------------------------------------------------------------------------------------

    def _check_adverts(self) -> None:
        desk, adverts = self.desk, self.group.adverts
        if len(self.adverts) != len(adverts):
            twice = next(one for one in adverts if self.adverts[one.signer] is not one)
            desk.slip(twice.index, f"a second advert of {twice.signer} in one session")
        if len(adverts) > MAX_CELL:
            desk.slip(adverts[MAX_CELL].index, f"{len(adverts)} adverts; a session has at most {MAX_CELL}")
        accused = [peer for one in adverts for peer in one.message.accused]
        for one in self.adverts.values():
            problem = self._advert_problem(one)
            if problem:
                desk.slip(one.index, f"advert of {one.signer}: {problem}")
            elif self.stage and accused.count(one.signer) > colluders(len(self.stage.roster)):
                desk.slip(one.index, f"advert of {one.signer}: too many others accuse it to take part")

    def _advert_problem(self, one: Opened[Advert]) -> str:
        advert, stage, run = one.message, self.stage, self.desk.run
        first = self.group.adverts[0].message
        if advert.run != run:
            return f"of run {advert.run.hex()}"
        if advert.snapshot != first.snapshot or advert.shard != first.shard:
            return "at another snapshot than the first of its session, or of another shard"
        if stage is None:
            return self._chains_problem(one)
        if advert.round != stage.round:
            return f"of round {advert.round}, where round {stage.round} is under way"
        if one.signer not in stage.roster:
            return "it is not in the roster"
        standing = stage.roster[one.signer]
        if advert.shard != standing.shard:
            return f"of shard {advert.shard}, it holds shard {standing.shard}"
        at = stage.snapshots[advert.shard]
        if advert.snapshot != at:
            what = f"shard {advert.shard}" if stage.several else "the run"
            return f"at snapshot {advert.snapshot.hex()[:16]}, {what} is at {at.hex()[:16]}"
        problem = self._chains_problem(one) or self._work_problem(one, stage)
        if problem:
            return problem
        if (advert.mask_key is None) == stage.secure or (advert.data_root is None) == stage.own:
            return "its keys or data do not fit the manifest"
        known = standing.data_root
        return "it committed to other data before" if known and known != advert.data_root else ""

    def _chains_problem(self, one: Opened[Advert]) -> str:
        """Reads the certificates; a chain's leader closes it in one way, whoever shows its word."""
        try:
            self.chains[one.signer] = self.desk.chains(one)
            for statements in filter(None, one.message.chains):
                closed = self.desk.open(one.index, statements[0], Confirmation)
                said = closed.message
                key = ("chain", said.round, said.attempt, said.chain)
                self.desk.once(f"end of chain {said.chain}", key, closed)
        except MessageRefused as refusal:
            return str(refusal).removeprefix("advert: ")
        return ""

    def _work_problem(self, one: Opened[Advert], stage: Stage) -> str:
        advert, most = one.message, stage.slices
        done = sum(chain.slices for chain in self.chains[one.signer])
        if stage.several:
            most *= len(self.desk.wired(advert.attempt))
        if stage.several and advert.weight != done:
            return f"weight {advert.weight}, its certificates give {done}"
        if any(chain.slices > stage.slices for chain in self.chains[one.signer]):
            return f"a certificate of more slices than the {stage.slices} of a chain"
        if not stage.several and (not advert.weight or advert.chains):
            return "no slice, or chains in a run of one shard"
        if advert.weight > most or advert.tokens > advert.weight * stage.slice_tokens:
            return f"weight {advert.weight} with {advert.tokens} tokens, more than an order has"
        return ""

    # -- the final set --------------------------------------------------------------------------------

    def _open(self, index: int, raw: bytes, kind: type[S]) -> Opened[S] | None:
        """A member's statement in this session; None where it is none, which is said."""
        try:
            opened = self.desk.open(index, raw, kind)
        except MessageRefused as refusal:
            self.desk.slip(index, str(refusal))
            return None
        if self.group.adverts and self.named is not None and opened.message.session != self.named:
            self.desk.slip(index, f"a {kind.DOMAIN} of session {opened.message.session.hex()[:16]}")
        elif self.group.adverts and not self.group.broken and opened.signer not in self.adverts:
            self.desk.slip(index, f"a {kind.DOMAIN} by {opened.signer}, who is no member of the session")
        else:
            return opened
        return None

    def _check_final(self, line: Line, id_: bytes | None) -> None:
        index, _, raw = line
        desk = self.desk
        try:
            final = desk.open(index, raw, FinalSet)
        except MessageRefused as refusal:
            desk.slip(index, str(refusal))
            return
        self.named = final.message.session  # or each statement after it would be wrong once more
        if id_ is not None and id_ != self.named:
            desk.slip(
                self.group.adverts[0].index,
                f"the {len(self.adverts)} adverts from here on give session {id_.hex()[:16]}, the final set "
                f"(entry {index}) is of session {self.named.hex()[:16]}: one is missing, changed or added",
            )
            self.group.broken = True
        agreed = self._open(index, final.message.proposal, SurvivorSet)
        if agreed is None:
            return
        self.final, self.agreed = final, agreed.message
        desk.once("survivor set", ("survivor-set", self.named), agreed)
        if final.message.survivor_set != agreed.message.digest() or final.signer != agreed.signer:
            desk.slip(index, f"final set of {final.signer}: its votes are for another survivor set")
        self._check_proposer(final)
        for what in (self._check_survivors, self._check_receipts, self._check_votes):
            try:
                what(final)
            except MessageRefused as refusal:
                desk.slip(index, f"final set: {refusal}")

    def _check_proposer(self, final: Opened[FinalSet]) -> None:
        if self.stage is None or self.group.broken:
            return
        advert = self.group.adverts[0].message
        seed = attempt_seed(self.stage.beacon, advert.round, advert.attempt, "survivor-set")
        proposer = in_turn(seed, self.members)[0]
        if final.signer != proposer:
            self.desk.slip(final.index, f"final set of {final.signer}, it was {proposer}'s turn to propose")

    @property
    def _bounds(self) -> tuple[int, int]:
        """Shares that rebuild a secret, and the least survivors and signatures; 0 where that is not known."""
        if self.stage is None or self.group.broken:
            return 0, 0
        size = self.stage.size(self.shard, len(self.members))
        return thresholds(size, len(self.members), self.stage.secure)

    def _check_survivors(self, final: Opened[FinalSet]) -> None:
        assert self.agreed is not None
        survivors = self.agreed.survivors
        if list(survivors) != sorted(set(survivors)):
            raise MessageRefused("survivors must be in order, each once")
        strangers = [] if self.group.broken else sorted(set(survivors) - self.adverts.keys())
        if strangers:
            raise MessageRefused(f"{strangers[0]} survives and is no member of the session")
        if len(survivors) < self._bounds[1]:
            raise MessageRefused(f"{len(survivors)} survivors, {self._bounds[1]} are needed")

    def _check_receipts(self, final: Opened[FinalSet]) -> None:
        assert self.agreed is not None
        last = -1
        for raw in self.agreed.receipts:
            receipt = self._open(final.index, raw, Receipt)
            if receipt is None:
                continue
            message = receipt.message
            self.desk.once("receipt", ("receipt", self.named, message.part), receipt)
            if message.part <= last or len(message.senders) != len(message.headers):
                raise MessageRefused(f"the receipt for part {message.part} is out of order or malformed")
            last = message.part
            missing = sorted(set(self.agreed.survivors) - set(message.senders))
            if missing:
                raise MessageRefused(f"the receipt for part {message.part} does not name {missing[0]}")
            self.owners[message.part] = receipt.signer

    def _check_votes(self, final: Opened[FinalSet]) -> None:
        assert self.agreed is not None
        masked = self._masked
        for raw in final.message.votes:
            vote = self._open(final.index, raw, SetVote)
            if vote is None:
                continue
            self.votes.append(vote)
            self.desk.once("set vote", ("set-vote", self.named), vote)
            if vote.signer in self.adverts:
                advert = self.adverts[vote.signer].message
                check_vote(vote.signer, advert, vote.message, final.message.survivor_set, masked)
        check_quorum("votes", [vote.signer for vote in self.votes], self._bounds[1])

    @property
    def _masked(self) -> bool:
        return self.group.adverts[0].message.mask_key is not None

    # -- what came out --------------------------------------------------------------------------------

    def _check_releases(self, lines: Sequence[Line]) -> dict[PeerID, Release]:
        assert self.final is not None
        assert self.agreed is not None
        releases: dict[PeerID, Release] = {}
        for index, _, raw in lines:
            release = self._open(index, raw, Release)
            if release is None:
                continue
            signer, message = release.signer, release.message
            self.desk.once("release", ("release", self.named), release)
            if signer in releases:
                self.desk.slip(index, f"a second release of {signer}")
            elif message.survivor_set != self.final.message.survivor_set:
                self.desk.slip(index, f"release of {signer}: for another survivor set")
            elif (message.seed is None) == (signer in self.agreed.survivors):
                self.desk.slip(index, f"release of {signer}: a survivor, and nobody else, shows its seed")
            elif message.seed is not None and not self._is_seed(signer, message.seed):
                self.desk.slip(index, f"release of {signer}: a seed that its advert does not commit to")
            else:
                releases[signer] = message
        return releases

    def _is_seed(self, peer: PeerID, seed: bytes) -> bool:
        return peer in self.adverts and seed_commitment(seed) == self.adverts[peer].message.seed_commitment

    def _beacon(self, releases: Mapping[PeerID, Release]) -> bytes | None:
        """The session's beacon, of seeds that the adverts commit to."""
        assert self.final is not None
        assert self.agreed is not None
        if self.group.broken or self.named is None:
            return None
        shares: list[bytes] = []
        if not self._masked:
            shares = [beacon_share(vote.message.seed) for vote in self.votes if vote.message.seed is not None]
        for survivor in self.agreed.survivors if self._masked else ():
            seed = releases[survivor].seed if survivor in releases else self._rebuilt(survivor, releases)
            if seed is None:
                text = f"the releases after it do not give the seed of {survivor}, which the beacon needs"
                self.desk.slip(self.final.index, text)
                return None
            shares.append(beacon_share(seed))
        return session_beacon(self.named, self.final.message.survivor_set, shares)

    def _rebuilt(self, survivor: PeerID, releases: Mapping[PeerID, Release]) -> bytes | None:
        """A survivor's seed from shares. Which of a release's shares are its own is not logged: tried out."""
        threshold = self._bounds[0]
        counts = {len(release.shares) for release in releases.values()}
        if not threshold or len(counts) != 1:
            return None
        for place in range(counts.pop()):
            shares = {
                self.members.index(holder): release.shares[place]
                for holder, release in releases.items()
                if release.shares[place]
            }
            if len(shares) < threshold:
                continue
            try:
                seed = combine(dict(itertools.islice(shares.items(), threshold)))
            except MessageRefused:
                continue  # the shares of a mask key that was not dealt whole: not these
            if self._is_seed(survivor, seed):
                return seed
        return None

    def _check_sums(self, lines: Sequence[Line]) -> int | None:
        """The chunks of the vector, if all parts' sums are here."""
        assert self.final is not None
        sums: dict[int, int] = {}
        for index, _, raw in lines:
            said = self._open(index, raw, PartSum)
            if said is None:
                continue
            message = said.message
            self.desk.once("sum of a part", ("part-sum", self.named, message.part), said)
            if message.part in sums:
                self.desk.slip(index, f"a second sum of part {message.part}")
            elif message.survivor_set != self.final.message.survivor_set:
                self.desk.slip(index, f"sum of part {message.part}: over another survivor set")
            elif self.owners.get(message.part) != said.signer:
                owner = self.owners.get(message.part, "nobody")
                self.desk.slip(index, f"sum of part {message.part} by {said.signer}, its owner is {owner}")
            else:
                sums[message.part] = len(message.hashes)
        return sum(sums.values()) if sums.keys() == self.owners.keys() else None


def _member(one: Opened[Advert], chains: tuple[Counted, ...]) -> Member:
    advert = one.message
    return Member(
        one.index,
        advert.weight,
        advert.tokens,
        advert.loss,
        advert.heldout,
        advert.commitment,
        advert.data_root,
        advert.data_count,
        advert.head_size,
        advert.head_root,
        advert.energy,
        chains,
    )
