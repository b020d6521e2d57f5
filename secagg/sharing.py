"""Sharing a session's secrets, and rebuilding what the survivors' masks need (Bonawitz et al. 2017).

The promises: a member's mask key comes out only if it is no survivor, its seed only if it is one, and
never both; whoever deals shares that do not fit, or hands on another share than it was dealt, leaves
evidence that anyone can check. Positions in tuples are those of the sorted members.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from proto.canonical import PeerID, tagged_hash
from proto.errors import MessageRefused
from proto.merkle import leaf_hash, verify_inclusion
from secagg.keys import (
    Secrets,
    agree,
    dealing_seed,
    pair_seed,
    private_key,
    public_key,
    seal,
    self_seed,
    unseal,
)
from secagg.masks import Mask, chunk_key, chunk_keys_root, sign_towards
from secagg.messages import (
    SEALED_BYTES,
    SHARE_BYTES,
    Advert,
    Disclosure,
    Evidence,
    Opening,
    Release,
    ShareList,
    seed_commitment,
)
from secagg.shamir import combine, split

NO_ROOT = bytes(32)


@dataclass(frozen=True)
class Dealt:
    """A share list as it came: signed, and opened."""

    raw: bytes
    message: ShareList


class Sharing:
    """One member's secrets in one session, and the shares it was dealt.

    `chunks`: of the whole vector. `threshold`: shares that rebuild a secret.
    """

    def __init__(
        self,
        me: PeerID,
        adverts: Mapping[PeerID, tuple[bytes, Advert]],
        session: bytes,
        secrets: Secrets,
        threshold: int,
        chunks: int,
    ) -> None:
        self.me, self.session, self.threshold, self.chunks = me, session, threshold, chunks
        self.adverts, self.members = adverts, sorted(adverts)
        self.dealt: dict[PeerID, Dealt] = {}
        self.lists = b""  # the signed ShareLists that they came in
        self.ready: dict[PeerID, bytes] = {}
        """The signed Ready of each masker: by it the lists are its own words too."""
        self._place = {member: place for place, member in enumerate(self.members)}
        self._secrets = secrets
        self._sealing: dict[PeerID, bytes] = {}  # what is agreed with each member, to seal shares with
        self._seeds: dict[PeerID, bytes] = {}  # of the masks with each partner
        self._chunk_keys: dict[PeerID, list[bytes]] = {}
        self._shares: dict[PeerID, tuple[bytes, bytes]] = {}  # of mask key and seed, by dealer

    def deal(self) -> ShareList:
        """This member's share list. Takes a few microseconds for each partner and chunk."""
        split_up = {
            kind: split(
                secret,
                self.threshold,
                len(self.members),
                dealing_seed(self._secrets.dealing, self.session, kind),
            )
            for kind, secret in (("mask", self._secrets.mask), ("seed", self._secrets.seed))
        }
        own = self._place[self.me]
        self._shares[self.me] = (split_up["mask"][own], split_up["seed"][own])
        sealed, roots = [], []
        seal_key, mask_key = private_key(self._secrets.seal), private_key(self._secrets.mask)
        for place, member in enumerate(self.members):
            if member == self.me:
                sealed.append(b"")
                roots.append(NO_ROOT)
                continue
            plain = split_up["mask"][place] + split_up["seed"][place]
            shared = self._sealing[member] = agree(seal_key, self._key(member, "seal"))
            sealed.append(seal(plain, shared, self.session, self.me, member))
            self._seeds[member] = self._pair_seed(mask_key, self.me, member)
            roots.append(chunk_keys_root(self._seeds[member], self.chunks))
        return ShareList(
            session=self.session,
            sealed=tuple(sealed),
            mask_shares=self._hashes(split_up["mask"], "mask"),
            seed_shares=self._hashes(split_up["seed"], "seed"),
            pair_roots=tuple(roots),
            threshold=self.threshold,
            chunks=self.chunks,
        )

    def accept(self, dealt: Mapping[PeerID, Dealt], lists: bytes) -> dict[PeerID, str]:
        """Take in the dealers' lists, as `lists` brought them; the dealers whose shares for this member do
        not hold, and why."""
        self.dealt, self.lists = dict(dealt), lists
        wrong: dict[PeerID, str] = {}
        for dealer in dealt:
            if dealer == self.me:
                continue
            try:
                shared = self._sealing.get(dealer) or agree(self._secrets.seal, self._key(dealer, "seal"))
                self._shares[dealer] = self._open(dealer, self.me, shared)
            except MessageRefused as refusal:
                wrong[dealer] = str(refusal)
        return wrong

    def masks(self) -> list[Mask]:
        """What this member adds to its update: its own mask, and the pair's with every other dealer."""
        pairs = [
            (self._seeds[dealer], sign_towards(self.me, dealer)) for dealer in self.dealt if dealer != self.me
        ]
        return [(self_seed(self._secrets.seed, self.session), 1), *pairs]

    def pair_keys(self, dealer: PeerID) -> list[bytes]:
        """The chunk keys of this member's mask with another dealer."""
        if dealer not in self._chunk_keys:  # a check opens many chunks, and each proof takes all keys
            keys = [chunk_key(self._seeds[dealer], index) for index in range(self.chunks)]
            self._chunk_keys[dealer] = keys
        return self._chunk_keys[dealer]

    def release(self, survivor_set: bytes, survivors: Sequence[PeerID]) -> Release:
        """Shares for exactly this set: of a survivor's seed, of any other dealer's mask key."""
        shares = tuple(
            self._shares.get(dealer, (b"", b""))[1 if dealer in survivors else 0] for dealer in self.dealt
        )
        return Release(
            session=self.session,
            survivor_set=survivor_set,
            seed=self._secrets.seed if self.me in survivors else None,
            shares=shares,
        )

    def disclose(self, kind: str) -> Disclosure:
        """The private key that shows who lied. Only where nothing was or will be masked by this member."""
        key = self._secrets.seal if kind == "seal" else self._secrets.mask
        return Disclosure.model_validate({"session": self.session, "kind": kind, "key": key})

    # -- what everyone can see ----------------------------------------------------------------------

    def check_shape(self, dealer: PeerID, message: ShareList) -> None:
        """Raises MessageRefused unless the list has an entry for each member, and this session's numbers."""
        n, own = len(self.members), self._place[dealer]
        lengths = {
            len(part)
            for part in (message.sealed, message.mask_shares, message.seed_shares, message.pair_roots)
        }
        sizes = [SEALED_BYTES] * n
        sizes[own] = 0
        if lengths != {n} or [len(sealed) for sealed in message.sealed] != sizes:
            raise MessageRefused(f"share-list: {dealer} dealt to others than the {n} members")
        if (message.threshold, message.chunks) != (self.threshold, self.chunks):
            raise MessageRefused(
                f"share-list: {dealer} dealt for {message.threshold} shares and {message.chunks} chunks, "
                f"this session has {self.threshold} and {self.chunks}"
            )

    def differing_pairs(self) -> list[tuple[PeerID, PeerID]]:
        """Pairs of dealers whose two roots over their chunk keys differ: one of the two lies."""
        return [
            (low, high)
            for low in self.dealt
            for high in self.dealt
            if low < high and self.root_of(low, high) != self.root_of(high, low)
        ]

    def judge(self, author: PeerID, message: Disclosure, raw: bytes) -> list[Evidence]:
        """Whom a disclosed key convicts: of a wrong root over pair keys, or of a share that does not open."""
        if public_key(message.key) != self._key(author, message.kind):
            raise MessageRefused(f"disclosure: not the {message.kind} key of {author}'s advert")
        found = []
        for dealer in self.dealt:
            if dealer == author:
                continue
            judged = self._judge_pair if message.kind == "mask" else self._judge_dealing
            liar = judged(author, dealer, message.key)
            if liar is not None:
                statements = (self.adverts[author][0], self.adverts[dealer][0], self.dealt[liar].raw, raw)
                found.append(Evidence("pair key" if message.kind == "mask" else "dealing", liar, statements))
        return found

    def _judge_pair(self, author: PeerID, partner: PeerID, key: bytes) -> PeerID | None:
        if author not in self.dealt or self.root_of(author, partner) == self.root_of(partner, author):
            return None
        true = chunk_keys_root(self._pair_seed(key, author, partner), self.chunks)
        return author if self.root_of(author, partner) != true else partner

    def _judge_dealing(self, author: PeerID, dealer: PeerID, key: bytes) -> PeerID | None:
        try:
            self._open(dealer, author, agree(key, self._key(dealer, "seal")))
        except MessageRefused:
            return dealer
        return None

    def _open(self, dealer: PeerID, holder: PeerID, shared: bytes) -> tuple[bytes, bytes]:
        message, place = self.dealt[dealer].message, self._place[holder]
        plain = unseal(message.sealed[place], shared, self.session, dealer, holder)
        mask, seed = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        if self.share_hash(dealer, holder, "mask", mask) != message.mask_shares[place]:
            raise MessageRefused(f"share-list: {dealer} dealt {holder} another share of its mask key")
        if self.share_hash(dealer, holder, "seed", seed) != message.seed_shares[place]:
            raise MessageRefused(f"share-list: {dealer} dealt {holder} another share of its seed")
        return mask, seed

    def share_hash(self, dealer: PeerID, holder: PeerID, kind: str, share: bytes) -> bytes:
        """What a share list shows of one share."""
        return tagged_hash("share", self.session, dealer.encode(), holder.encode(), kind.encode(), share)

    def _hashes(self, shares: Sequence[bytes], kind: str) -> tuple[bytes, ...]:
        return tuple(
            self.share_hash(self.me, member, kind, share)
            for member, share in zip(self.members, shares, strict=True)
        )

    def root_of(self, author: PeerID, partner: PeerID) -> bytes:
        """The root over a pair's chunk keys that `author` signed."""
        return self.dealt[author].message.pair_roots[self._place[partner]]

    def unproved(self, author: PeerID, opening: Opening) -> PeerID | None:
        """The first dealer for whom `author` opens a key outside the root that it signed for their pair.

        Raises MessageRefused for another number of keys than dealers.
        """
        dealers = list(self.dealt)
        if not len(opening.keys) == len(opening.proofs) == len(dealers):
            raise MessageRefused(f"opening: keys of {len(opening.keys)} masks, {len(dealers)} are needed")
        for dealer, key, proof in zip(dealers, opening.keys, opening.proofs, strict=True):
            root = self.root_of(author, dealer)
            held = verify_inclusion(leaf_hash(key), opening.chunk, self.chunks, proof, root)
            if dealer != author and not held:
                return dealer
        return None

    def _key(self, member: PeerID, kind: str) -> bytes:
        advert = self.adverts[member][1]
        key = advert.seal_key if kind == "seal" else advert.mask_key
        if key is None:
            raise MessageRefused(f"advert: {member} has no {kind} key")
        return key

    def _pair_seed(self, private: X25519PrivateKey | bytes, owner: PeerID, partner: PeerID) -> bytes:
        return pair_seed(agree(private, self._key(partner, "mask")), self.session, owner, partner)


class Recovery:
    """What the members release for one survivor set, until every mask that does not cancel is known.

    `survivor_set`: its digest; `proposal`: the signed SurvivorSet.
    """

    def __init__(
        self, sharing: Sharing, survivor_set: bytes, survivors: Sequence[PeerID], proposal: bytes
    ) -> None:
        self.survivors, self.survivor_set = survivors, survivor_set
        self.seeds: dict[PeerID, bytes] = {}
        self.keys: dict[PeerID, bytes] = {}
        self._sharing, self._proposal = sharing, proposal
        self._shares: dict[PeerID, dict[int, bytes]] = {dealer: {} for dealer in sharing.dealt}
        self._released: dict[int, tuple[bytes, Release]] = {}  # in the order in which they came

    @property
    def complete(self) -> bool:
        """Whether the seeds of all survivors and the mask keys of all other dealers are known."""
        return len(self.seeds) + len(self.keys) == len(self._sharing.dealt)

    def add(self, sender: PeerID, message: Release, raw: bytes) -> list[Evidence]:
        """Take a member's release; the evidence it completes. Raises MessageRefused, nothing changed."""
        sharing = self._sharing
        place = sharing.members.index(sender)
        if place in self._released:
            first, same = self._released[place]
            return [] if same == message else [Evidence("two releases", sender, (first, raw))]
        if message.survivor_set != self.survivor_set or len(message.shares) != len(sharing.dealt):
            raise MessageRefused("release: for another survivor set")
        advert = sharing.adverts[sender]
        if (message.seed is None) == (sender in self.survivors):
            raise MessageRefused("release: a survivor, and nobody else, shows its seed")
        if message.seed is not None and seed_commitment(message.seed) != advert[1].seed_commitment:
            return [Evidence("seed", sender, (advert[0], raw))]
        for (dealer, dealt), share in zip(sharing.dealt.items(), message.shares, strict=True):
            survives = dealer in self.survivors
            hashes = dealt.message.seed_shares if survives else dealt.message.mask_shares
            kind = "seed" if survives else "mask"
            if share and sharing.share_hash(dealer, sender, kind, share) != hashes[place]:
                return [Evidence("share", sender, (raw, *self.papers(sender)))]
        self._released[place] = (raw, message)
        if message.seed is not None:
            self.seeds[sender] = message.seed
        for dealer, share in zip(sharing.dealt, message.shares, strict=True):
            if share:
                self._shares[dealer][place] = share
        return [evidence for dealer in sharing.dealt for evidence in self._rebuild(dealer)]

    def _rebuild(self, dealer: PeerID) -> list[Evidence]:
        shares = self._shares[dealer]
        known = dealer in self.seeds or dealer in self.keys
        if known or len(shares) != self._sharing.threshold:  # beyond it, the answer would be the same
            return []
        advert, dealt = self._sharing.adverts[dealer], self._sharing.dealt[dealer]
        try:
            secret = combine(shares)
        except MessageRefused:
            secret = b""
        if dealer in self.survivors:
            if secret and seed_commitment(secret) == advert[1].seed_commitment:
                self.seeds[dealer] = secret
                return []
        elif secret and public_key(secret) == advert[1].mask_key:
            self.keys[dealer] = secret
            return []
        releases = tuple(self._released[place][0] for place in sorted(shares))
        return [Evidence("dealing", dealer, (advert[0], dealt.raw, *releases))]

    def papers(self, member: PeerID) -> tuple[bytes, bytes, bytes]:
        """What binds a masker to these lists and this set: its Ready, the ShareLists, the SurvivorSet.

        Raises MessageRefused for a member that was never ready: nothing signed says which lists it has seen.
        """
        ready = self._sharing.ready.get(member)
        if ready is None:
            raise MessageRefused(f"ready: {member} has not said which share lists it holds to")
        return ready, self._sharing.lists, self._proposal

    @property
    def releases(self) -> tuple[bytes, ...]:
        """Those that counted, in the order in which they came: secrets are rebuilt of the first shares."""
        return tuple(raw for raw, _ in self._released.values())

    def masks(self) -> list[Mask]:
        """What is left in the sum of the survivors' masked parts: own masks, and pairs with the others."""
        sharing = self._sharing
        own = [(self_seed(self.seeds[survivor], sharing.session), 1) for survivor in self.survivors]
        pairs = [
            (self.pair_seed(dealer, survivor), sign_towards(survivor, dealer))
            for dealer in self.keys
            for survivor in self.survivors
        ]
        return [*own, *pairs]

    def pair_seed(self, dealer: PeerID, survivor: PeerID) -> bytes:
        """The seed of the mask that a survivor has with a dealer whose mask key was rebuilt."""
        return self._sharing._pair_seed(self.keys[dealer], dealer, survivor)
