"""One member's side of one aggregation session, sans-I/O.

The promise: `Completed` carries the exact integer sum of the updates of one survivor set, the same
at every member that completes; anything else is `Failed` with its reason, and nothing was applied. With
masks, nobody learns more of the survivors' updates than that sum, and of other updates nothing.

An instance performs just one session. The caller feeds it what arrives (statements, parts, sums,
timers, finished jobs) and carries out the effects it returns. The steps, each entered once and in this order:

    SHARE   everyone deals shares of its secrets; the proposer gathers the lists
    READY   members sign that the lists hold; a quorum of signatures lets masks be used
    MASK    masked parts go to their owners; an owner that does not take one is replaced by the next in
            the chain; owners sign receipts for what they have
    AGREE   the proposer names the survivor set with its receipts; members sign it, once a session;
            a quorum of signatures makes it final
    UNMASK  members release shares for exactly that set; owners publish their part's sum without masks

If the caller finds that the sum fails its sanity tests, survivors OPEN a chunk each: that shows the culprit.
With `aggregation = "plain"` the parts are the updates themselves: the same path from MASK on.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.findings import Findings
from secagg.inputs import Inputs
from secagg.interface import (
    FROM,
    Check,
    Completed,
    Effect,
    Failed,
    Job,
    NotYet,
    SendPart,
    SendSum,
    Sign,
    Step,
    Tell,
    Terms,
    Wait,
    check_way,
)
from secagg.keys import Secrets, beacon_share
from secagg.masks import Mask, add_masks, sum_unmasked
from secagg.messages import (
    Advert,
    Disclosure,
    Evidence,
    FinalSet,
    Opening,
    Part,
    PartSum,
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
    chunk_hashes,
    session_id,
)
from secagg.opening import Claim, Openings, OwnChunks, Sane
from secagg.parts import Cut
from secagg.proposer import Proposer, TooFew, all_of
from secagg.receipts import Receipts
from secagg.sharing import Dealt, Recovery, Sharing
from secagg.sums import Sums
from secagg.transcript import Transcript
from secagg.votes import check_quorum, check_vote

S = TypeVar("S", bound=SessionMessage)
T = TypeVar("T", bound=Part | PartSum)
Handler = Callable[[PeerID, bytes], list[Effect]]


@dataclass
class Session:
    """One member's side. `adverts` maps every member to its signed advert and the advert itself.

    `update`: integers of the ring, shape [size]; it is masked in place, and nobody else's any more.
    `statements`: what this member wants in the record; with them its vote must stay below `MAX_VOTE` bytes.
    """

    me: PeerID
    adverts: Mapping[PeerID, tuple[bytes, Advert]]
    update: np.ndarray = field(repr=False)
    secrets: Secrets
    statements: Sequence[bytes] = field(repr=False)
    terms: Terms
    sign: Sign
    check: Check
    evidence: list[Evidence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members = sorted(self.adverts)
        self.id = session_id(self.adverts[self.me][1], [raw for raw, _ in self.adverts.values()])
        self.step = Step.SHARE
        self.dealers: tuple[PeerID, ...] = ()
        self.cut = Cut(0, (), (), self.terms.chunk)
        self._receipts = Receipts(self.cut)
        self._proposer = Proposer(self.id, self.terms.minimum)
        self.chunks = -(-len(self.update) // self.terms.chunk)
        threshold = self.terms.threshold
        sharing = Sharing(self.me, self.adverts, self.id, self.secrets, threshold, self.chunks)
        self._sharing = sharing if threshold else None
        self._findings = Findings(self.evidence, [raw for raw, _ in self.adverts.values()])
        self._own: dict[bytes, Message] = {}  # what this member signed needs no check when it comes back
        self._announced: dict[tuple[type[SessionMessage], PeerID], tuple[bytes, Part | PartSum]] = {}
        self._early: dict[tuple[type[SessionMessage], PeerID], bytes] = {}
        self._lists: tuple[bytes, bytes] | None = None  # the signed ShareLists, and its digest
        self._ready: bytes | None = None
        self._chains: dict[int, list[PeerID]] = {}
        self._headers: dict[int, tuple[bytes, Part]] = {}
        self._inputs = Inputs()
        self._signed_set: tuple[bytes, bytes] | None = None  # the proposal and this member's vote
        self._read_set: tuple[bytes, SurvivorSet, dict[int, PeerID]] | None = None
        self._set: SurvivorSet | None = None
        self._final, self._proposal, self._final_votes = b"", b"", tuple[tuple[PeerID, SetVote], ...]()
        self._recovery: Recovery | None = None
        self._sums: Sums | None = None
        self._disclosed: set[tuple[PeerID, str]] = set()
        self._openings: Openings | None = None
        self._mine = OwnChunks(self.id, self._sharing, self.update, self._headers, self.terms.colluders)
        self._held_openings: dict[PeerID, bytes] = {}

    # -- what the caller feeds ------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """Deal shares; without masks, send every part to its owner."""
        agree, mask = self.terms.agree_seconds, self.terms.mask_seconds
        if self._sharing is None:
            return [Wait("set", mask + 2 * agree), *self._begin_mask(tuple(self.members))]
        deal = Job(self.id, ("deal",), self._sharing.deal)
        return [Wait("share", agree), Wait("set", mask + 4 * agree), deal]

    def receive(self, sender: PeerID, raw: bytes, kind: type[SessionMessage]) -> list[Effect]:
        """A statement for this session. Raises MessageRefused; a refusal changes nothing."""
        check_way(kind, sender, self.me, self.terms.proposer)
        if self.step is Step.VOID and kind is not Disclosure:
            return self._answer(sender, self._open(sender, raw, kind)) if kind in (Shown, Opening) else []
        if self.step < Step.UNMASK and kind is Shown:
            answer = self._answer(sender, self._open(sender, raw, kind))
            if not answer:
                raise MessageRefused("shown: no sum is near, this is not held")
            return answer
        if self.step < FROM[kind]:
            message = self._open(sender, raw, kind)
            self._early.setdefault((kind, sender), raw)
            return self._answer(sender, message)
        handle: Handler = getattr(self, "_on_" + kind.DOMAIN.replace("-", "_"))  # one for each kind in FROM
        return handle(sender, raw)

    def room(self, sender: PeerID, header: bytes, kind: type[Part | PartSum]) -> np.ndarray:
        """Where the data that follow this header go. Raises MessageRefused, or NotYet."""
        message = self._awaited(sender, header, kind)
        return np.empty(self.cut.elements(message.part), self.update.dtype)

    def arrived(self, sender: PeerID, header: bytes, kind: type[T], data: np.ndarray) -> list[Effect]:
        """What `room` gave is filled."""
        message = self._awaited(sender, header, kind)
        if data.dtype != self.update.dtype or data.shape != (self.cut.elements(message.part),):
            raise MessageRefused(f"{message.DOMAIN}: {data.shape} {data.dtype} for part {message.part}")
        if isinstance(message, PartSum):
            self._summing.put(message.part, header, data)
        elif self._inputs.has(message.part, sender):
            return []  # sent again
        else:
            self._inputs.put(sender, header, message, data)
        name = (message.DOMAIN, message.part, sender)
        return [Job(self.id, name, lambda: chunk_hashes(data, self.terms.chunk) == message.hashes)]

    def part_failed(self, part: int, owner: PeerID) -> list[Effect]:
        """`owner` did not take the part: the next in the chain is asked."""
        chain = self._chains[part]
        if self.step is not Step.MASK or not chain or chain[0] != owner:
            return []
        chain.pop(0)
        if not chain:
            return self._fail(f"no member took part {part}")
        return self._send_part(part)

    def job_done(self, name: tuple[str | int, ...], value: Any) -> list[Effect]:
        """A `Job` has given `value`. Raises MessageRefused if it shows data that are not their header's."""
        if self.step >= Step.DONE:
            return []
        match name:
            case ("deal",):
                return self._tell_proposer(value)
            case ("mask", int(part)):
                sent = Part(session=self.id, part=part, hashes=value)
                self._headers[part] = (self._sign(sent), sent)
                return self._send_part(part)
            case ("sum", int(part)):
                return self._publish_sum(part, value)
            case ("part", int(part), str(sender)):
                return self._keep_input(part, sender, value)
            case ("part-sum", int(part), str()):
                self._summing.checked(part, value)
                return self._complete()
        raise ValueError(f"{name} is no job of this session")

    def elapsed(self, name: str) -> list[Effect]:
        """A timer asked for by `Wait` has run out."""
        if self.step >= Step.DONE:
            return []
        if name == "set" and self._set is None:
            return self._fail(f"no survivor set became final in time, after {self.step.name.lower()}")
        if name == "sums":
            if self._recovery is not None and not self._recovery.complete:
                return self._fail("too few shares came to take the masks off")
            return self._fail(f"no sum came for part {self._summing.missing[0]} of {len(self.cut.parts)}")
        if name.startswith("receipt "):
            return self._sign_receipt(int(name.split()[1]))
        try:
            return self._propose_late(name) if self.me == self.terms.proposer else []
        except TooFew as few:
            return self._fail(str(few))

    def _propose_late(self, name: str) -> list[Effect]:
        """Propose with what has come in time. Raises TooFew."""
        if name == "share" and self._lists is None:
            return self._propose_lists()
        if name == "ready" and self.step is Step.READY:
            return self._tell_all(self._proposer.ready_set())
        if name == "mask" and self.step is Step.MASK and self._proposer.proposal is None:
            return self._propose(late=True)
        if name == "votes" and self._set is None:
            return self._tell_all(self._proposer.final_set())
        return []

    # -- SHARE ------------------------------------------------------------------------------------

    def _on_share_list(self, sender: PeerID, raw: bytes) -> list[Effect]:
        self._shares.check_shape(sender, self._open(sender, raw, ShareList))
        self._proposer.lists.setdefault(sender, raw)
        if self._lists is not None or not all_of(self._proposer.lists, self.members):
            return []
        return self._propose_lists()

    def _propose_lists(self) -> list[Effect]:
        return [Wait("ready", self.terms.agree_seconds), *self._tell_all(self._proposer.share_lists())]

    def _on_share_lists(self, sender: PeerID, raw: bytes) -> list[Effect]:
        message = self._open(sender, raw, ShareLists)
        if self._lists is not None:
            if self._lists[1] != message.digest():
                self._findings.convict("two lists", sender, self._lists[0], raw)
                raise MessageRefused("share-lists: the proposer sent two different ones")
            return [] if self._ready is None else self._tell(sender, self._ready, Ready)
        dealt: dict[PeerID, Dealt] = {}
        for one in message.lists:
            dealer, opened = self._said(one, ShareList)
            self._shares.check_shape(dealer, opened)
            dealt[dealer] = Dealt(one, opened)
        if list(dealt) != sorted(dealt) or not self.terms.minimum <= len(dealt) == len(message.lists):
            raise MessageRefused(
                f"share-lists: {len(message.lists)} lists; {self.terms.minimum} or more, sorted, are needed"
            )
        wrong = self._shares.accept(dealt, raw)
        self._lists = (raw, message.digest())
        self.dealers = tuple(dealt)
        self.step = Step.READY
        differing = self._shares.differing_pairs()
        if differing:
            disclosed = self._disclose("mask") if any(self.me in pair for pair in differing) else []
            failed = self._fail(f"the pair keys of {' and '.join(differing[0])} differ")
            return [*disclosed, *failed, *self._replay()]  # a disclosure may have come before the lists
        if wrong:  # never ready: by counting, its shares are among those that may be known (protocol.md)
            return [*self._disclose("seal"), *self._replay()]
        if self.me not in dealt:
            return self._replay()
        self._ready = self._sign(Ready(session=self.id, lists=self._lists[1]))
        return [*self._tell(sender, self._ready, Ready), *self._replay()]

    # -- READY ------------------------------------------------------------------------------------

    def _on_ready(self, sender: PeerID, raw: bytes) -> list[Effect]:
        self._check_ready(sender, self._open(sender, raw, Ready))
        if self.step is not Step.READY:
            return []
        self._proposer.ready.setdefault(sender, raw)
        complete = all_of(self._proposer.ready, self.dealers)
        return self._tell_all(self._proposer.ready_set()) if complete else []

    def _check_ready(self, signer: PeerID, message: Ready) -> None:
        if self._lists is None or signer not in self._shares.dealt:
            raise MessageRefused(f"ready: {signer} dealt no shares in this session")
        if message.lists != self._lists[1]:
            raise MessageRefused("ready: for other share lists")

    def _on_ready_set(self, sender: PeerID, raw: bytes) -> list[Effect]:
        message = self._open(sender, raw, ReadySet)
        if self.step is not Step.READY:
            return []
        said = [self._said(one, Ready) for one in message.ready]
        for signer, ready in said:
            self._check_ready(signer, ready)
        signers = [signer for signer, _ in said]
        check_quorum("ready-set", signers, self.terms.minimum)
        self._shares.ready = dict(zip(signers, message.ready, strict=True))
        # Only they mask, and only they can survive: whoever has shown its mask key is never ready.
        return self._begin_mask(tuple(signers))

    # -- MASK -------------------------------------------------------------------------------------

    def _begin_mask(self, dealers: tuple[PeerID, ...]) -> list[Effect]:
        self.step, self.dealers = Step.MASK, dealers
        owners = tuple(owner for owner in self.terms.owners if owner in dealers) or dealers
        self.cut = self._mine.cut = Cut(len(self.update), owners, dealers, self.terms.chunk)
        self._chains = {part: self.cut.chain(part) for part in self.cut.parts}
        self._receipts = self._proposer.receipts = Receipts(self.cut)
        effects: list[Effect] = [Wait("mask", self.terms.mask_seconds)]
        if self.me in dealers:
            masks = [] if self._sharing is None else self._sharing.masks()
            effects += [Job(self.id, ("mask", p), partial(self._mask, p, masks)) for p in self.cut.parts]
        return [*effects, *self._replay()]

    def _mask(self, part: int, masks: list[Mask]) -> tuple[bytes, ...]:
        return add_masks(self.update[self.cut.slices[part]], self.cut.first(part), masks, self.terms.chunk)

    def _send_part(self, part: int) -> list[Effect]:
        owner = self._chains[part][0]
        (header, message), data = self._headers[part], self.update[self.cut.slices[part]]
        if owner != self.me:
            return [SendPart(owner, self.id, part, header, data)]
        self._inputs.put(self.me, header, message, data)
        try:
            return self._keep_input(part, self.me, True)
        except MessageRefused:
            return []  # its receipt is out: this member is no survivor

    def _keep_input(self, part: int, sender: PeerID, holds: bool) -> list[Effect]:
        held = self._inputs.checked(part, sender, holds)
        if held == len(self.dealers):
            return self._sign_receipt(part)
        return [Wait(f"receipt {part}", self.terms.mask_seconds / 4)] if held == self.terms.minimum else []

    def _sign_receipt(self, part: int) -> list[Effect]:
        senders, headers = self._inputs.close(part)
        if not senders:
            return []
        return self._tell_proposer(Receipt(session=self.id, part=part, senders=senders, headers=headers))

    # -- AGREE ------------------------------------------------------------------------------------

    def _on_receipt(self, sender: PeerID, raw: bytes) -> list[Effect]:
        other = self._receipts.add(sender, raw, self._open(sender, raw, Receipt))
        if other is not None:
            self._findings.convict("two receipts", sender, other, raw)
        if self._proposer.proposal is not None or self.step is not Step.MASK:
            return []
        _, survivors = self._receipts.candidates(late=False)
        return self._propose() if len(survivors) >= self.terms.minimum else []

    def _propose(self, late: bool = False) -> list[Effect]:
        proposed = self._proposer.survivor_set(late)
        raw = self._sign(proposed)
        self._proposer.proposal = (raw, proposed)
        own = self.receive(self.me, raw, SurvivorSet)
        return [*self._broadcast(raw), Wait("votes", self.terms.agree_seconds), *own]

    def _on_survivor_set(self, sender: PeerID, raw: bytes) -> list[Effect]:
        if self._signed_set is not None:
            if self._open(sender, raw, SurvivorSet) != self._open(sender, self._signed_set[0], SurvivorSet):
                self._findings.convict("two sets", sender, self._signed_set[0], raw)
                raise MessageRefused("survivor-set: the proposer sent two different sets")
            return self._tell(sender, self._signed_set[1], SetVote)
        proposed, _ = self._checked_set(sender, raw)
        if self._set is not None:
            return []
        vote = SetVote(
            session=self.id,
            survivor_set=proposed.digest(),
            seed=self.secrets.seed if self._sharing is None else None,
            statements=tuple(self.statements),
        )
        self._signed_set = (raw, self._sign(vote))
        self.step = Step.AGREE
        return [*self._tell(sender, self._signed_set[1], SetVote), *self._replay()]

    def _checked_set(self, sender: PeerID, raw: bytes) -> tuple[SurvivorSet, dict[int, PeerID]]:
        """A survivor set that its receipts carry, and the owner of each part. Raises MessageRefused."""
        if self._read_set is not None and self._read_set[0] == raw:
            return self._read_set[1:]
        proposed = self._open(sender, raw, SurvivorSet)
        if len(proposed.survivors) < self.terms.minimum:
            raise MessageRefused(
                f"survivor-set: {len(proposed.survivors)} survivors, at least {self.terms.minimum}"
            )
        receipts = [self._said(raw, Receipt) for raw in proposed.receipts]
        owners = self._receipts.owners_of(proposed.survivors, receipts)
        self._read_set = (raw, proposed, owners)
        return proposed, owners

    def _on_set_vote(self, sender: PeerID, raw: bytes) -> list[Effect]:
        if self._proposer.proposal is None:
            raise MessageRefused("set-vote: this member proposed nothing")
        proposed = self._proposer.proposal[1]
        self._check_vote(sender, self._open(sender, raw, SetVote), proposed.digest())
        if self._set is not None:
            return []
        self._proposer.votes.setdefault(sender, raw)
        complete = all_of(self._proposer.votes, proposed.survivors)
        return self._tell_all(self._proposer.final_set()) if complete else []

    def _check_vote(self, sender: PeerID, vote: SetVote, survivor_set: bytes) -> None:
        check_vote(sender, self.adverts[sender][1], vote, survivor_set, self._sharing is not None)

    def _on_final_set(self, sender: PeerID, raw: bytes) -> list[Effect]:
        final = self._open(sender, raw, FinalSet)
        if self._set is not None:
            return []
        proposed, owners = self._checked_set(sender, final.proposal)
        if proposed.digest() != final.survivor_set:
            raise MessageRefused("final-set: the votes are for another proposal")
        signed = final.proposal if self._signed_set is None else self._signed_set[0]
        if signed != final.proposal and self._open(sender, signed, SurvivorSet) != proposed:
            self._findings.convict("two sets", sender, signed, final.proposal)
        votes = [self._said(vote, SetVote) for vote in final.votes]
        for signer, vote in votes:
            self._check_vote(signer, vote, final.survivor_set)
        check_quorum("final-set", [signer for signer, _ in votes], self.terms.minimum)
        self._set, self.step = proposed, Step.UNMASK
        self._sums = Sums(self.cut, owners, final.survivor_set, len(self.update), self.update.dtype)
        self._final, self._proposal, self._final_votes = raw, final.proposal, tuple(votes)
        wait = Wait("sums", self.terms.mask_seconds)
        if self._sharing is None:
            return [wait, *self._sum_parts()]
        self._recovery = Recovery(self._sharing, final.survivor_set, proposed.survivors, final.proposal)
        release = self._sharing.release(final.survivor_set, proposed.survivors)
        return [wait, *self._tell_all(release), *self._replay()]

    # -- UNMASK -----------------------------------------------------------------------------------

    def _on_release(self, sender: PeerID, raw: bytes) -> list[Effect]:
        message = self._open(sender, raw, Release)
        if self._recovery is None:
            raise MessageRefused("release: nothing is masked here")
        complete = self._recovery.complete
        for found in self._recovery.add(sender, message, raw):
            self._findings.keep(found)
        if complete or not self._recovery.complete:
            return []
        return [*self._sum_parts(), *self._complete()]

    def _sum_parts(self) -> list[Effect]:
        assert self._set is not None
        masks = [] if self._recovery is None else self._recovery.masks()
        effects: list[Effect] = []
        for part in self.cut.parts:
            if self._summing.owners[part] != self.me:
                continue
            try:
                data = self._inputs.take(part, self._set.survivors)
            except MessageRefused as refusal:
                return self._fail(str(refusal))
            effects.append(Job(self.id, ("sum", part), partial(self._sum, part, data, masks)))
        self._inputs.drop()
        return effects

    def _sum(self, part: int, inputs: list[np.ndarray], masks: list[Mask]) -> tuple[bytes, ...]:
        total = self._summing.of(part)
        return sum_unmasked(inputs, self.cut.first(part), masks, self.terms.chunk, total)

    def _publish_sum(self, part: int, hashes: tuple[bytes, ...]) -> list[Effect]:
        assert self._set is not None
        header = self._sign(
            PartSum(session=self.id, part=part, survivor_set=self._set.digest(), hashes=hashes)
        )
        self._summing.headers[part] = header
        total = self._summing.of(part)
        sends: list[Effect] = [SendSum(peer, self.id, part, header, total) for peer in self._others()]
        return [*sends, *self._complete()]

    def _complete(self) -> list[Effect]:
        recovered = self._recovery is None or self._recovery.complete
        if self._set is None or self._summing.missing or not recovered:
            return []
        self.step = Step.DONE
        agreed, votes = self._set, self._final_votes
        return [Completed(self._summing.total, agreed.survivors, agreed.digest(), votes, self._beacon())]

    def _beacon(self) -> tuple[bytes, ...]:
        """What the seeds give to the beacon, in the order of the members they are from."""
        if self._recovery is None:
            seeds = [vote.seed for _, vote in self._final_votes if vote.seed is not None]
        else:
            seeds = [self._recovery.seeds[survivor] for survivor in self._recovery.survivors]
        return tuple(beacon_share(seed) for seed in seeds)

    def transcript(self) -> Transcript | None:
        """What later checks of this session rest on, once its seeds are out; None before."""
        if self._set is None or (self._recovery is not None and not self._recovery.complete):
            return None
        return Transcript(
            self.id,
            self.me,
            self.adverts,
            self._set,
            self._final,
            self._beacon(),
            self.cut,
            self.chunks,
            self.update,
            {part: raw for part, (raw, _) in self._headers.items()},
            {
                p: self._said(raw, Receipt)[1]
                for p, raw in zip(self.cut.parts, self._set.receipts, strict=True)
            },
            self._summing.owners,
            {part: (raw, self._said(raw, PartSum)[1]) for part, raw in self._summing.headers.items()},
            self._sharing,
            self._recovery,
        )

    # -- OPEN -------------------------------------------------------------------------------------

    def open_chunk(self, index: int, sane: Sane) -> list[Effect]:
        """The sum failed in chunk `index`: show this member's masked integers, look at everyone's."""
        if self.step is not Step.DONE or self._set is None:
            return []
        part, _ = self.cut.holding(index)
        receipt, published = self._set.receipts[self.cut.parts.index(part)], self._summing.headers[part]
        claim = Claim(
            self._summing.owners[part],
            self._said(receipt, Receipt)[1],
            (published, self._said(published, PartSum)[1]),
            self._proposal,
        )
        survivors, dtype = self._set.survivors, self.update.dtype
        self._openings = Openings(
            self._sharing, self._recovery, self.adverts, survivors, self.cut, index, dtype, claim, sane
        )
        self.step = Step.OPEN
        if self.me not in survivors:
            return self._replay()
        raw, own = self._sign(self._mine.show(index)), list[Effect]()
        with suppress(MessageRefused):  # an owner may have signed for another header than this member's
            own = self.receive(self.me, raw, Shown)
        return [*self._broadcast(raw), *own, *self._replay()]

    def _answer(self, sender: PeerID, message: SessionMessage) -> list[Effect]:
        """What this member tells of a chunk that is not, or not yet, the one that its own sum fails in."""
        asked = isinstance(message, Shown | Opening) and message.chunk < self.chunks and sender != self.me
        said = self._mine.answer(sender, message) if asked else None
        if isinstance(said, Shown):
            return [Tell(sender, self._sign(said))]
        return [] if said is None else self._tell_all(said)

    @property
    def silent(self) -> set[PeerID]:
        """Who may be why a sum failed, where nothing convicts anybody: `Openings.silent`."""
        bounds = self.me, self.terms.minimum, self.terms.colluders
        return set() if self._openings is None else self._openings.silent(*bounds)

    def _on_shown(self, sender: PeerID, raw: bytes) -> list[Effect]:
        assert self._openings is not None
        message, could = self._open(sender, raw, Shown), self._openings.may_open
        answer = self._answer(sender, message) if message.chunk != self._openings.chunk else []
        if answer:
            return answer
        header = self._open(sender, message.header, Part)
        for found in self._openings.show(sender, raw, message, header):
            self._findings.keep(found)
        if could or not self._openings.may_open or self._sharing is None:
            return []
        for peer, early in self._held_openings.items():
            with suppress(MessageRefused):
                self._on_opening(peer, early)
        own = self._mine.open(message.chunk)
        return [] if own is None else self._tell_all(own)

    def _on_opening(self, sender: PeerID, raw: bytes) -> list[Effect]:
        assert self._openings is not None
        message = self._open(sender, raw, Opening)
        answer = self._answer(sender, message)
        if not self._openings.may_open:
            self._held_openings[sender] = raw
        elif message.chunk == self._openings.chunk or not answer:
            for found in self._openings.open(sender, raw, message):
                self._findings.keep(found)
        return answer

    # -- evidence ---------------------------------------------------------------------------------

    def _on_disclosure(self, sender: PeerID, raw: bytes) -> list[Effect]:
        message = self._open(sender, raw, Disclosure)
        if (sender, message.kind) in self._disclosed:
            return []
        if self._lists is None:
            raise MessageRefused("disclosure: this member has seen no share lists")
        self._disclosed.add((sender, message.kind))
        for found in self._shares.judge(sender, message, raw):
            self._findings.keep(found)
        return []

    def _disclose(self, kind: str) -> list[Effect]:
        """Show who lied; this member then masks nothing in this session, so the key gives nothing away."""
        raw = self._sign(self._shares.disclose(kind))
        return [*self._broadcast(raw), *self._on_disclosure(self.me, raw)]

    # -- all steps --------------------------------------------------------------------------------

    @property
    def _shares(self) -> Sharing:
        if self._sharing is None:
            raise MessageRefused("share: nothing is masked in this session")
        return self._sharing

    def _tell_proposer(self, message: SessionMessage) -> list[Effect]:
        return self._tell(self.terms.proposer, self._sign(message), type(message))

    def _broadcast(self, raw: bytes) -> list[Effect]:
        return [Tell(member, raw) for member in self._others()]

    @property
    def _summing(self) -> Sums:
        assert self._sums is not None  # there is one from UNMASK on
        return self._sums

    def _others(self) -> list[PeerID]:
        return [member for member in self.members if member != self.me]

    def _tell(self, to: PeerID, raw: bytes, kind: type[SessionMessage]) -> list[Effect]:
        return self.receive(self.me, raw, kind) if to == self.me else [Tell(to, raw)]

    def _tell_all(self, message: SessionMessage) -> list[Effect]:
        raw = self._sign(message)
        return [*self._broadcast(raw), *self.receive(self.me, raw, type(message))]

    def _replay(self) -> list[Effect]:
        """Take up what came early and is understood now."""
        effects: list[Effect] = []
        for kind, sender in list(self._early):
            if FROM[kind] <= self.step and (kind, sender) in self._early:
                with suppress(MessageRefused):  # its sender heard nothing of it when it came, nor does it now
                    effects += self.receive(sender, self._early.pop((kind, sender)), kind)
        return effects

    def _awaited(self, sender: PeerID, header: bytes, kind: type[T]) -> T:
        last, message = self._announced.get((kind, sender), (b"", None))  # `room` has opened it already
        if last != header or not isinstance(message, kind):
            message = self._open(sender, header, kind)
        self._announced[kind, sender] = (header, message)
        if self.step >= Step.DONE:
            raise MessageRefused(f"{kind.DOMAIN}: this session is over")
        if self.step < (Step.MASK if kind is Part else Step.UNMASK):
            raise NotYet(f"{kind.DOMAIN}: this member is still at {self.step.name.lower()}")
        self.cut.check_header(message)
        part = message.part
        if isinstance(message, PartSum):
            self._summing.check_header(sender, message)
        else:
            if sender not in self.dealers:
                raise MessageRefused(f"part: {sender} dealt no shares and masks nothing")
            other = self._inputs.other_header(part, sender, header)
            if other is not None and self._open(sender, other, Part) != message:  # not only signed anew
                self._findings.convict("two parts", sender, other, header)
            self._inputs.check_header(part, sender, header, len(self.members) - self.terms.minimum)
        return message

    def _sign(self, message: Message) -> bytes:
        raw = self.sign(message)
        self._own[raw] = message
        return raw

    def _signed(self, raw: bytes, kind: type[S]) -> tuple[PeerID, S]:
        own = self._own.get(raw)
        return (self.me, own) if isinstance(own, kind) else self.check(raw, kind)

    def _said(self, raw: bytes, kind: type[S]) -> tuple[PeerID, S]:
        """A member's statement in this session, and the member."""
        signer, message = self._signed(raw, kind)
        if signer not in self.adverts:
            raise MessageRefused(f"{kind.DOMAIN}: {signer} is no member of this session")
        if message.session != self.id:
            raise MessageRefused(f"{kind.DOMAIN}: for another session")
        return signer, message

    def _open(self, sender: PeerID, raw: bytes, kind: type[S]) -> S:
        signer, message = self._said(raw, kind)
        if signer != sender:
            raise MessageRefused(f"{kind.DOMAIN}: {sender} brought a statement of {signer}")
        return message

    def _fail(self, reason: str) -> list[Effect]:
        self.step = Step.VOID
        return [Failed(reason)]
