"""What an audit says: what is wrong, what could not be seen, and what each peer did.

A `Finding` names a ledger, an entry and a reason. One that shows a peer contradicting itself or the lottery
also names that peer: where the records have banned it, the run has dealt with it, and the finding is told
without making the run wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from proto.canonical import PeerID
from proto.energy import EnergyClaim
from verify.chains import Counted
from verify.energy import doubts
from verify.evidence import PortableEvidence
from verify.evidence import Rules as EvidenceRules
from verify.record import Decided, Genesis, History, Record
from verify.standing import Ban, Verdict

MOST_FINDINGS = 256
"""Findings that are kept; more are counted."""
MOST_NOTES = 64

Holds = Literal["holds", "does not hold", "re-execution needed"]


@dataclass(frozen=True)
class Finding:
    """Something wrong (or unreadable), at an entry of a ledger. `by`: the peer whose signatures show it."""

    ledger: str
    index: int | None
    what: str
    by: PeerID | None = None
    unreadable: bool = False

    def __str__(self) -> str:
        where = "" if self.index is None else f" entry {self.index}"
        return f"{self.ledger}{where}: {self.what}"


@dataclass(frozen=True)
class AuditRules:
    """What the manifest says, as far as an audit needs it.

    `rate`, `fraction`: of checks and of opened chunks. `slices`: the largest weight; `slice_tokens`: the most
    tokens of one slice. `evidence`: for `examine`. `joules_per_megabyte`: of the network.
    """

    secure: bool
    own: bool
    rate: float
    fraction: float
    slices: int
    slice_tokens: int
    evidence: EvidenceRules
    joules_per_megabyte: float = 0.0


RulesOf = Callable[[Genesis], AuditRules]
"""Reads the manifest in a genesis. Raises SwarmError if it is none, or if genesis promises other terms."""

Reexecute = Callable[[PortableEvidence, History | None], bool | None]
"""(evidence of kind "update" or "order", the history before its round) -> whether it holds; None: unknown."""


@dataclass(frozen=True)
class HeldEvidence:
    """A piece of evidence in a ledger, and what the audit finds of it."""

    kind: str
    against: PeerID
    holds: Holds
    text: str
    ledger: str
    index: int


@dataclass
class Contribution:
    """What the records say of one peer."""

    rounds: int = 0
    weight: int = 0
    tokens: int = 0
    checks_made: int = 0
    checked: int = 0
    passed: int = 0
    complaints: int = 0  # verdicts that it was silent
    wrong: int = 0  # verdicts that it was wrong
    drawn: int = 0  # times that the lottery had it checked, in the sessions that were shown
    strikes: int = 0
    member: bool = False
    shard: int | None = None  # that it holds, of several
    ban: Ban | None = None
    energy: EnergyClaim | None = None  # the last one
    doubts: list[str] = field(default_factory=list)

    def claim(self, energy: EnergyClaim, parameters: int) -> None:
        """Take in what its next advert says of energy, and what speaks against it."""
        for doubt in doubts(self.energy, energy, parameters):
            if len(self.doubts) < MOST_NOTES:
                self.doubts.append(doubt)
        self.energy = energy


@dataclass(frozen=True)
class LedgerView:
    """One ledger as it was audited."""

    name: str
    author: PeerID | None
    size: int
    root: bytes
    signed: bool
    records: int
    sessions: int


@dataclass(frozen=True)
class Member:
    """What an advert says of its author's work, data and ledger. `chains`: what its certificates say."""

    index: int
    weight: int
    tokens: int
    loss: int
    heldout: int
    commitment: bytes
    data_root: bytes | None
    data_count: int
    head_size: int
    head_root: bytes
    energy: EnergyClaim | None
    chains: tuple[Counted, ...]


@dataclass(frozen=True)
class SessionView:
    """One session as its statements show it; what they do not show is None."""

    id: bytes
    slot: tuple[int, int]
    shard: int
    members: Mapping[PeerID, Member]
    survivors: tuple[PeerID, ...] | None
    proposer: PeerID | None
    owners: Mapping[int, PeerID]
    beacon: bytes | None
    chunks: int | None


@dataclass(frozen=True)
class RoundView:
    """One round, once it was checked. `decided`, `record`: None for a recovery or where none was readable."""

    round: int
    record: Record | None
    decided: Decided | None
    voters: tuple[PeerID, ...]
    before: History | None
    history: History | None  # after it
    voids: int
    sessions: Sequence[SessionView]
    where: Sequence[tuple[str, int]]  # ledger and index of the outcome
    findings: Sequence[Finding]


Watch = Callable[[RoundView], None]


@dataclass
class Report:
    """The outcome of an audit. `statements`: signatures that were checked."""

    run: bytes
    statements: int = 0
    records: int = 0
    recoveries: int = 0
    voids: int = 0
    sessions: int = 0
    verdicts: int = 0
    verdicts_unseen: int = 0  # of sessions that no ledger shows
    heads: int = 0
    joules_per_megabyte: float = 0.0  # of the network, by the manifest
    genesis: Genesis | None = None
    history: History | None = None
    ledgers: list[LedgerView] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    handled: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    peers: dict[PeerID, Contribution] = field(default_factory=dict)
    evidence: dict[bytes, HeldEvidence] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing wrong and nothing unreadable was found."""
        return not self.findings and self.history is not None

    @property
    def exit_code(self) -> int:
        """0 clean, 1 wrong, 2 unreadable."""
        if any(not finding.unreadable for finding in self.findings):
            return 1
        return 0 if self.ok else 2

    def say(self, finding: Finding) -> None:
        """Keep a finding."""
        if finding in self.findings:
            return
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)
        else:
            self.more += 1

    def note(self, text: str) -> None:
        """Keep what is no fault, and worth knowing."""
        if len(self.notes) < MOST_NOTES and text not in self.notes:
            self.notes.append(text)

    def peer(self, peer: PeerID) -> Contribution:
        """What the records say of a peer."""
        return self.peers.setdefault(peer, Contribution())

    def count(self, signer: PeerID, verdict: Verdict) -> None:
        """Take in a drawn checker's verdict."""
        self.verdicts += 1
        self.peer(signer).checks_made += 1
        checked = self.peer(verdict.checked)
        checked.checked += 1
        checked.passed += verdict.outcome == "clean"
        checked.complaints += verdict.outcome == "silent"
        checked.wrong += verdict.outcome == "wrong"

    def close(self) -> None:
        """Put findings in order, and aside what banned peers did."""
        bans = {} if self.history is None else self.history.conduct.bans
        self.handled = [finding for finding in self.findings if finding.by in bans]
        kept = [finding for finding in self.findings if finding.by not in bans]
        # What cannot be read stays in the order in which it was met: what follows from a gap comes after it.
        kept.sort(key=lambda one: (1, 0) if one.unreadable else (0, -1 if one.index is None else one.index))
        self.findings = kept
