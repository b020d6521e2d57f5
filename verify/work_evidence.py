"""Evidence of spot checks: a peer's own signed openings against what it signed before.

    opening   a slice or chunk opened that is not what its advert committed to
    mask key  a key of a pair's mask that is not in the root it signed
    slices    opened slices that, under the opened masks, are not the chunk it sent to be summed
    two results  a checker's verdict with another sketch than it told the peer that it checked
    order     a commitment to another order than the beacon drew: needs the run's records
    update    opened integers that computing again does not give: needs the records, the snapshot and torch
    boundary  a tensor that went to a neighbour, and that computing again does not give: needs the same

The promise: all but the last three hold or fall by what is in the evidence, and no honest peer
can be convicted of them. For these the functions here say what is to be compared with what.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from blake3 import blake3

from proto.merkle import leaf_hash, root, verify_inclusion
from secagg.masks import Masker, sign_towards
from secagg.messages import Advert, Opening, Part, SessionMessage
from verify.case import EvidenceRefused, Papers, PortableEvidence, Rules, Session, open_named
from verify.check import Computed
from verify.commitment import (
    MOST_SHOWN,
    ChunkOpening,
    OpeningRefused,
    SliceOpening,
    check_chunk,
    distance,
    fits,
    salt_of,
)
from verify.opened import STATEMENT, BoundaryOpening, is_opening
from verify.standing import Verdict
from verify.statement import domain_of

S = TypeVar("S", bound=SessionMessage)


@dataclass(frozen=True)
class UpdateCase:
    """What a peer promised and opened of one slice: `chunks` are to be computed again.

    `text`: opened sequences, encoded, where the text is the peer's own; of a chain member, pieces of the
    tensors that came, and `boundary` is its signed opening of them, else empty.
    """

    advert: Advert
    opening: SliceOpening
    chunks: tuple[ChunkOpening, ...]
    text: tuple[bytes, ...]
    session: bytes = b""
    boundary: bytes = b""

    @property
    def slice(self) -> int:
        return self.opening.slice


@dataclass(frozen=True)
class BoundaryCase:
    """What a chain member opened of one microbatch of a slice. Fields as of `UpdateCase`."""

    advert: Advert
    session: bytes
    slice: int
    text: tuple[bytes, ...]
    boundary: bytes


def examine_opening(evidence: PortableEvidence, rules: Rules) -> str:
    """A slice opening, or a chunk opening, that the commitment does not allow."""
    session = Session.of(evidence, rules)
    against, advert = evidence.against, session.adverts[evidence.against]
    opening = session.by_accused(0, SliceOpening)
    if not fits(opening, advert.commitment, advert.weight):
        return f"{against} opened slices that are not those its advert commits to {session.where}"
    if opening.slice < advert.weight and root(opening.leaves) != opening.roots[opening.slice]:
        return f"{against} opened leaves that are not those of slice {opening.slice} {session.where}"
    session.count(2)
    chunk = session.by_accused(1, ChunkOpening)
    if chunk.slice == opening.slice and chunk.salt != salt_of(opening.key, chunk.chunk):
        return (
            f"{against} opened slice {chunk.slice} with a key that is not that of its salts {session.where}"
        )
    try:
        _integers(chunk, opening, rules)
    except OpeningRefused:
        return f"{against} opened chunk {chunk.chunk} with integers it never committed to {session.where}"
    raise EvidenceRefused("opening: everything shown is what the advert commits to")


def examine_mask_key(evidence: PortableEvidence, rules: Rules) -> str:
    """A key of a pair's mask outside the root that its owner signed."""
    session, papers, opening = _masks(evidence, rules)
    session.count(4)
    roots = papers.dealt[evidence.against].pair_roots
    for dealer, key, proof in zip(papers.dealt, opening.keys, opening.proofs, strict=True):
        pair_root = roots[session.members.index(dealer)]
        held = verify_inclusion(leaf_hash(key), opening.chunk, papers.chunks, proof, pair_root)
        if dealer != evidence.against and not held:
            pair = f"{evidence.against} opened a key of its mask with {dealer}"
            return f"{pair} that is not in the root it signed {session.where}"
    raise EvidenceRefused("mask key: every key stands in the root that was signed")


def examine_slices(evidence: PortableEvidence, rules: Rules) -> str:
    """Opened slices of one chunk that do not add up, under the author's own masks, to what it sent."""
    session, at = Session.of(evidence, rules), 0
    papers = opened = None
    if session.masked:
        _, papers, opened = _masks(evidence, rules)
        at = _end(session, 4, "release")
        papers.recover(4, at)
    advert, opening = session.adverts[evidence.against], session.by_accused(at, SliceOpening)
    if not fits(opening, advert.commitment, advert.weight):
        raise EvidenceRefused("slices: the slice opening is not of this commitment")
    first, end = at + 1, at + 1 + advert.weight
    chunks = [session.by_accused(place, ChunkOpening) for place in range(first, end)]
    index = chunks[0].chunk
    if [(chunk.slice, chunk.chunk) for chunk in chunks] != [(place, index) for place in range(advert.weight)]:
        raise EvidenceRefused(f"slices: all {advert.weight} slices of one chunk are needed, in order")
    masked = np.zeros(len(chunks[0].data) // rules.dtype.itemsize, rules.dtype)
    for chunk in chunks:
        np.add(masked, _integers(chunk, opening, rules, len(masked)), out=masked)
    if papers is not None and opened is not None:
        _mask(masked, index, opened, papers, rules)
    headers = [session.by_accused(place, Part) for place in range(end, len(evidence.statements))]
    parts = [header.part for header in headers]
    sent = [name for header in headers for name in header.hashes]
    if parts != sorted(set(parts)) or len(sent) != len(opening.leaves):
        raise EvidenceRefused(f"slices: headers of {len(sent)} chunks, the vector has {len(opening.leaves)}")
    if blake3(masked.data.cast("B")).digest() == sent[index]:
        raise EvidenceRefused("slices: they add up to what was sent")
    return f"{evidence.against} sent other integers in chunk {index} than it committed to {session.where}"


def examine_results(evidence: PortableEvidence, rules: Rules) -> str:
    """Two sketches of one slice by one checker: the second was not computed, but copied or made up."""
    if evidence.adverts or len(evidence.statements) != 2:
        raise EvidenceRefused("two results: a Computed, a Verdict and no adverts are needed")
    told = open_named(evidence.statements[0], Computed, "statement 0")
    said = open_named(evidence.statements[1], Verdict, "statement 1")
    if not evidence.against == told.signer == said.signer or said.message.run != evidence.run:
        raise EvidenceRefused(f"two results: not both are signed by {evidence.against} for this run")
    one, other = told.message, said.message
    if (one.session, one.checked) != (other.session, other.checked):
        raise EvidenceRefused("two results: of two slices, which may differ")
    if other.sketch in (None, one.sketch):
        raise EvidenceRefused("two results: they are the same, or the verdict has none")
    where = f"(session {one.session.hex()[:16]})"
    return f"{evidence.against} signed two different results for {one.checked}'s slice {where}"


def read_order(evidence: PortableEvidence, rules: Rules) -> tuple[Advert, SliceOpening]:
    """The advert, and the order that it commits to by the author's own opening. Raises EvidenceRefused."""
    return _read_order(Session.of(evidence, rules))


def _read_order(session: Session) -> tuple[Advert, SliceOpening]:
    evidence = session.evidence
    advert, opening = session.adverts[evidence.against], session.by_accused(0, SliceOpening)
    if not fits(opening, advert.commitment, advert.weight):
        raise EvidenceRefused(f"{evidence.kind}: the slice opening is not of this commitment")
    if opening.slice >= advert.weight:
        raise EvidenceRefused(f"{evidence.kind}: slice {opening.slice} of {advert.weight}")
    return advert, opening


def read_update(evidence: PortableEvidence, rules: Rules) -> UpdateCase:
    """What is to be computed again, proved to be what the peer committed to. Raises EvidenceRefused."""
    session = Session.of(evidence, rules)
    advert, opening = _read_order(session)
    text = tuple(raw for raw in evidence.statements[1:] if raw[:1] != STATEMENT)
    count = len(evidence.statements) - len(text)
    boundary = evidence.statements[count - 1] if is_opening(evidence.statements[count - 1]) else b""
    chunks = tuple(session.by_accused(at, ChunkOpening) for at in range(1, count - bool(boundary)))
    if not 1 <= len(chunks) <= MOST_SHOWN or any(chunk.slice != opening.slice for chunk in chunks):
        raise EvidenceRefused(f"update: 1 to {MOST_SHOWN} chunks of the opened slice are needed")
    try:
        for chunk in chunks:
            _integers(chunk, opening, rules)
    except OpeningRefused as refusal:
        raise EvidenceRefused(f"update: {refusal}") from None
    return UpdateCase(advert, opening, chunks, text, session.id, boundary)


def read_boundary(evidence: PortableEvidence, rules: Rules) -> BoundaryCase:
    """The microbatch that is to be computed again. Whether its tensors are those that were signed takes the
    order (verify/opened.py). Raises EvidenceRefused."""
    session = Session.of(evidence, rules)
    opening = session.by_accused(0, BoundaryOpening)
    advert = session.adverts[evidence.against]
    if opening.slice >= advert.weight:
        raise EvidenceRefused(f"boundary: slice {opening.slice} of {advert.weight}")
    text = evidence.statements[1:]
    return BoundaryCase(advert, session.id, opening.slice, text, evidence.statements[0])


def farthest(read: UpdateCase, encoded: np.ndarray, chunk: int) -> float:
    """How far the opened chunks are from `encoded`, the whole slice computed again; the worst of them.

    A chunk that is of another length than it must be was refused where it was opened: here it says nothing.
    """
    apart = [0.0]
    for opened in read.chunks:
        mine = encoded[opened.chunk * chunk : (opened.chunk + 1) * chunk]
        theirs = np.frombuffer(opened.data, encoded.dtype)
        if len(mine) == len(theirs):
            apart.append(distance(mine, theirs))
    return max(apart)


def _integers(
    chunk: ChunkOpening, opening: SliceOpening, rules: Rules, elements: int | None = None
) -> np.ndarray:
    count = len(chunk.data) // rules.dtype.itemsize if elements is None else elements
    if not 0 < count <= rules.chunk:
        raise EvidenceRefused(f"chunk-opening: {count} elements, a chunk has at most {rules.chunk}")
    return check_chunk(chunk, opening.roots, len(opening.leaves), count, rules.dtype)


def _masks(evidence: PortableEvidence, rules: Rules) -> tuple[Session, Papers, Opening]:
    """The accused's opened keys, and the papers that say in which order they stand."""
    session = Session.of(evidence, rules)
    opening, papers = session.by_accused(0, Opening), Papers(session)
    if not len(opening.keys) == len(opening.proofs) == len(papers.dealt) or opening.chunk >= papers.chunks:
        raise EvidenceRefused(f"opening: {len(opening.keys)} keys of chunk {opening.chunk}, not one a dealer")
    return session, papers, opening


def _mask(total: np.ndarray, index: int, opening: Opening, papers: Papers, rules: Rules) -> None:
    """Add the masks that the author itself opened for the chunk."""
    against = papers.session.evidence.against
    if opening.chunk != index or against not in papers.survivors:
        raise EvidenceRefused(f"slices: the masks are of chunk {opening.chunk}, or {against} is no survivor")
    masker = Masker(rules.dtype, rules.chunk)
    masker.add(total, index, [(papers.seed(against), 1)])
    for dealer, key in zip(papers.dealt, opening.keys, strict=True):
        if dealer != against:
            masker.add_stream(total, key, sign_towards(against, dealer))


def _end(session: Session, at: int, domain: str) -> int:
    """Where statements of a kind that begin at `at` end."""
    statements = session.evidence.statements
    while at < len(statements) and domain_of(statements[at]) == domain:
        at += 1
    return at
