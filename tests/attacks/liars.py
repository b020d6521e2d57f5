"""Members that lie in an aggregation session, and what everyone can check when it is over.

A `Hand` changes what liars say on its way out of an otherwise honest session; it signs with their keys. It
writes down what everyone emitted, so that a test can look at the whole run. `recheck` goes through a
piece of evidence as a stranger would: from signed statements alone, without the session's own code.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from proto.canonical import Message, PeerID, tagged_hash
from proto.errors import MessageRefused
from secagg.interface import Completed, Effect, Failed, SendPart, SendSum, Tell
from secagg.keys import (
    Secrets,
    agree,
    dealing_seed,
    pair_seed,
    public_key,
    seal,
    self_seed,
    unseal,
)
from secagg.masks import Mask, add_masks, chunk_keys_root, sign_towards, sum_unmasked
from secagg.messages import (
    SHARE_BYTES,
    Advert,
    Disclosure,
    Evidence,
    FinalSet,
    Opening,
    Part,
    PartSum,
    Ready,
    Receipt,
    Release,
    SessionMessage,
    SetVote,
    ShareList,
    ShareLists,
    Shown,
    SurvivorSet,
    chunk_hashes,
    seed_commitment,
)
from secagg.session import Session
from secagg.shamir import combine, split
from tests.secagg.session_network import CHUNK, KEYS, KINDS, Cell, check, secrets_of
from verify.evidence import PortableEvidence, Rules, examine, portable
from verify.identity import Identity
from verify.statement import domain_of, open_signed, sign

STRANGER = Identity.from_seed(bytes([7]) * 32)

Said = Iterable[Message | bytes]
Rule = Callable[[PeerID, Message], Said]
"""What goes to a member instead of a message: messages for the liar to sign, or signed statements."""
Transfer = SendPart | SendSum
TransferRule = Callable[[Transfer], Iterable[Transfer]]

RULES = Rules(np.dtype("<i2"), CHUNK, lambda update, weight: int(np.abs(update.astype(int)).max()) <= 1000)
"""What an examiner knows of a `Cell`: every honest update of one is within these bounds."""

TWICE = {"two lists": ShareLists, "two sets": SurvivorSet, "two receipts": Receipt, "two parts": Part}
TWICE_FOUND = {"two sums": PartSum, "two releases": Release}


def open_any(raw: bytes) -> tuple[PeerID, Message]:
    """Signer and message of a statement of whatever kind a session has."""
    return check(
        raw, {**KINDS, Part.DOMAIN: Part, PartSum.DOMAIN: PartSum, Advert.DOMAIN: Advert}[domain_of(raw)]
    )


class Hand:
    """A hand in `cell`, whose members `liars` (by place) follow `rules`; the first member proposes."""

    def __init__(self, cell: Cell, *liars: int) -> None:
        self.cell, self.peers = cell, cell.peers
        self.liars = [cell.peers[place] for place in liars]
        self.honest = [peer for peer in cell.peers if peer not in self.liars]
        self.emitted: list[tuple[PeerID, Effect]] = []
        self._says: dict[tuple[PeerID, str], Rule] = {}
        self._sends: dict[tuple[PeerID, type[Transfer]], TransferRule] = {}
        cell.on_effect = self._look

    @property
    def session(self) -> Session:
        """An honest member's session."""
        return self.cell.sessions[self.honest[0]]

    def says(self, liar: PeerID, kind: type[Message], rule: Rule) -> None:
        """What `liar` tells instead of a message of `kind`."""
        self._says[liar, kind.DOMAIN] = rule

    def sends(self, liar: PeerID, kind: type[Transfer], rule: TransferRule) -> None:
        """What `liar` streams instead."""
        self._sends[liar, kind] = rule

    def loses(self, sender: PeerID, kind: type[Message], to: Iterable[PeerID] | None = None) -> None:
        """Messages of `kind` from `sender` to these members (or to all) do not arrive."""
        lost = set(self.peers if to is None else to)
        self.says(sender, kind, lambda member, message: [] if member in lost else [message])

    def say(self, liar: PeerID, to: PeerID, said: Message | bytes) -> None:
        """`liar` tells `to` something more, from now on in the queue."""
        raw = said if isinstance(said, bytes) else sign(KEYS[liar], said)
        self.cell.later(to, lambda: self.cell.tell(liar, to, raw))

    def refuse(self, sender: PeerID, to: PeerID, said: Message | bytes) -> str:
        """`to` refuses what `sender` tells it, now; the refusal's text."""
        raw = said if isinstance(said, bytes) else sign(KEYS[sender], said)
        try:
            effects = self.cell.sessions[to].receive(sender, raw, KINDS[domain_of(raw)])
        except MessageRefused as refusal:
            return str(refusal)
        raise AssertionError(f"{domain_of(raw)} was taken: {effects}")

    def _look(self, me: PeerID, effect: Effect) -> bool:
        self.emitted.append((me, effect))
        if isinstance(effect, Tell):
            rule = self._says.get((me, domain_of(effect.raw)))
            if rule is None or open_any(effect.raw)[0] != me:
                return True
            for said in rule(effect.to, open_any(effect.raw)[1]):
                self.say(me, effect.to, said)
            return False
        sends = self._sends.get((me, type(effect)))  # type: ignore[arg-type]
        if sends is None:
            return True
        assert isinstance(effect, SendPart | SendSum)
        for sent in sends(effect):
            self.cell.later(me, lambda e=sent: self.cell.transfer(me, e))  # type: ignore[misc]
        return False

    # -- what was said ------------------------------------------------------------------------------

    def told(self, kind: type[Message], by: Iterable[PeerID] | None = None) -> list[tuple[PeerID, Message]]:
        """Every message of `kind` that honest members (or `by`) told, one for each that heard it."""
        who = set(self.honest if by is None else by)
        return [
            (me, open_any(effect.raw)[1])
            for me, effect in self.emitted
            if me in who and isinstance(effect, Tell) and domain_of(effect.raw) == kind.DOMAIN
        ]

    def parts(self, by: Iterable[PeerID] | None = None) -> list[tuple[PeerID, SendPart]]:
        """Every part that an honest member (or one of `by`) sent."""
        who = set(self.honest if by is None else by)
        return [(me, e) for me, e in self.emitted if isinstance(e, SendPart) and me in who]

    # -- how it ended ---------------------------------------------------------------------------------

    def run(self) -> "Hand":
        """Run the cell to its end, and check what must hold whatever the liars did."""
        self.cell.run()
        for peer in self.honest:
            assert peer in self.cell.dead or peer in self.cell.outcome, "every honest session ends"
            for found in self.cell.sessions[peer].evidence:
                assert found.against in self.liars, f"an honest member is accused of {found.kind}"
                self.recheck(found)
        sets = {message.survivor_set for _, message in self.told(Release)}  # type: ignore[attr-defined]
        assert len(sets) <= 1, "honest members never release for two sets"
        for peer in self.honest:
            assert len({m.encode() for _, m in self.told(Release, [peer])}) <= 1, "nobody releases twice"
        return self

    def drain(self) -> None:
        """Deliver what is in the queue, once the sessions are over."""
        while self.cell.queue:
            self.cell.queue.pop(0)[1]()

    def ends(self, who: Iterable[PeerID] | None = None) -> list[Completed | Failed]:
        return [self.cell.outcome[peer] for peer in (self.honest if who is None else who)]

    def all_failed(self, why: str = "") -> None:
        """Every honest member failed, for a reason that says `why`."""
        for peer, end in zip(self.honest, self.ends(), strict=True):
            assert isinstance(end, Failed), f"{peer} completed"
            assert why in end.reason, end.reason

    def all_completed(self, survivors: Iterable[PeerID], who: Iterable[PeerID] | None = None) -> None:
        """Every honest member (or `who`) has exactly numpy's sum over exactly these survivors."""
        chosen = tuple(sorted(survivors))
        total = np.sum([self.cell.updates[peer] for peer in chosen], axis=0, dtype=np.int16)
        assert len(chosen) >= self.cell.minimum
        for end in self.ends(who):
            assert isinstance(end, Completed), end
            assert end.survivors == chosen
            assert np.array_equal(end.total, total)

    def convicted(self, kind: str, liar: PeerID, by: Iterable[PeerID] | None = None) -> None:
        """These members (or all honest ones), and no other honest ones, hold evidence, of this kind only."""
        holders = self.honest if by is None else list(by)
        for peer in self.honest:
            found = [(e.kind, e.against) for e in self.cell.sessions[peer].evidence]
            assert found == ([(kind, liar)] if peer in holders else []), f"{peer} holds {found}"

    # -- evidence, checked by a stranger --------------------------------------------------------------

    def recheck(self, found: Evidence) -> None:
        """Every statement is signed, is of this session, and together they show the lie."""
        opened = [open_any(raw) for raw in found.statements]
        assert len(opened) >= 2
        for signer, message in opened:
            if isinstance(message, Advert):
                raws = [raw for raw, _ in self.session.adverts.values()]
                assert sign(KEYS[signer], message) in raws, "an advert of another session"
            else:
                assert isinstance(message, SessionMessage)
                assert message.session == self.session.id, "a statement of another session"
        if found.kind in TWICE or found.kind in TWICE_FOUND:
            self._recheck_two(found, opened)
        elif isinstance(opened[-1][1], Disclosure):
            self._recheck_disclosure(found, opened)
        else:
            rechecks = {
                "seed": _recheck_seed,
                "share": self._recheck_share,
                "dealing": self._recheck_releases,
                "garbage": self._recheck_garbage,
                "sum": self._recheck_sum,
            }
            rechecks[found.kind](found, opened)
        portable_ = portable(self.session.adverts[found.against][1].run, found)
        assert found.against in examine(PortableEvidence.parse(portable_.encode()), RULES)

    def _recheck_two(self, found: Evidence, opened: list[tuple[PeerID, Message]]) -> None:
        (signer, one), (other_signer, other) = opened
        assert type(one) is type(other) is (TWICE | TWICE_FOUND)[found.kind]
        assert signer == other_signer == found.against
        assert one != other
        if not isinstance(one, ShareLists | SurvivorSet | Release):
            assert one.part == other.part

    def _recheck_disclosure(self, found: Evidence, opened: list[tuple[PeerID, Message]]) -> None:
        (author, mine), (dealer, theirs), (liar, dealt), (discloser, shown) = opened
        assert isinstance(mine, Advert)
        assert isinstance(theirs, Advert)
        assert isinstance(dealt, ShareList)
        assert isinstance(shown, Disclosure)
        assert (discloser, liar) == (author, found.against)
        assert liar in (author, dealer)
        session, members = self.session.id, self.session.members
        if shown.kind == "mask":
            assert found.kind == "pair key"
            assert mine.mask_key is not None
            assert theirs.mask_key is not None
            assert public_key(shown.key) == mine.mask_key
            seed = pair_seed(agree(shown.key, theirs.mask_key), session, author, dealer)
            partner = dealer if liar == author else author
            chunks = -(-len(self.session.update) // CHUNK)
            assert dealt.pair_roots[members.index(partner)] != chunk_keys_root(seed, chunks)
            return
        assert found.kind == "dealing"
        assert liar == dealer
        assert mine.seal_key is not None
        assert theirs.seal_key is not None
        assert public_key(shown.key) == mine.seal_key
        place = members.index(author)
        try:
            shared = agree(shown.key, theirs.seal_key)
            plain = unseal(dealt.sealed[place], shared, session, dealer, author)
        except MessageRefused:
            return
        shares = (plain[:SHARE_BYTES], plain[SHARE_BYTES:])
        hashes = tuple(
            share_hash(session, dealer, author, kind, share)
            for kind, share in zip(("mask", "seed"), shares, strict=True)
        )
        assert hashes != (dealt.mask_shares[place], dealt.seed_shares[place])

    def final(self) -> tuple[tuple[PeerID, ...], tuple[PeerID, ...]]:
        """The dealers and the survivors, from what the proposer told."""
        (lists,) = {m.encode(): m for _, m in self.told(ShareLists, self.peers[:1])}.values()
        assert isinstance(lists, ShareLists)
        return tuple(open_signed(raw, ShareList).signer for raw in lists.lists), final_proposal(
            self
        ).survivors

    def _share_in(
        self, release: Release, dealt: ShareList, dealer: PeerID, holder: PeerID
    ) -> tuple[bytes, bool]:
        """The share of `dealer`'s secret in a release by `holder`, and whether it is the one dealt."""
        dealers, survivors = self.final()
        share = release.shares[dealers.index(dealer)]
        kind = "seed" if dealer in survivors else "mask"
        hashes = dealt.seed_shares if kind == "seed" else dealt.mask_shares
        hashed = share_hash(self.session.id, dealer, holder, kind, share)
        return share, hashed == hashes[self.session.members.index(holder)]

    def _recheck_share(self, found: Evidence, opened: list[tuple[PeerID, Message]]) -> None:
        (holder, release), *papers = opened
        assert isinstance(release, Release)
        assert holder == found.against
        lists = self._recheck_papers(holder, papers)
        shares = [self._share_in(release, dealt, dealer, holder) for dealer, dealt in lists]
        assert any(share and not holds for share, holds in shares)

    def _recheck_papers(
        self, accused: PeerID, papers: list[tuple[PeerID, Message]]
    ) -> list[tuple[PeerID, ShareList]]:
        """The accused was ready for the lists that everyone had, and the set is the final one; the lists."""
        (readier, ready), (_, lists), (_, proposed) = papers
        assert readier == accused
        assert isinstance(ready, Ready)
        assert isinstance(lists, ShareLists)
        assert ready.lists == lists.digest()
        assert proposed == final_proposal(self)
        opened = [open_signed(raw, ShareList) for raw in lists.lists]
        return [(one.signer, one.message) for one in opened]

    def _recheck_releases(self, found: Evidence, opened: list[tuple[PeerID, Message]]) -> None:
        (dealer, advert), (author, dealt), *releases = opened
        assert isinstance(advert, Advert)
        assert isinstance(dealt, ShareList)
        assert found.kind == "dealing"
        assert dealer == author == found.against
        assert len(releases) == self.session.terms.threshold
        shares: dict[int, bytes] = {}
        for holder, release in releases:
            assert isinstance(release, Release)
            share, holds = self._share_in(release, dealt, dealer, holder)
            assert holds
            shares[self.session.members.index(holder)] = share
        assert len(shares) == len(releases)
        try:
            secret = combine(shares)
        except MessageRefused:
            return
        _, survivors = self.final()
        if dealer in survivors:
            assert seed_commitment(secret) != advert.seed_commitment
        else:
            assert public_key(secret) != advert.mask_key

    def _recheck_sum(self, found: Evidence, opened: list[tuple[PeerID, Message]]) -> None:
        """All survivors showed what they sent; what the owner published is not what it adds up to."""
        (owner, published), *papers = opened[:4]
        assert isinstance(published, PartSum)
        self._recheck_papers(owner, papers)
        proposed = final_proposal(self)
        receipts = [open_signed(raw, Receipt) for raw in proposed.receipts]
        (receiver, receipt) = next(
            (o.signer, o.message) for o in receipts if o.message.part == published.part
        )
        assert owner == receiver == found.against
        assert published.survivor_set == proposed.digest()
        shown = [(author, one) for author, one in opened[4:] if isinstance(one, Shown)]
        assert all(isinstance(one, Release | Shown) for _, one in opened[4:])
        assert [author for author, _ in shown] == list(proposed.survivors)
        (chunk,) = {one.chunk for _, one in shown if isinstance(one, Shown)}
        masked = [self._shown(author, one, receipt) for author, one in shown]
        total = np.sum(masked, axis=0, dtype=np.int16)
        dealers, survivors = self.final()
        own = [own_mask(self, survivor) for survivor in survivors]
        lost = [pair_mask(self, s, d) for s in survivors for d in dealers if d not in survivors]
        place = chunk - self.session.cut.first(published.part)
        true = chunk_hashes(without(total, [*own, *lost], chunk), CHUNK)
        assert true != published.hashes[place : place + 1]

    def _recheck_garbage(self, found: Evidence, opened: list[tuple[PeerID, Message]]) -> None:
        """Without its masks, what the member showed is out of every bound; keys that were told hold."""
        (author, shown), *papers = opened[:4]
        assert isinstance(shown, Shown)
        assert author == found.against
        self._recheck_papers(author, papers)
        part, _ = self.session.cut.holding(shown.chunk)
        receipts = [open_signed(raw, Receipt).message for raw in final_proposal(self).receipts]
        (receipt,) = [one for one in receipts if one.part == part]
        dealers, survivors = self.final()
        masks = [own_mask(self, author), *(pair_mask(self, author, p) for p in dealers if p != author)]
        update = without(self._shown(author, shown, receipt), masks, shown.chunk)
        assert int(np.abs(update.astype(int)).max()) > 1000
        others = [(one, said) for one, said in opened[4:] if not isinstance(said, Release)]
        assert {one for one, _ in others} <= set(survivors)
        assert all(isinstance(said, Opening) and said.chunk == shown.chunk for _, said in others)

    def _shown(self, author: PeerID, shown: Message, receipt: Receipt) -> np.ndarray:
        """A member's masked integers in a chunk, which are those that the part's owner has signed for."""
        assert isinstance(shown, Shown)
        header = open_signed(shown.header, Part)
        assert header.signer == author
        assert dict(zip(receipt.senders, receipt.headers, strict=True))[author] == header.message.digest()
        data = np.frombuffer(shown.data, np.int16)
        place = shown.chunk - self.session.cut.first(receipt.part)
        assert chunk_hashes(data, CHUNK) == header.message.hashes[place : place + 1]
        return data


def _recheck_seed(found: Evidence, opened: list[tuple[PeerID, Message]]) -> None:
    (member, advert), (signer, release) = opened
    assert isinstance(advert, Advert)
    assert isinstance(release, Release)
    assert member == signer == found.against
    assert release.seed is not None
    assert seed_commitment(release.seed) != advert.seed_commitment


def share_hash(session: bytes, dealer: PeerID, holder: PeerID, kind: str, share: bytes) -> bytes:
    """What a share list says of one share, written again from the specification."""
    return tagged_hash("share", session, dealer.encode(), holder.encode(), kind.encode(), share)


def retold(cell: Cell, threshold: int | None = None, changes: Mapping[str, object] | None = None) -> Cell:
    """The same cell, not begun, with another share threshold, and with changes to all adverts."""
    signed = {}
    for peer, (_, advert) in cell.sessions[cell.peers[0]].adverts.items():
        changed = Advert.model_validate(advert.model_dump() | dict(changes or {}))
        signed[peer] = (sign(KEYS[peer], changed), changed)
    for peer, session in cell.sessions.items():
        cell.sessions[peer] = replace(
            session,
            adverts=signed,
            terms=replace(session.terms, threshold=threshold or session.terms.threshold),
            evidence=[],
        )
    return cell


def with_secrets(cell: Cell, secrets: Callable[[PeerID], Secrets]) -> Cell:
    """The same cell, not begun, whose members drew these secrets."""
    signed = {}
    for peer, (_, advert) in cell.sessions[cell.peers[0]].adverts.items():
        drawn = secrets(peer)
        changes = {
            "seal_key": public_key(drawn.seal),
            "mask_key": public_key(drawn.mask),
            "seed_commitment": seed_commitment(drawn.seed),
        }
        changed = Advert.model_validate(advert.model_dump() | changes)
        signed[peer] = (sign(KEYS[peer], changed), changed)
    for peer, session in cell.sessions.items():
        cell.sessions[peer] = replace(session, adverts=signed, secrets=secrets(peer), evidence=[])
    return cell


def dealt_by(
    cell: Cell,
    dealer: PeerID,
    *,
    mask: bytes | None = None,
    seed: bytes | None = None,
    threshold: int | None = None,
    scattered: bool = False,
    garbage: Iterable[PeerID] = (),
    unmatched: Iterable[PeerID] = (),
    roots: dict[PeerID, bytes] | None = None,
) -> ShareList:
    """A share list of `dealer` with lies in it.

    `mask`, `seed`: shared instead of its secrets. `scattered`: the shares lie on no polynomial. `garbage`:
    members whose sealed shares do not open. `unmatched`: members whose shares are not those of the
    hashes. `roots`: said of a pair's chunk keys instead of the true ones.
    """
    session, secrets = cell.sessions[dealer], secrets_of(dealer)
    members, n = session.members, len(session.members)
    degree = threshold or session.terms.threshold
    plain = {
        kind: split(secret, degree, n, dealing_seed(secrets.dealing, session.id, kind))
        for kind, secret in (("mask", mask or secrets.mask), ("seed", seed or secrets.seed))
    }
    if scattered:
        plain = {kind: [bytes([0, place + 1]) + bytes(31) for place in range(n)] for kind in plain}
    assert session._sharing is not None
    own = members.index(dealer)
    session._sharing._shares[dealer] = (plain["mask"][own], plain["seed"][own])  # it sticks to its lie
    sealed, pair_roots = [], []
    for place, member in enumerate(members):
        if member == dealer:
            sealed.append(b"")
            pair_roots.append(bytes(32))
            continue
        advert = session.adverts[member][1]
        assert advert.seal_key is not None
        assert advert.mask_key is not None
        both = plain["mask"][place] + plain["seed"][place]
        if member in set(unmatched):
            both = bytes(len(both))
        box = seal(both, agree(secrets.seal, advert.seal_key), session.id, dealer, member)
        sealed.append(bytes(len(box)) if member in set(garbage) else box)
        pair = pair_seed(agree(secrets.mask, advert.mask_key), session.id, dealer, member)
        true = chunk_keys_root(pair, -(-len(session.update) // CHUNK))
        pair_roots.append((roots or {}).get(member, true))
    hashes = {
        kind: tuple(
            share_hash(session.id, dealer, member, kind, share)
            for member, share in zip(members, shares, strict=True)
        )
        for kind, shares in plain.items()
    }
    return ShareList(
        session=session.id,
        sealed=tuple(sealed),
        mask_shares=hashes["mask"],
        seed_shares=hashes["seed"],
        pair_roots=tuple(pair_roots),
        threshold=session.terms.threshold,
        chunks=-(-len(session.update) // CHUNK),
    )


def pair_mask(hand: Hand, one: PeerID, other: PeerID) -> tuple[bytes, int]:
    """The mask that `one` adds for its pair with `other`."""
    key = hand.session.adverts[other][1].mask_key
    assert key is not None
    seed = pair_seed(agree(secrets_of(one).mask, key), hand.session.id, one, other)
    return seed, sign_towards(one, other)


def own_mask(hand: Hand, member: PeerID) -> tuple[bytes, int]:
    """A member's own mask."""
    return self_seed(secrets_of(member).seed, hand.session.id), 1


def without(vector: np.ndarray, masks: Iterable[tuple[bytes, int]], first: int = 0) -> np.ndarray:
    """A masked run of whole chunks, from chunk `first` on, without these masks."""
    bare = vector.copy()
    add_masks(bare, first, [(seed, -sign_) for seed, sign_ in masks], CHUNK)
    return bare


def resigned(sent: SendSum, owner: PeerID, data: np.ndarray) -> SendSum:
    """A sum of other data, with a header that fits them."""
    header = open_signed(sent.header, PartSum).message
    lie = header.model_copy(update={"hashes": chunk_hashes(data, CHUNK)})
    return replace(sent, header=sign(KEYS[owner], lie), data=data)


def lose_parts(hand: Hand, *lost: tuple[int, int]) -> None:
    """Parts from one member to another (by place) never arrive, and nobody says so."""
    gone = {(hand.peers[sender], hand.peers[owner]) for sender, owner in lost}
    look = hand.cell.on_effect

    def drop(me: PeerID, effect: Effect) -> bool:
        passed = look(me, effect)
        return passed and not (isinstance(effect, SendPart) and (me, effect.to) in gone)

    hand.cell.on_effect = drop


def without_last(message: Message) -> SurvivorSet:
    assert isinstance(message, SurvivorSet)
    return message.model_copy(update={"survivors": message.survivors[:-1]})


def votes_for_everything(hand: Hand, accomplice: PeerID) -> None:
    """`accomplice` votes for the proposer's set, and for the same without its last survivor."""

    def both(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, SetVote)
        (first,) = {m.encode(): m for _, m in hand.told(SurvivorSet, hand.liars[:1])}.values()
        other = message.model_copy(update={"survivor_set": without_last(first).digest()})
        return [message, other]

    hand.says(accomplice, SetVote, both)


def sends_nothing(hand: Hand, liar: PeerID) -> None:
    """No part of `liar` arrives anywhere, its own included: it is no survivor."""
    place = hand.peers.index(liar)
    lose_parts(hand, *[(place, owner) for owner in range(len(hand.peers))])


def recomputed(hand: Hand, part: int, owner: PeerID, own: tuple[bytes, np.ndarray]) -> tuple[bytes, ...]:
    """The chunk hashes of a part's true sum, from what was signed and released; `own`: the owner's input."""
    session, members = hand.session, hand.session.members
    dealers, _ = hand.final()
    proposed = final_proposal(hand)
    receipts = [open_signed(raw, Receipt) for raw in proposed.receipts]
    (receipt,) = [one for one in receipts if one.message.part == part]
    assert receipt.signer == owner
    named = dict(zip(receipt.message.senders, receipt.message.headers, strict=True))
    sent = {me: (e.header, e.data) for me, e in hand.parts(hand.peers) if e.part == part} | {owner: own}
    inputs = []
    for survivor in proposed.survivors:
        header, data = sent[survivor]
        signed = open_signed(header, Part)
        assert signed.signer == survivor
        assert named[survivor] == signed.message.digest(), "the input that the owner has signed for"
        assert signed.message.hashes == chunk_hashes(data, CHUNK)
        inputs.append(data)
    releases = {me: m for me, m in hand.told(Release, hand.peers) if isinstance(m, Release)}
    masks: list[Mask] = []
    for place, dealer in enumerate(dealers):
        seed = releases[dealer].seed
        if dealer in proposed.survivors:
            assert seed is not None
            assert seed_commitment(seed) == session.adverts[dealer][1].seed_commitment
            masks.append((self_seed(seed, session.id), 1))
            continue
        shares = {members.index(holder): release.shares[place] for holder, release in releases.items()}
        key = combine(dict(list(shares.items())[: session.terms.threshold]))
        for survivor in proposed.survivors:
            public = session.adverts[survivor][1].mask_key
            assert public is not None
            pair = pair_seed(agree(key, public), session.id, dealer, survivor)
            masks.append((pair, sign_towards(survivor, dealer)))
    first = hand.cell.sessions[owner].cut.first(part)
    return sum_unmasked(inputs, first, masks, CHUNK, np.empty_like(own[1]))


def final_proposal(hand: Hand) -> SurvivorSet:
    """The survivor set that became final."""
    (final,) = {m.encode(): m for _, m in hand.told(FinalSet, hand.peers[:1])}.values()
    assert isinstance(final, FinalSet)
    return open_signed(final.proposal, SurvivorSet).message


def sums_told(hand: Hand, by: Iterable[PeerID]) -> dict[tuple[PeerID, int], set[bytes]]:
    """Every header of a part's sum that was sent, by owner and part."""
    found: dict[tuple[PeerID, int], set[bytes]] = {}
    for me, effect in hand.emitted:
        if me in by and isinstance(effect, SendSum):
            found.setdefault((me, effect.part), set()).add(effect.header)
    return found


def lying_owner(
    lie: Callable[[SendSum], np.ndarray], missing: bool = False
) -> tuple[Hand, dict[PeerID, SendSum]]:
    """A cell in which member 3 sends `lie(its sum)`, signed; what it sent to whom."""
    hand = Hand(Cell(8), 3)
    liar = hand.liars[0]
    sent: dict[PeerID, SendSum] = {}
    if missing:
        sends_nothing(hand, hand.peers[6])

    def lies(effect: SendSum) -> list[SendSum]:
        sent[effect.to] = resigned(effect, liar, lie(effect))
        return [sent[effect.to]]

    hand.sends(liar, SendSum, lies)  # type: ignore[arg-type]
    return hand.run(), sent


def own_input(hand: Hand, owner: PeerID, part: int) -> tuple[bytes, np.ndarray]:
    """An owner's own masked part and its header, which it keeps."""
    session = hand.cell.sessions[owner]
    return session._headers[part][0], session.update[session.cut.slices[part]]


def ready_statements(hand: Hand) -> tuple[bytes, ...]:
    """What the proposer was told, in order, and its own word."""
    told = {me: e.raw for me, e in hand.emitted if isinstance(e, Tell) and domain_of(e.raw) == Ready.DOMAIN}
    told[hand.peers[0]] = sign(KEYS[hand.peers[0]], open_any(told[hand.peers[1]])[1])
    return tuple(told[member] for member in sorted(told))


def everything_said(cell: Cell) -> list[bytes]:
    """One statement of each kind, of a whole session of the cell's shape."""
    hand = Hand(cell).run()
    raws = {domain_of(e.raw): e.raw for _, e in hand.emitted if isinstance(e, Tell)}
    assert raws.keys() == KINDS.keys() - {Disclosure.DOMAIN, Shown.DOMAIN, Opening.DOMAIN}
    return list(raws.values())


def forged(hand: Hand, how: str, honest: FinalSet) -> FinalSet:
    """What the proposer could make of six true votes, with itself and its accomplice lying."""
    proposed = open_signed(honest.proposal, SurvivorSet).message
    smaller = without_last(proposed)
    raw = sign(KEYS[hand.liars[0]], smaller)

    def vote(liar: PeerID, survivor_set: bytes) -> bytes:
        return sign(
            KEYS[liar], SetVote(session=honest.session, survivor_set=survivor_set, seed=None, statements=())
        )

    own = [vote(liar, smaller.digest()) for liar in hand.liars]
    by_stranger = sign(STRANGER, open_signed(own[0], SetVote).message)
    stale = [
        sign(KEYS[peer], SetVote(session=bytes(32), survivor_set=smaller.digest(), seed=None, statements=()))
        for peer in hand.liars
    ]
    last = honest.votes[-1]
    altered = last[:-1] + bytes([last[-1] ^ 1])
    changes: dict[str, dict[str, object]] = {
        "too few votes": {"votes": honest.votes[:5]},
        "no votes": {"votes": ()},
        "one vote six times": {"votes": honest.votes[:1] * 6},
        "five votes and one again": {"votes": (*honest.votes[:5], honest.votes[4])},
        "votes for another set": {"survivor_set": smaller.digest(), "proposal": raw},
        "only the liars' votes": {
            "survivor_set": smaller.digest(),
            "proposal": raw,
            "votes": (*own, *own, *own),
        },
        "a stranger's vote": {"votes": (*honest.votes[:5], by_stranger)},
        "another session's votes": {"survivor_set": smaller.digest(), "proposal": raw, "votes": tuple(stale)},
        "another's proposal": {"proposal": sign(KEYS[hand.liars[1]], proposed)},
        "a name that is not the proposal's": {"proposal": raw},
        "an altered vote": {"votes": (*honest.votes[:-1], altered)},
    }
    return honest.model_copy(update=changes[how])
