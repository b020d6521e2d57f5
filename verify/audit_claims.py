"""What peers claim outside the records' chain: heads of their own ledgers, and evidence against others."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from proto.merkle import EMPTY_ROOT, verify_consistency
from secagg.messages import Advert
from verify.audit_entries import BATCH, Reading
from verify.audit_report import Holds
from verify.evidence import EvidenceRefused, PortableEvidence, Rules, examine
from verify.record import History
from verify.statement import open_signed
from verify.work_evidence import read_boundary, read_order, read_update

COMPUTED: Mapping[str, Callable[[PortableEvidence, Rules], object]] = {
    "update": read_update,
    "boundary": read_boundary,
    "order": read_order,
}
"""Kinds of evidence that take computing again, and how they are read."""
Slot = tuple[int, int]
"""(round, attempt)."""


class Heads:
    """What peers said of the heads of their ledgers: never fewer entries than before, one root for each size,
    and true of those ledgers that are here (`readings`). `note` takes what is no fault."""

    def __init__(self, readings: Sequence[Reading], note: Callable[[str], None]) -> None:
        self.compared = 0
        self._readings, self._note = readings, note
        self._forked: list[Reading] = []
        self._last: dict[PeerID, tuple[Slot, int, bytes]] = {}

    def claim(self, at: Reading, index: int, peer: PeerID, slot: Slot, size: int, root: bytes) -> None:
        """`peer` said, as entry `index` of `at` shows, that its ledger has `size` entries with this root."""
        before = self._last.get(peer)
        if before is None or slot >= before[0]:
            self._last[peer] = (slot, size, root)
        if before is not None and size == before[1] and root != before[2]:
            at.wrong(index, f"{peer} signed two different heads of its ledger with {size} entries", by=peer)
        elif before is not None and size < before[1] and slot > before[0]:
            text = f"{peer} says {size} entries in round {slot[0]}, {before[1]} in round {before[0][0]}"
            at.wrong(index, f"{text}: its ledger was rewound", by=peer)
        if size == 0 and root != EMPTY_ROOT:
            at.wrong(index, f"{peer} signed a head of 0 entries that is not the empty tree's", by=peer)
        for reading in self._readings:
            if reading.author == peer:
                self._compare(at, index, reading, slot, size, root)

    def _compare(self, at: Reading, index: int, reading: Reading, slot: Slot, size: int, root: bytes) -> None:
        self.compared += 1
        if reading in self._forked:
            return  # every later head would be said to be wrong too
        said = f"its author said {size} entries in round {slot[0]} ({at.name} entry {index})"
        if reading.agrees(size, root) is False:
            text = f"{said}, and up to this one they give another root: this is a fork of that log"
            reading.wrong(max(size - 1, 0), text)
            self._forked.append(reading)
        elif size > reading.position and not reading.gap:
            if reading.last_round >= slot[0]:
                last = max(reading.position - 1, 0)
                reading.wrong(last, f"{said}; it ends here, behind that round: it was rewound")
                self._forked.append(reading)
            else:
                self._note(f"{reading.name} is older than what {at.name} tells of its author")

    def check_same_author(self) -> None:
        """Two ledgers of one author: one begins with the other."""
        for at, one in enumerate(self._readings):
            for other in self._readings[at + 1 :]:
                if one.author is None or one.author != other.author:
                    continue
                small, large = sorted((one, other), key=lambda reading: reading.size)
                same = large.agrees(small.size, small.head)
                if same is None:
                    same = _is_prefix(small, large)
                if same is False:
                    text = f"the {small.size} entries of {small.name} are not how it begins"
                    large.wrong(_difference(small, large), f"{text}: {small.author} shows two different logs")


def judge_evidence(
    case: PortableEvidence, rules: Rules, reexecute: Callable[[], bool | None] | None
) -> tuple[Holds, str]:
    """Whether a piece of evidence holds, and what it proves or why it does not."""
    if case.kind in COMPUTED:
        try:
            COMPUTED[case.kind](case, rules)
            again = None if reexecute is None else reexecute()
        except MessageRefused as refusal:
            return "does not hold", str(refusal)
        if again is None:
            needs = "the run's records" if case.kind == "order" else "the run's snapshot and torch"
            return "re-execution needed", f"it takes {needs} to tell"
        text = f"{case.against}, by computing again"
        return ("holds" if again else "does not hold"), text
    try:
        return "holds", examine(case, rules)
    except EvidenceRefused as refusal:
        return "does not hold", str(refusal)


def history_before(case: PortableEvidence, histories: Iterable[History]) -> History | None:
    """Of these histories the one before the round of a piece of evidence, if it is among them."""
    for raw in case.adverts:
        try:
            round_ = open_signed(raw, Advert).message.round
        except MessageRefused:
            return None
        return next((history for history in histories if history.round + 1 == round_), None)
    return None


def _is_prefix(small: Reading, large: Reading) -> bool | None:
    try:
        proof = large.source.reader.consistency(small.size, large.size)
    except SwarmError:
        return None
    return verify_consistency(small.size, large.size, small.head, large.head, proof)


def _difference(one: Reading, other: Reading) -> int | None:
    """The first entry in which two ledgers differ."""
    try:
        for start in range(0, one.size, BATCH):
            count = min(BATCH, one.size - start)
            pairs = zip(
                one.source.reader.entries(start, count),
                other.source.reader.entries(start, count),
                strict=True,
            )
            for at, (mine, theirs) in enumerate(pairs, start):
                if mine != theirs:
                    return at
    except (SwarmError, ValueError):
        return None
    return None
