"""Real ledgers of virtual swarms, for tests of the audit."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from proto.canonical import Message, PeerID
from swarm.effects import Effect, SaveEvidence, Work
from swarm.manifest import Manifest, parse_manifest
from swarm.order import Order
from swarm.testing import CHUNK, MOST, Disk, VirtualSwarm, made_of, virtual_slice
from verify.audit import AuditRules, Source
from verify.audit_report import Report
from verify.checkpoint import Checkpoint, origin_of, write_checkpoint
from verify.evidence import Rules as EvidenceRules
from verify.identity import Identity
from verify.ledger import Entry, Ledger
from verify.record import Decided, Genesis, Record, Vote, run_id
from verify.statement import open_signed, sign

MANIFEST = """
[run]
rounds = {rounds}
min_peers = {min_peers}
founding_peers = {founding}
[membership]
round_timeout_seconds = 12.0
[work]
window_seconds = 5.0
sequences_per_slice = 1
[aggregation]
mode = "{mode}"
[verification]
rate = {rate}
probation_checks = 0
"""


class MerkleDisk(Disk):
    """A virtual disk whose head is that of a real ledger."""

    def __init__(self, before: Disk, peer: PeerID, run: bytes, genesis: bytes) -> None:
        super().__init__(snapshots=before.snapshots)
        self.ledger = Ledger(":memory:", peer, run)
        self.append("genesis", genesis)

    def append(self, kind: str, content: bytes) -> None:
        self.entries.append((kind, content))
        self.ledger.append([(kind, content)])

    @property
    def head(self) -> tuple[int, bytes]:
        return self.ledger.head()


@dataclass(frozen=True)
class Run:
    """A run that is over: its name, and each peer's ledger as (kind, content)."""

    run: bytes
    manifest: Manifest
    identities: dict[PeerID, Identity]
    entries: dict[PeerID, list[tuple[str, bytes]]]

    @property
    def peers(self) -> list[PeerID]:
        return sorted(self.entries)

    def source(
        self,
        peer: PeerID,
        entries: Sequence[tuple[str, bytes]] | None = None,
        signer: PeerID | None = None,
        name: str = "",
    ) -> Source:
        """A ledger of these entries (the peer's own), its head signed by `signer` (the peer)."""
        return self.source_of(peer, ledger_of(self.run, peer, entries or self.entries[peer]), signer, name)

    def source_of(self, peer: PeerID, ledger: Ledger, signer: PeerID | None = None, name: str = "") -> Source:
        """A source that reads a ledger."""
        head = Checkpoint(origin_of(self.run, signer or peer), *ledger.head())
        text = write_checkpoint(head, self.identities[signer or peer])
        if signer is not None:
            text = text.replace(signer, peer)
        return Source(name or peer[-4:], ledger, text)

    def rules(self, genesis: Genesis) -> AuditRules:
        """What the manifest says; chunks are those of virtual time."""
        given = parse_manifest(genesis.manifest)
        return AuditRules(
            given.aggregation.mode == "secure",
            given.data.mode == "own",
            given.verification.rate,
            given.verification.chunk_fraction,
            given.work.slices,
            given.work.sequences_per_slice * given.data.sequence_length,
            EvidenceRules(
                given.ring.dtype, CHUNK, lambda update, weight: bool(np.abs(update).max() <= MOST * weight)
            ),
        )


def ledger_of(run: bytes, peer: PeerID, entries: Sequence[tuple[str, bytes]]) -> Ledger:
    ledger = Ledger(":memory:", peer, run)
    ledger.append(entries)
    return ledger


def virtual_run(
    peers: int = 4,
    rounds: int = 3,
    rate: float = 1.0,
    mode: str = "secure",
    liar: int | None = None,
    lie: str = "update",
    prepare: Callable[[VirtualSwarm], None] = lambda swarm: None,
    seed: int = 0,
) -> Run:
    """Run a virtual swarm to its end. `liar`: this peer commits to other slices, or another order (`lie`)."""
    swarm = VirtualSwarm(peers, rounds, seed)
    founding = json.dumps(list(swarm.peers))
    raw = MANIFEST.format(rounds=rounds, mode=mode, rate=rate, min_peers=4, founding=founding)
    refounded(swarm, raw.encode())
    if liar is not None:
        honest, target = swarm.train, list(swarm.peers)[liar]

        def train(me: PeerID, order: Order, slices: int) -> Work:
            if me != target:
                return honest(me, order, slices)
            made = [virtual_slice(order, index, swarm.size) for index in range(slices)]
            if lie == "order":
                return made_of(replace(order, seed=bytes(32)), made)
            return made_of(order, [-one for one in made])

        swarm.train = train  # type: ignore[method-assign]
    prepare(swarm)
    swarm.run()
    return run_of(swarm)


def refounded(swarm: VirtualSwarm, raw: bytes, **terms: object) -> None:
    """Begin a swarm's run anew, with this manifest and ledgers that are real."""
    swarm.manifest = parse_manifest(raw)
    genesis = open_signed(swarm.genesis, Genesis).message.model_copy(update={"manifest": raw, **terms})
    swarm.genesis = sign(swarm.peers[genesis.founder].identity, genesis)
    for peer_id, peer in swarm.peers.items():
        peer.disk = MerkleDisk(peer.disk, peer_id, run_id(swarm.genesis), swarm.genesis)
        swarm.start(peer_id)

    def keep(peer_id: PeerID, effect: Effect) -> None:
        if isinstance(effect, SaveEvidence):
            disk = swarm.peers[peer_id].disk
            if ("evidence", effect.raw) not in disk.entries:
                disk.append("evidence", effect.raw)

    swarm.on_effect = keep


def run_of(swarm: VirtualSwarm) -> Run:
    """What is left of a run that is over."""
    identities = {peer_id: peer.identity for peer_id, peer in swarm.peers.items()}
    entries = {peer_id: peer.disk.entries for peer_id, peer in swarm.peers.items()}
    return Run(run_id(swarm.genesis), swarm.manifest, identities, entries)


def places(entries: Sequence[tuple[str, bytes]], kind: str) -> list[int]:
    """The entries of a kind."""
    return [index for index, (name, _) in enumerate(entries) if name == kind]


def resigned(run: Run, raw: bytes, kind: type[Message], **new: object) -> bytes:
    """A statement with other values, by the same peer."""
    signed = open_signed(raw, kind)
    return sign(run.identities[signed.signer], signed.message.model_copy(update=new))


def forged(run: Run, raw: bytes, **new: object) -> bytes:
    """A record with other values, for which everyone voted."""
    decided = Decided.parse(raw)
    record = Record.parse(decided.body).model_copy(update=new)
    vote = open_signed(decided.votes[0], Vote).message.model_copy(update={"value": record.digest()})
    votes = tuple(sign(one, vote) for one in run.identities.values())
    return decided.model_copy(update={"body": record.encode(), "votes": votes}).encode()


def encoded(entries: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """The entries as a ledger has them."""
    return [Entry.of(kind, content).encode() for kind, content in entries]


def findings(report: Report) -> str:
    return "\n".join(map(str, report.findings))
