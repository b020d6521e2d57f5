"""Evidence as one peer judges it: its own finds, and what others bring; sans-I/O.

The promise: a judgement that evidence holds is signed only after this peer has examined it itself, by
computing again where that is what it takes; so no honest peer ever accuses falsely. What one member can
make others fetch, keep and compute is bounded; evidence that does not hold bans whoever brought it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from proto.canonical import Message, PeerID, tagged_hash
from proto.errors import MessageRefused
from secagg.interface import Tell
from secagg.messages import Advert, Evidence
from swarm.effects import Ask, Effect, Recompute, SaveEvidence
from swarm.manifest import Manifest
from swarm.openings import EvidenceAsked
from swarm.order import DataView, Order, chained_order, draw_order, post_of
from verify.chains import counted_of
from verify.check import convicts
from verify.evidence import EvidenceRefused, PortableEvidence, Rules, examine, portable
from verify.lottery import in_turn
from verify.opened import SENT_TOLERANCE, Apart, Tensors, gather, read_opening
from verify.record import History, colluders
from verify.standing import COMPUTED_AGAIN, MOST_OPEN, Charge, Judgement
from verify.statement import open_signed
from verify.wiring import wire_chains
from verify.work_evidence import BoundaryCase, UpdateCase, farthest, read_boundary, read_order, read_update

ROUNDS = 4
"""Rounds of which the orders can still be told."""
REMEMBERED = 4_096
"""Names of evidence that was judged."""

Work = UpdateCase | BoundaryCase
"""What is to be computed again."""


class Judge:
    """One peer as judge. `sign` signs as `me`; `keys`: for effects."""

    def __init__(
        self,
        me: PeerID,
        manifest: Manifest,
        shared: DataView,
        sign: Callable[[Message], bytes],
        rules: Rules,
        keys: Iterator[int],
    ) -> None:
        self._me, self._manifest, self._shared, self._sign = me, manifest, shared, sign
        self._rules, self._keys = rules, keys
        self._histories: dict[int, History] = {}
        self._judged: dict[bytes, tuple[str, PeerID]] = {}  # what evidence is of; forgets the oldest
        self._denied: dict[Charge, None] = {}  # charges that are not what their evidence is of
        self._own: set[tuple[str, PeerID]] = set()
        self._wanted: dict[PeerID, deque[Charge]] = {}  # what a member brought; the first is being fetched
        self._fetching: dict[int, tuple[PeerID, Charge]] = {}
        self._waiting: deque[tuple[PortableEvidence, Work]] = deque()
        self._computing: tuple[int, PortableEvidence, Work] | None = None

    def moved(self, history: History) -> list[Effect]:
        """A record is final; what the rounds before rested on is kept for a while.

        Evidence that is still to be judged is asked for again, from all who say that it holds.
        """
        self._histories[history.round + 1] = history
        while len(self._histories) > ROUNDS:
            self._histories.pop(next(iter(self._histories)))
        effects: list[Effect] = []
        for (name, kind, against), tally in history.conduct.judged.items():
            for signer in sorted(tally.saying(True)):
                effects += self._want(signer, name, kind, against, history)
        return effects

    def bring(self, evidence: Sequence[Evidence], history: History) -> list[Effect]:
        """Judge what sessions and agreements have come upon since, and tell all members."""
        effects: list[Effect] = []
        for found in evidence:
            known = found.against in history.roster or found.against in history.changed
            if known and found.against != self._me and (found.kind, found.against) not in self._own:
                self._own.add((found.kind, found.against))
                effects += self.accuse(found, history) or []
        return effects

    def accuse(self, found: Evidence, history: History) -> list[Effect] | None:
        """Tell all of evidence of one's own; None, and nothing is told, if it would not hold for others."""
        try:
            case = portable(history.run, found)
            if case.kind in COMPUTED_AGAIN:
                self._read(case)  # the caller has computed it
            elif not self._examined(case):
                return None
        except MessageRefused:
            return None
        return [] if case.digest() in self._judged else self._say(case, True, history)

    def heard(self, raw: bytes, history: History) -> list[Effect]:
        """A member's judgement, admissible by the history: look at the evidence that it brings."""
        signed = open_signed(raw, Judgement)
        said = signed.message
        return (
            self._want(signed.signer, said.evidence, said.kind, said.against, history) if said.holds else []
        )

    def _want(
        self, signer: PeerID, name: bytes, kind: str, against: PeerID, history: History
    ) -> list[Effect]:
        """Ask `signer` for evidence, one after the other, if this peer is to judge it and has not."""
        wanted = self._wanted.setdefault(signer, deque())
        mine = kind not in COMPUTED_AGAIN or self._me in self._jury(name, against, history)
        charge = (name, kind, against)
        if name in self._judged:
            return self._deny(charge, history)
        if charge in wanted or not mine:
            return []
        if signer not in history.roster or self._me in (signer, against) or len(wanted) >= MOST_OPEN:
            return []
        wanted.append(charge)
        return self._fetch(signer) if len(wanted) == 1 else []

    def _deny(self, charge: Charge, history: History) -> list[Effect]:
        """Say no, once, to a charge that is not what its evidence, which this peer has judged, is of."""
        name, kind, against = charge
        if self._judged[name] == (kind, against) or charge in self._denied:
            return []
        self._denied[charge] = None
        while len(self._denied) > REMEMBERED:
            self._denied.pop(next(iter(self._denied)))
        return self._say_of(charge, False, history)

    def _jury(self, name: bytes, against: PeerID, history: History) -> list[PeerID]:
        """Who computes again where that is what it takes, drawn by the evidence's own name: of those who hold
        what the accused holds, or held lately."""
        late = [*self._histories.values(), history]
        shards = {one.shard_of(against) for one in late if against in one.roster}
        others = [
            peer
            for peer in history.members
            if peer != against and (not shards or history.shard_of(peer) in shards)
        ]
        may_collude = max(1, colluders(history.peers_of(against)))
        return in_turn(tagged_hash("jury", name), others)[: 2 * may_collude + 1]

    def answered(self, key: int, raws: Sequence[bytes] | None, history: History) -> list[Effect] | None:
        """The answer to a fetch; None if `key` is none of this judge's."""
        if key not in self._fetching:
            return None
        signer, charge = self._fetching.pop(key)
        effects: list[Effect] = []
        try:
            if raws and sum(map(len, raws)) <= PortableEvidence.MOST_BYTES:
                case = PortableEvidence.parse(b"".join(raws))
                if (case.digest(), case.kind, case.against) == charge:
                    effects = self._judge(case, history)
                elif case.digest() == charge[0]:  # it may hold, but not for what it was brought for
                    effects = self._say_of(charge, False, history)
        except MessageRefused:
            effects = []  # it is no evidence at all: whoever signed for it stands alone with it
        self._wanted[signer].popleft()  # what did not come is asked for again after the next record
        return [*effects, *self._fetch(signer)]

    def recomputed(
        self, key: int, encoded: np.ndarray | None, apart: Apart, history: History
    ) -> list[Effect] | None:
        """What computing again gave, integers [size]; None as the result if `key` is none of this judge's.
        `apart`: how far what was sent is from it."""
        if self._computing is None or self._computing[0] != key:
            return None
        _, case, read = self._computing
        self._computing = None
        holds = None
        if isinstance(read, BoundaryCase):
            holds = convicts(max(apart.values()), SENT_TOLERANCE) if apart else None
        elif encoded is not None:
            tolerance = self._manifest.verification.tolerance
            holds = convicts(farthest(read, encoded, self._rules.chunk), tolerance)
        return [*self._say(case, holds, history), *self._compute_next(history)]

    def order(self, history: History, attempt: int, peer: PeerID, advert: Advert) -> Order:
        """What `peer` had to compute in an attempt at the round after `history`. Raises MessageRefused for an
        advert whose certificates do not hold."""
        if history.shards:
            counted = counted_of(advert, peer, wire_chains(history, attempt))
            return chained_order(history, attempt, peer, self._shared, self._manifest.work, counted)
        own = advert.data_root is not None
        view = DataView(advert.data_count, advert.data_root) if own else self._shared
        return draw_order(history, attempt, peer, view, self._manifest.work)

    # -- judging ------------------------------------------------------------------------------------------

    def _fetch(self, signer: PeerID) -> list[Effect]:
        wanted = self._wanted[signer]
        while wanted and wanted[0][0] in self._judged:  # another has brought it meanwhile
            wanted.popleft()
        if not wanted:
            return []
        key, charge = next(self._keys), wanted[0]
        self._fetching[key] = (signer, charge)
        return [Ask(key, signer, self._sign(EvidenceAsked(evidence=charge[0])))]

    def _judge(self, case: PortableEvidence, history: History) -> list[Effect]:
        """Find whether it holds: at once, or by computing again where this peer is drawn for that."""
        if case.digest() in self._judged or case.against == self._me:
            return []
        try:
            if case.run != history.run:
                raise EvidenceRefused("evidence: of another run")
            if case.kind in COMPUTED_AGAIN:
                return self._judge_work(case, history)
            return self._say(case, self._examined(case), history)
        except MessageRefused:
            return self._say(case, False, history)

    def _examined(self, case: PortableEvidence) -> bool | None:
        """Whether evidence that needs no computing holds. Raises EvidenceRefused if it does not."""
        if case.kind == "order":
            advert, opening = read_order(case, self._rules)
            order = self._order_at(advert, case.against)
            return None if order is None else order.digest() != opening.order
        examine(case, self._rules)
        return True

    def _read(self, case: PortableEvidence) -> Work:
        return (read_update if case.kind == "update" else read_boundary)(case, self._rules)

    def _judge_work(self, case: PortableEvidence, history: History) -> list[Effect]:
        if self._me not in self._jury(case.digest(), case.against, history):
            return []
        read = self._read(case)
        if bool(read.boundary) != bool(history.shards):
            raise EvidenceRefused("update: what a chain member opened, and only that, goes with it")
        if bool(read.text) != (self._manifest.data.mode == "own" or bool(history.shards)):
            raise EvidenceRefused("update: the text that was drawn, and no other, goes with it")
        self._remember(case)
        self._waiting.append((case, read))
        return self._compute_next(history)

    def _compute_next(self, history: History) -> list[Effect]:
        while self._waiting and self._computing is None:
            case, read = self._waiting.popleft()
            try:
                effect = self._recompute(case, read, history)
            except MessageRefused:
                return [*self._say(case, False, history), *self._compute_next(history)]
            if effect is not None:  # else it is too old to be told here, or of another shard
                self._computing = (effect.key, case, read)
                return [effect]
        return []

    def _recompute(self, case: PortableEvidence, read: Work, history: History) -> Recompute | None:
        order = self._order_at(read.advert, case.against)
        if order is None or order.shard != history.shard_of(self._me):
            return None
        view = DataView(read.advert.data_count, read.advert.data_root)
        if not read.boundary:
            return Recompute(next(self._keys), order, read.slice, read.text or None, view)
        then = self._histories[read.advert.round]
        tensors = tensors_of(case, read, order, then, self._manifest)
        return Recompute(next(self._keys), order, read.slice, None, view, tensors)

    def history_at(self, round_: int) -> History | None:
        """The history at record `round_`, if that is a late one."""
        return self._histories.get(round_ + 1)

    def _order_at(self, advert: Advert, peer: PeerID) -> Order | None:
        """What `peer` had to compute in the attempt of its advert; None where that is not known here."""
        history = self._histories.get(advert.round)
        if history is None or peer not in history.roster:
            return None
        if (advert.shard, advert.snapshot) != (shard := history.shard_of(peer), history.snapshot_of(shard)):
            return None
        return self.order(history, advert.attempt, peer, advert)

    def _say(self, case: PortableEvidence, holds: bool | None, history: History) -> list[Effect]:
        """Sign what this peer finds, and tell all; nothing where it cannot tell. The evidence is kept."""
        name = case.digest()
        self._remember(case)
        if holds is None:
            return []
        # What does not hold is kept too: it shows why those who brought it are banned.
        return [
            SaveEvidence(name, case.encode()),
            *self._say_of((name, case.kind, case.against), holds, history),
        ]

    def _say_of(self, charge: Charge, holds: bool, history: History) -> list[Effect]:
        name, kind, against = charge
        judgement = Judgement(
            run=history.run,
            round=said_at(history, self._me),
            evidence=name,
            kind=kind,
            against=against,
            holds=holds,
        )
        raw = self._sign(judgement)
        return [Tell(peer, raw) for peer in history.members]  # to itself too: it carries what all do

    def _remember(self, case: PortableEvidence) -> None:
        self._judged[case.digest()] = (case.kind, case.against)
        while len(self._judged) > REMEMBERED:
            self._judged.pop(next(iter(self._judged)))


def tensors_of(
    case: PortableEvidence, read: Work, order: Order, history: History, manifest: Manifest
) -> Tensors:
    """The tensors in a piece of evidence, if they are those that were signed. Raises MessageRefused."""
    if not read.slice < len(order.slices):
        raise EvidenceRefused(f"{case.kind}: slice {read.slice} of {len(order.slices)}")
    post = post_of(history, order, read.slice, case.against, manifest.model.boundary)
    opened = read_opening(read.boundary, read.session, post)
    tensors = gather(read.text)
    opened.check(tensors)
    came, went = opened.keys(sent=False), [key for key in tensors if key[0]]
    if isinstance(read, BoundaryCase):
        came = [key for key in came if went and key[2] == went[0][2]]
    if opened.opening.slice != read.slice or set(came) != {key for key in tensors if not key[0]}:
        raise EvidenceRefused(f"{case.kind}: not the tensors that it takes to compute slice {read.slice}")
    if len(went) != isinstance(read, BoundaryCase):
        raise EvidenceRefused(f"{case.kind}: {len(went)} tensors that were sent")
    return tensors


def said_at(history: History, me: PeerID) -> int:
    """The record that a statement names: one back, so that a member which is one behind takes it as well."""
    return max(history.round - 1, history.changed.get(me, 0))
