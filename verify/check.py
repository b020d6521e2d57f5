"""One spot check, as its drawn checker does it, sans-I/O (design, section 6).

    ASK      with own data: the sequences of the drawn slice, which the data commitment proves; in a chain the
             tensors that came and went with it, which their senders' lists prove
    COMPUTE  the slice again, from the committed snapshot, encoded with the same dither
    OPEN     the checker signs what *it* got, and only then is told what the other had: the slice's leaves,
             and for the drawn chunks every slice's integers and the keys of the masks they left under
    COMPARE  leaves first, bit for bit; of those that differ a drawn few by their integers; in a chain, before
             anything is opened, the tensors that went

The promise: an honest peer passes, whatever its machine; a lie in what was computed, in what was committed to
or in what was sent under masks ends in signed statements that convict its author. Whoever keeps an
opening back, or opens what is not even signed, is silent: that costs strikes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import FailFast, Field

from proto.canonical import Count, Message, PeerID, tagged_hash
from proto.errors import MessageRefused
from secagg.messages import Advert, Evidence, Opening, Part, SessionMessage
from secagg.transcript import NotWhatWasSent, Transcript
from verify.commitment import (
    MOST_SHOWN,
    ChunkOpening,
    OpeningRefused,
    SliceOpening,
    check_chunk,
    check_slice,
    chunk_digests,
    differing,
    distance,
    salt_of,
)
from verify.lottery import Draw, chunks_to_open, draw
from verify.opened import SENT_TOLERANCE, Apart, BoundaryAsked, of_microbatch, of_received
from verify.sketch import Sketch, sketch
from verify.statement import Signed, open_signed

TRIES = 4
"""Times that a peer is asked before it counts as silent."""
ACCUSE = 2.0
"""An accusation is brought above so many tolerances; it is upheld above one, and false below a quarter."""
FALSE = 0.25

K = TypeVar("K", bound=Message)


class SequencesAsked(SessionMessage):
    """A checker asks for the sequences of the drawn slice."""

    DOMAIN: ClassVar[str] = "sequences-asked"


class Computed(SessionMessage):
    """What a checker got for the drawn slice: a sketch of it, under the signs of session and checked peer."""

    DOMAIN: ClassVar[str] = "computed"

    checked: PeerID
    sketch: Sketch


class ChunksAsked(SessionMessage):
    """A checker asks for the integers of chunks of the drawn slice in which its own differ."""

    DOMAIN: ClassVar[str] = "chunks-asked"

    chunks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=2_048), FailFast()]


@dataclass(frozen=True)
class Rules:
    """What the manifest says of checks."""

    tolerance: float
    fraction: float


@dataclass(frozen=True)
class Ask:
    """Ask a peer, and give its answer, statements in order, to `answered`; None if it gave none."""

    to: PeerID
    raw: bytes


@dataclass(frozen=True)
class Compute:
    """Compute the drawn slice again; give its integers [size] to `computed`. `text`: opened sequences, or a
    chain member's opening and its pieces."""

    text: tuple[bytes, ...] | None


@dataclass(frozen=True)
class Found:
    """The check is over. `outcome` and `sketch` as in a Verdict; evidence where there is some."""

    outcome: str
    sketch: tuple[int, ...] | None = None
    evidence: Evidence | None = None


Effect = Ask | Compute | Found


@dataclass
class Check:
    """A checker's side. `order`: the digest of what was to be computed; `own`: whose text it is; `chained`:
    whether it was made in a chain.

    `sign` signs as the checker. Nothing is asked of it once `Found` was returned.
    """

    draw: Draw
    transcript: Transcript
    order: bytes
    own: bool
    rules: Rules
    sign: Callable[[Message], bytes]
    chained: bool = False
    _asked: bytes = field(default=b"", init=False)
    _tries: int = field(default=0, init=False)
    _text: tuple[bytes, ...] | None = field(default=None, init=False)
    _mine: np.ndarray | None = field(default=None, init=False, repr=False)
    _digests: list[bytes] = field(default_factory=list, init=False, repr=False)
    _slice: tuple[bytes, SliceOpening] | None = field(default=None, init=False, repr=False)
    _sketch: tuple[int, ...] | None = field(default=None, init=False)
    _doubt: bool = field(default=False, init=False)

    def start(self) -> list[Effect]:
        """Ask for the text, or compute at once."""
        if self.own:
            return self._ask(SequencesAsked(session=self.transcript.session))
        if self.chained:
            return self._ask(BoundaryAsked(session=self.transcript.session))
        return [Compute(None)]

    @property
    def waiting(self) -> bool:
        """Whether it is the checked peer's turn to answer."""
        return self._mine is not None or (self._asks_first and self._text is None)

    @property
    def _asks_first(self) -> bool:
        return self.own or self.chained

    def answered(self, raws: Sequence[bytes] | None) -> list[Effect]:
        """What the checked peer answered; None: nothing came."""
        if raws is None:
            self._tries += 1
            if self._tries < TRIES:
                return [Ask(self.draw.checked, self._asked)]
            return [self._found("silent")]
        try:
            if self._mine is None:
                self._text = tuple(raws)
                return [Compute(self._text)]
            if self._slice is None:
                return self._on_opening(list(raws))
            return self._on_chunks(list(raws))
        except MessageRefused:
            return [
                self._found("silent")
            ]  # nothing that it signed is shown to be wrong, but it answered nothing

    def computed(
        self, encoded: np.ndarray | None, text_held: bool = True, apart: Apart | None = None
    ) -> list[Effect]:
        """The slice's integers as this checker's machine gives them; None: it cannot compute it.

        `text_held`: whether what was opened is what was drawn; with the shared set it always is. `apart`: how
        far what a chain member sent is from what it should have sent.
        """
        if encoded is None:
            return [self._found("silent" if self._asks_first and not text_held else "unclear")]
        self._mine = encoded
        self._digests = chunk_digests(encoded, self.transcript.cut.chunk)
        session, checked = self.transcript.session, self.draw.checked
        self._sketch = sketch(encoded, tagged_hash("sketch", session, checked.encode()))
        far, sent = max(((far, sent) for sent, far in (apart or {}).items()), default=(0.0, None))
        if sent is not None and self._text is not None and far > ACCUSE * SENT_TOLERANCE:
            return [self._wrong("boundary", of_microbatch(self._text, *sent))]
        self._doubt = far > SENT_TOLERANCE
        return self._ask(Computed(session=session, checked=checked, sketch=self._sketch))

    # -- what was opened ------------------------------------------------------------------------------

    def _on_opening(self, raws: list[bytes]) -> list[Effect]:
        """Slice, parts' headers, then for each drawn chunk the masks' keys and every slice's integers."""
        peer, kept = self.draw.checked, self.transcript
        advert = kept.adverts[peer][1]
        opening = self._said(raws.pop(0), SliceOpening) if raws else None
        if opening is None or opening.message.slice != self.draw.what:
            return [self._found("silent")]
        self._slice = (opening.raw, opening.message)
        try:
            check_slice(opening.message, advert.commitment, advert.weight, kept.chunks)
        except OpeningRefused:
            return [self._wrong("opening", (opening.raw,))]
        if opening.message.order != self.order:
            return [self._wrong("order", (opening.raw,))]
        headers = [self._said(raw, Part) for raw in raws[: len(kept.cut.parts)]]
        del raws[: len(kept.cut.parts)]
        kept.check_headers(peer, [header.message for header in headers])
        for chunk in self.draw.chunks:
            each = 1 + advert.weight if kept.sharing is not None else advert.weight
            if len(raws) < each:
                raise MessageRefused(f"check: {len(raws)} statements are left, chunk {chunk} takes {each}")
            wrong = self._check_drawn(chunk, raws[:each], [(h.raw, h.message) for h in headers], advert)
            if wrong is not None:
                return [wrong]
            del raws[:each]
        return self._compare()

    def _check_drawn(
        self, chunk: int, raws: list[bytes], headers: list[tuple[bytes, Part]], advert: Advert
    ) -> Found | None:
        """The slices of one drawn chunk add up, under the opened masks, to what was sent."""
        peer, kept = self.draw.checked, self.transcript
        assert self._slice is not None
        masks = None
        if kept.sharing is not None:
            opened = self._said(raws.pop(0), Opening)
            if opened.message.chunk != chunk:
                raise MessageRefused(f"opening: of chunk {opened.message.chunk}, {chunk} was drawn")
            masks = opened
            try:
                kept.check_opening(peer, opened.message)
            except NotWhatWasSent:
                return self._wrong("mask key", (opened.raw, *kept.papers(peer)))
        update = np.zeros(kept.elements(chunk), kept.dtype)
        for index, raw in enumerate(raws):
            integers, wrong = self._integers(raw, index, chunk)
            if wrong is not None:
                return wrong
            np.add(update, integers, out=update)
        try:
            parts = [header for _, header in headers]
            kept.check_masked(peer, chunk, update, parts, masks.message if masks else None)
        except NotWhatWasSent:
            first = () if masks is None else (masks.raw, *kept.papers(peer), *kept.releases)
            return self._wrong("slices", (*first, self._slice[0], *raws, *(raw for raw, _ in headers)))
        return None

    def _integers(self, raw: bytes, index: int, chunk: int) -> tuple[np.ndarray, Found | None]:
        assert self._slice is not None
        opened = self._said(raw, ChunkOpening)
        if (opened.message.slice, opened.message.chunk) != (index, chunk):
            raise MessageRefused(f"chunk-opening: of another chunk than slice {index}, chunk {chunk}")
        roots, kept = self._slice[1].roots, self.transcript
        try:
            found = check_chunk(opened.message, roots, kept.chunks, kept.elements(chunk), kept.dtype)
            if index == self.draw.what and opened.message.salt != salt_of(self._slice[1].key, chunk):
                raise OpeningRefused("chunk-opening: its salt is not that of the slice's key")
            return found, None
        except OpeningRefused:
            return np.zeros(0, kept.dtype), self._wrong("opening", (self._slice[0], raw))

    def _compare(self) -> list[Effect]:
        assert self._slice is not None
        unequal = differing(self._slice[1], self._digests)
        if not unequal:
            return [self._found("unclear" if self._doubt else "clean")]
        most = chunks_to_open(self.transcript.chunks, self.rules.fraction)
        seed = tagged_hash("picked", *self._digests)
        picked = sorted(unequal[at] for at in draw(seed, min(most, len(unequal)), len(unequal)))
        return self._ask(ChunksAsked(session=self.transcript.session, chunks=tuple(picked)))

    def _on_chunks(self, raws: list[bytes]) -> list[Effect]:
        assert self._slice is not None
        assert self._mine is not None
        asked = open_signed(self._asked, ChunksAsked).message.chunks
        if len(raws) != len(asked):
            return [self._found("silent")]
        apart: list[tuple[float, bytes]] = []
        for chunk, raw in zip(asked, raws, strict=True):
            integers, wrong = self._integers(raw, self.draw.what, chunk)
            if wrong is not None:
                return [wrong]
            at = chunk * self.transcript.cut.chunk
            apart.append((distance(self._mine[at : at + len(integers)], integers), raw))
        apart.sort(reverse=True)
        worst = apart[0][0]
        if worst > ACCUSE * self.rules.tolerance:
            shown = tuple(raw for far, raw in apart[:MOST_SHOWN] if far > ACCUSE * self.rules.tolerance)
            text = self._text or ()
            text = of_received(text) if self.chained else text
            return [self._wrong("update", (self._slice[0], *shown, *text))]
        doubt = self._doubt or worst > self.rules.tolerance
        return [self._found("unclear" if doubt else "clean")]

    # -- small things ---------------------------------------------------------------------------------

    def _ask(self, message: Message) -> list[Effect]:
        self._asked, self._tries = self.sign(message), 0
        return [Ask(self.draw.checked, self._asked)]

    def _said(self, raw: bytes, kind: type[K]) -> Signed[K]:
        signed = open_signed(raw, kind)
        named = getattr(signed.message, "session", None)
        if signed.signer != self.draw.checked or named != self.transcript.session:
            raise MessageRefused(f"{kind.DOMAIN}: not {self.draw.checked}'s, or of another session")
        return signed

    def _found(self, outcome: str) -> Found:
        return Found(outcome, self._sketch)

    def _wrong(self, kind: str, statements: tuple[bytes, ...]) -> Found:
        adverts = tuple(sorted(raw for raw, _ in self.transcript.adverts.values()))
        return Found("wrong", self._sketch, Evidence(kind, self.draw.checked, statements, adverts))


def convicts(far: float, tolerance: float) -> bool | None:
    """What a distance says of an accusation: it holds, it does not, or (None) it is too near to say."""
    if far > tolerance:
        return True
    return False if far < FALSE * tolerance and math.isfinite(far) else None
