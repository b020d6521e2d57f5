"""Portable evidence: a file that shows anyone, offline, that a peer broke the protocol.

`examine` promises: whoever it convicts has signed what no honest member signs. It trusts nothing in the
file. Every signature is checked, the session's id is computed again from the adverts, and a secret counts
only if it is the one that its owner's advert commits to. So whatever liars put together, even all other
members of a session, they convict no honest one. What each kind contains and proves: docs/evidence.md.

Three kinds rest on what *others* said: `share`, `sum` and `garbage`. There the accused's own Ready names
the share lists it held to, and its own signature the survivor set where that matters, so that no other
lists or set can be put in their place.

Kinds that other modules know are added to `EXAMINERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from blake3 import blake3
from pydantic import ValidationError

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from proto.merkle import leaf_hash, verify_inclusion
from secagg.keys import agree, pair_seed, public_key, unseal
from secagg.masks import Masker, chunk_key, chunk_keys_root, sign_towards
from secagg.messages import (
    SHARE_BYTES,
    Advert,
    Disclosure,
    Evidence,
    Opening,
    Part,
    PartSum,
    Receipt,
    Release,
    SessionMessage,
    ShareList,
    ShareLists,
    Shown,
    SurvivorSet,
    seed_commitment,
)
from secagg.shamir import combine
from verify.case import (
    EvidenceRefused,
    Papers,
    PortableEvidence,
    Rules,
    Session,
    check_order,
    open_named,
)
from verify.chains import BoundaryList, Confirmation, two_confirmations, two_lists
from verify.record import Vote
from verify.statement import Signed, domain_of
from verify.work_evidence import examine_mask_key, examine_opening, examine_results, examine_slices

__all__ = ["EXAMINERS", "EvidenceRefused", "PortableEvidence", "Rules", "examine", "portable"]

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=SessionMessage)

Examiner = Callable[[PortableEvidence, Rules], str]


def portable(run: bytes, evidence: Evidence) -> PortableEvidence:
    """The file of a piece of evidence. Raises EvidenceRefused if it is too large to be carried."""
    try:
        made = PortableEvidence(
            run=run,
            kind=evidence.kind,
            against=evidence.against,
            adverts=evidence.adverts,
            statements=evidence.statements,
        )
    except ValidationError as error:
        raise EvidenceRefused(
            f"evidence: {evidence.kind!r} does not fit a file ({error.error_count()})"
        ) from None
    size = sum(map(len, (*made.adverts, *made.statements)))
    if size > PortableEvidence.MOST_BYTES - (64 << 10):
        raise EvidenceRefused(
            f"evidence: {size} bytes of statements, a file has {PortableEvidence.MOST_BYTES}"
        )
    return made


def examine(evidence: PortableEvidence, rules: Rules) -> str:
    """What the evidence proves, and against whom, in one sentence.

    Raises EvidenceRefused, which says why, if it does not hold, or is of a kind that nobody here knows.
    """
    examiner = EXAMINERS.get(evidence.kind)
    if examiner is None:
        raise EvidenceRefused(
            f"evidence: of the unknown kind {evidence.kind!r}; known: {', '.join(EXAMINERS)}"
        )
    try:
        return examiner(evidence, rules)
    except EvidenceRefused:
        raise
    except MessageRefused as refusal:
        raise EvidenceRefused(f"{evidence.kind}: {refusal}") from None


# -- kinds --------------------------------------------------------------------------------------------------


def _twice(kind: type[S], what: str, of_part: bool) -> Examiner:
    """An examiner of two different statements of a kind that an honest member makes once."""

    def examine_two(evidence: PortableEvidence, rules: Rules) -> str:
        session = Session.of(evidence, rules)
        session.count(2)
        one, other = session.by_accused(0, kind), session.by_accused(1, kind)
        if one == other:
            raise EvidenceRefused(f"{evidence.kind}: both statements say the same")
        part = getattr(one, "part", None)
        if part != getattr(other, "part", None):
            raise EvidenceRefused(f"{evidence.kind}: the statements are of two parts")
        of = f" of part {part}" if of_part else ""
        return f"{evidence.against} signed two different {what}{of} {session.where}"

    return examine_two


def _pair_key(evidence: PortableEvidence, rules: Rules) -> str:
    session = Session.of(evidence, rules)
    session.count(4)
    author, partner = session.check_advert(0), session.check_advert(1)
    dealt, shown = session.by_accused(2, ShareList), session.said(3, Disclosure, author).message
    session.check_list(evidence.against, dealt)
    if evidence.against not in (author, partner) or author == partner:
        raise EvidenceRefused(f"pair key: {evidence.against} is not one of a pair with {author}")
    if shown.kind != "mask" or public_key(shown.key) != session.mask_key(author):
        raise EvidenceRefused(f"pair key: what was disclosed is not the mask key of {author}'s advert")
    other = partner if evidence.against == author else author
    seed = pair_seed(agree(shown.key, session.mask_key(partner)), session.id, author, partner)
    if dealt.pair_roots[session.members.index(other)] == chunk_keys_root(seed, dealt.chunks):
        raise EvidenceRefused(f"pair key: the root that {evidence.against} signed is the true one")
    return f"{evidence.against} signed a false root over its mask's keys with {other} {session.where}"


def _dealing(evidence: PortableEvidence, rules: Rules) -> str:
    session = Session.of(evidence, rules)
    last = evidence.statements[-1] if evidence.statements else b""
    if last and domain_of(last) == Disclosure.DOMAIN:
        return _sealed(session)
    if len(evidence.statements) < 3 or session.check_advert(0) != evidence.against:
        raise EvidenceRefused("dealing: the accused's advert, its share list and releases are needed")
    dealt = session.by_accused(1, ShareList)
    session.check_list(evidence.against, dealt)
    session.count(2 + dealt.threshold)
    releases = [session.said(at, Release) for at in range(2, 2 + dealt.threshold)]
    check_order([one.signer for one in releases], "dealing: the releases' authors")
    if len({one.message.survivor_set for one in releases}) != 1:
        raise EvidenceRefused("dealing: releases for different survivor sets")
    for kind, hashes in (("seed", dealt.seed_shares), ("mask", dealt.mask_shares)):
        shares: dict[int, bytes] = {}
        for one in releases:
            place = session.members.index(one.signer)
            for share in one.message.shares:
                if session.share_hash(evidence.against, one.signer, kind, share) == hashes[place]:
                    shares[place] = share
        if len(shares) == dealt.threshold:
            return _rebuilt_wrong(session, kind, shares)
    raise EvidenceRefused(f"dealing: the releases do not hold {dealt.threshold} shares of {evidence.against}")


def _rebuilt_wrong(session: Session, kind: str, shares: Mapping[int, bytes]) -> str:
    advert, against = session.adverts[session.evidence.against], session.evidence.against
    try:
        secret = combine(shares)
    except MessageRefused:
        secret = b""
    if kind == "seed":
        right = bool(secret) and seed_commitment(secret) == advert.seed_commitment
    else:
        right = bool(secret) and public_key(secret) == advert.mask_key
    if right:
        raise EvidenceRefused(f"dealing: the shares of {against} rebuild the {kind} of its advert")
    return f"{against} dealt shares that rebuild another {kind} than its advert's {session.where}"


def _sealed(session: Session) -> str:
    """The first shape: what was sealed for a member does not open, or is not what was hashed."""
    session.count(4)
    against = session.evidence.against
    author, dealer = session.check_advert(0), session.check_advert(1)
    dealt, shown = session.by_accused(2, ShareList), session.said(3, Disclosure, author).message
    session.check_list(against, dealt)
    if dealer != against or author == dealer:  # nobody seals anything for itself
        raise EvidenceRefused(f"dealing: {against} dealt nothing to {author} here")
    if shown.kind != "seal" or public_key(shown.key) != session.seal_key(author):
        raise EvidenceRefused(f"dealing: what was disclosed is not the seal key of {author}'s advert")
    place = session.members.index(author)
    wrong = f"{against} sealed for {author} what is not the shares it signed for {session.where}"
    try:
        shared = agree(shown.key, session.seal_key(dealer))
        plain = unseal(dealt.sealed[place], shared, session.id, dealer, author)
    except MessageRefused:
        return wrong
    shares = {"mask": plain[:SHARE_BYTES], "seed": plain[SHARE_BYTES:]}
    hashed = {kind: session.share_hash(dealer, author, kind, share) for kind, share in shares.items()}
    if hashed == {"mask": dealt.mask_shares[place], "seed": dealt.seed_shares[place]}:
        raise EvidenceRefused(f"dealing: what {against} sealed for {author} opens and is what it signed for")
    return wrong


def _seed(evidence: PortableEvidence, rules: Rules) -> str:
    session = Session.of(evidence, rules)
    session.count(2)
    if session.check_advert(0) != evidence.against:
        raise EvidenceRefused(f"seed: the advert is not that of {evidence.against}")
    release = session.by_accused(1, Release)
    if release.seed is None:
        raise EvidenceRefused("seed: the release shows none")
    if seed_commitment(release.seed) == session.adverts[evidence.against].seed_commitment:
        raise EvidenceRefused("seed: it is the one that the advert commits to")
    return f"{evidence.against} released a seed that its advert does not commit to {session.where}"


def _share(evidence: PortableEvidence, rules: Rules) -> str:
    session = Session.of(evidence, rules)
    session.count(4)
    release, papers = session.by_accused(0, Release), Papers(session)
    papers.check_release(release)
    for dealer, share in zip(papers.dealt, release.shares, strict=True):
        if share and not papers.share_holds(dealer, evidence.against, share):
            return f"{evidence.against} released another share than {dealer} dealt it {session.where}"
    raise EvidenceRefused(f"share: every share that {evidence.against} released is the one it was dealt")


def _sum(evidence: PortableEvidence, rules: Rules) -> str:
    session, against = Session.of(evidence, rules), evidence.against
    published = session.by_accused(0, PartSum)
    papers = Papers(session) if session.masked else None
    proposed = papers.survivor_set if papers else session.said(1, SurvivorSet).message
    survivors = check_order(proposed.survivors, "survivor-set: its survivors")
    if published.survivor_set != proposed.digest():
        raise EvidenceRefused(f"sum: {against} published a sum over another survivor set")
    receipts = [session.inner(raw, Receipt, f"receipt {at}") for at, raw in enumerate(proposed.receipts)]
    mine = [one.message for one in receipts if one.message.part == published.part and one.signer == against]
    if len(mine) != 1 or len(mine[0].senders) != len(mine[0].headers):
        raise EvidenceRefused(f"sum: the survivor set has no receipt of {against} for part {published.part}")
    named = dict(zip(mine[0].senders, mine[0].headers, strict=True))
    first_shown = len(evidence.statements) - len(survivors)
    if first_shown < (4 if papers else 2) or (papers is None and first_shown != 2):
        raise EvidenceRefused(f"sum: the chunks of all {len(survivors)} survivors are needed")
    shown: list[tuple[Part, bytes]] = []
    chunks: set[int] = set()
    for at, survivor in enumerate(survivors, first_shown):
        one = session.said(at, Shown, survivor).message
        header = session.inner(one.header, Part, f"statement {at}: its header", survivor).message
        if header.part != published.part or named.get(survivor) != header.digest():
            raise EvidenceRefused(f"statement {at}: not the part of {survivor} that the receipt names")
        chunks.add(one.chunk)
        shown.append((header, one.data))
    if len(chunks) != 1:
        raise EvidenceRefused(f"sum: the survivors show {len(chunks)} different chunks")
    (chunk,) = chunks
    vectors = [_integers(data, rules) for _, data in shown]
    if len({len(vector) for vector in vectors}) != 1:
        raise EvidenceRefused("sum: the survivors show runs of different lengths")
    places = _places(published, shown)
    total = np.sum(vectors, axis=0, dtype=rules.dtype)
    if papers is not None:
        places &= {chunk - _first_chunk(published.part, papers, receipts)}
        papers.recover(4, first_shown)
        _unmask_sum(total, chunk, papers)
    if not places:
        raise EvidenceRefused(f"sum: what is shown is not chunk {chunk} of what was sent")
    if all(published.hashes[place] == _hash(total) for place in places):
        raise EvidenceRefused(
            f"sum: chunk {chunk} of part {published.part} is what the survivors' parts add up to"
        )
    return (
        f"{against} published a sum of part {published.part} that is wrong in chunk {chunk} {session.where}"
    )


def _places(published: PartSum, shown: Sequence[tuple[Part, bytes]]) -> set[int]:
    """Where in the part everyone's header has the hash of what it shows."""
    fitting = set(range(len(published.hashes)))
    for header, data in shown:
        name = blake3(data).digest()
        fitting &= {place for place, digest in enumerate(header.hashes) if digest == name}
    return fitting


def _first_chunk(part: int, papers: Papers, receipts: Sequence[Signed[Receipt]]) -> int:
    """The index of a part's first chunk: the last part is never empty, its number says how many there are."""
    owners = 1 + max(one.message.part for one in receipts)
    return part * papers.chunks // owners


def _unmask_sum(total: np.ndarray, chunk: int, papers: Papers) -> None:
    masker = Masker(papers.session.rules.dtype, papers.session.rules.chunk)
    for survivor in papers.survivors:
        masker.add(total, chunk, [(papers.seed(survivor), -1)])
        masker.add(
            total,
            chunk,
            [(papers.pair(gone, survivor), -sign_towards(survivor, gone)) for gone in papers.gone],
        )


def _garbage(evidence: PortableEvidence, rules: Rules) -> str:
    session, against = Session.of(evidence, rules), evidence.against
    shown = session.by_accused(0, Shown)
    integers = _integers(shown.data, rules).copy()
    header = session.inner(shown.header, Part, "statement 0: its header", against).message
    if blake3(shown.data).digest() not in header.hashes:
        raise EvidenceRefused("garbage: the header that is shown is not that of the integers")
    if session.masked:
        _unmask_own(integers, shown.chunk, Papers(session))
    else:
        session.count(1)
    if rules.sane(integers, session.adverts[against].weight):
        raise EvidenceRefused(f"garbage: an honest member may have these integers in chunk {shown.chunk}")
    return f"{against} put integers into chunk {shown.chunk} that no training gives {session.where}"


def _unmask_own(integers: np.ndarray, chunk: int, papers: Papers) -> None:
    """Take off the accused's own masks: with its seed, and keys that stand in roots that it signed itself."""
    session, against = papers.session, papers.session.evidence.against
    if against not in papers.survivors:
        raise EvidenceRefused(f"garbage: {against} is no survivor, nothing of it was summed")
    count = len(session.evidence.statements)
    opening = next((at for at in range(4, count) if _is(session, at, Opening)), count)
    papers.recover(4, opening)
    keys: dict[PeerID, bytes] = {}
    openers = [session.said(at, Opening) for at in range(opening, count)]
    check_order([one.signer for one in openers], "garbage: the openings' authors")
    for at, one in enumerate(openers, opening):
        alone = len(openers) == 1 or all(other.signer != against for other in openers)
        if one.signer not in papers.survivors or not alone:
            raise EvidenceRefused(f"statement {at}: an opening of {one.signer}, which adds nothing")
        keys |= _keys_in(one, chunk, papers, f"statement {at}")
    masker = Masker(session.rules.dtype, session.rules.chunk)
    masker.add(integers, chunk, [(papers.seed(against), -1)])
    for dealer in papers.dealt:
        if dealer == against:
            continue
        key = keys.get(dealer)
        if dealer not in papers.survivors:  # two that lie alike agree on a root; a rebuilt key tells
            key = chunk_key(papers.pair(dealer, against), chunk)
        if key is None:
            raise EvidenceRefused(f"garbage: the key of its mask with {dealer} is missing")
        masker.add_stream(integers, key, -sign_towards(against, dealer))


def _keys_in(opening: Signed[Opening], chunk: int, papers: Papers, name: str) -> dict[PeerID, bytes]:
    """The keys of the accused's masks that an opening shows, each by the accused's own root, by partner."""
    session, message, author = papers.session, opening.message, opening.signer
    against = session.evidence.against
    if message.chunk != chunk or not len(message.keys) == len(message.proofs) == len(papers.dealt):
        raise EvidenceRefused(f"{name}: an opening of another chunk, or not with a key for each dealer")
    roots, found = papers.dealt[against].pair_roots, dict[PeerID, bytes]()
    for dealer, key, proof in zip(papers.dealt, message.keys, message.proofs, strict=True):
        if against not in (author, dealer) or author == dealer:
            continue
        partner = dealer if author == against else author
        root = roots[session.members.index(partner)]
        if not verify_inclusion(leaf_hash(key), chunk, papers.chunks, proof, root):
            raise EvidenceRefused(f"{name}: a key of {against}'s mask with {partner} that is not in its root")
        found[partner] = key
    return found


def _two_votes(evidence: PortableEvidence, rules: Rules) -> str:
    one, other = _pair_of(evidence, Vote)
    where = {(vote.run, vote.round, vote.attempt, vote.view, vote.step) for vote in (one, other)}
    if len(where) != 1 or one.run != evidence.run:
        raise EvidenceRefused("two votes: they are not of one step of this run")
    if one.value == other.value:
        raise EvidenceRefused("two votes: they are for the same outcome")
    step, slot = "precommit" if one.step else "prevote", f"round {one.round}, attempt {one.attempt}"
    return f"{evidence.against} signed two {step}s in view {one.view} of {slot}"


def _two_boundary_lists(evidence: PortableEvidence, rules: Rules) -> str:
    one, _ = _pair_of(evidence, BoundaryList)
    if one.run != evidence.run or two_lists(*evidence.statements) is None:
        raise EvidenceRefused("two boundary lists: they give no microbatch of this run two hashes")
    slot = f"round {one.round}, attempt {one.attempt}"
    return f"{evidence.against} signed two different tensors {one.direction} in chain {one.chain} of {slot}"


def _two_confirmations(evidence: PortableEvidence, rules: Rules) -> str:
    one, _ = _pair_of(evidence, Confirmation)
    if one.run != evidence.run or two_confirmations(*evidence.statements) is None:
        raise EvidenceRefused("two confirmations: they do not close one chain of this run in two ways")
    slot = f"round {one.round}, attempt {one.attempt}"
    return f"{evidence.against} closed chain {one.chain} of {slot} in two ways"


def _two_heads(evidence: PortableEvidence, rules: Rules) -> str:
    one, other = _pair_of(evidence, Advert)
    if one.run != evidence.run or other.run != evidence.run:
        raise EvidenceRefused("two heads: the adverts are not of this run")
    if one.head_size != other.head_size:
        raise EvidenceRefused(
            f"two heads: of {one.head_size} and of {other.head_size} entries, which may differ"
        )
    if one.head_root == other.head_root:
        raise EvidenceRefused("two heads: they are the same")
    return f"{evidence.against} signed two different heads of its ledger with {one.head_size} entries"


def _rewound(evidence: PortableEvidence, rules: Rules) -> str:
    earlier, later = _pair_of(evidence, Advert)
    if earlier.run != evidence.run or later.run != evidence.run:
        raise EvidenceRefused("rewound: the adverts are not of this run")
    # Sequence numbers start again with the process: within one attempt they do not say which came first.
    if (earlier.round, earlier.attempt) >= (later.round, later.attempt):
        raise EvidenceRefused("rewound: the second advert is not of a later attempt than the first")
    if later.head_size >= earlier.head_size:
        raise EvidenceRefused(f"rewound: {later.head_size} entries are no fewer than {earlier.head_size}")
    return (
        f"{evidence.against} had {earlier.head_size} entries in its ledger in round {earlier.round} and "
        f"{later.head_size} in round {later.round}"
    )


EXAMINERS: dict[str, Examiner] = {
    "opening": examine_opening,
    "mask key": examine_mask_key,
    "slices": examine_slices,
    "two results": examine_results,
    "two lists": _twice(ShareLists, "sets of share lists", of_part=False),
    "two sets": _twice(SurvivorSet, "survivor sets", of_part=False),
    "two parts": _twice(Part, "masked parts", of_part=True),
    "two receipts": _twice(Receipt, "receipts", of_part=True),
    "two sums": _twice(PartSum, "sums", of_part=True),
    "two releases": _twice(Release, "releases", of_part=False),
    "pair key": _pair_key,
    "dealing": _dealing,
    "seed": _seed,
    "share": _share,
    "sum": _sum,
    "garbage": _garbage,
    "two boundary lists": _two_boundary_lists,
    "two confirmations": _two_confirmations,
    "two votes": _two_votes,
    "two heads": _two_heads,
    "rewound": _rewound,
}
"""Who examines which kind. An examiner returns what is proved, and raises MessageRefused if nothing is."""


# -- small things ---------------------------------------------------------------------------------------


def _pair_of(evidence: PortableEvidence, kind: type[M]) -> tuple[M, M]:
    """Two statements of the accused, outside any session."""
    if evidence.adverts or len(evidence.statements) != 2:
        raise EvidenceRefused(f"{evidence.kind}: two statements and no adverts are needed")
    opened = [open_named(raw, kind, f"statement {at}") for at, raw in enumerate(evidence.statements)]
    if any(one.signer != evidence.against for one in opened):
        raise EvidenceRefused(f"{evidence.kind}: not both are signed by {evidence.against}")
    return opened[0].message, opened[1].message


def _is(session: Session, at: int, kind: type[Message]) -> bool:
    return domain_of(session.evidence.statements[at]) == kind.DOMAIN


def _integers(data: bytes, rules: Rules) -> np.ndarray:
    width = rules.dtype.itemsize
    if not 0 < len(data) <= rules.chunk * width or len(data) % width:
        raise EvidenceRefused(f"shown: {len(data)} bytes are no chunk of {rules.chunk} elements")
    return np.frombuffer(data, rules.dtype)


def _hash(vector: np.ndarray) -> bytes:
    return blake3(vector.data.cast("B")).digest()
