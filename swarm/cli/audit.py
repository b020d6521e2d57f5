"""`swarm-audit`: everything again, from the outside.

Needs neither torch nor hivemind, starts in under a second, and imports gRPC only where a ledger is read
over the network. Exit codes: 0 clean, 1 wrong, 2 unreadable.
"""

import base64
import importlib.util
import inspect
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from proto import merkle
from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from swarm.cli import audit_view as view
from swarm.cli import common
from swarm.cli.audit_sources import FILES, NoLedger, audit_rules, opened, read_file, state_file
from swarm.cli.common import (
    DEFAULT_STATE_DIR,
    CannotWrite,
    IdentityFile,
    Json,
    LogLevel,
    RunId,
    StateDir,
    Version,
)
from swarm.judging import tensors_of
from swarm.manifest import Manifest, parse_manifest
from swarm.order import DataView, Order, chained_order, draw_order
from swarm.rules import evidence_rules
from verify.audit import Report, Source, audit, find_genesis
from verify.audit_claims import judge_evidence
from verify.audit_entries import BATCH
from verify.audit_report import RoundView
from verify.audit_session import RoundFacts, RoundTask
from verify.case import PortableEvidence
from verify.chains import Counted, chains_of
from verify.check import convicts
from verify.checkpoint import Checkpoint, origin_of, parse_checkpoint, read_checkpoint, write_checkpoint
from verify.evidence import Rules as EvidenceRules
from verify.identity import Identity, public_key_bytes
from verify.ledger import Entry, Ledger
from verify.opened import SENT_TOLERANCE
from verify.record import Genesis, History
from verify.statement import open_signed
from verify.tiles import export
from verify.wiring import wire_chains
from verify.work_evidence import UpdateCase, farthest, read_boundary, read_order, read_update

EXAMPLES = """
swarm-audit verify demo-run/ledgers/a demo-run/ledgers/b --run RUN_ID
swarm-audit verify 203.0.113.5:31400 --run RUN_ID
swarm-audit peer 12D3KooW... demo-run/ledgers/a --run RUN_ID
swarm-audit COMMAND --help
"""
PARALLEL = 20_000
"""Entries from which on signatures are checked in several processes."""
C = TypeVar("C", bound=Callable[..., None])

Ledgers = Annotated[
    list[str] | None,
    typer.Argument(metavar="LEDGER", help="Exported folders, peers' state folders, HOST:PORT. [--state-dir]"),
]
Processes = Annotated[int, typer.Option("--processes", metavar="N", help="0: one a processor.", min=0)]


class NotShown(SwarmError):
    """What was asked for is not in the ledgers."""


class CannotReplay(SwarmError):
    """An order cannot be executed again here."""


class AuditStopped(SwarmError):
    """A process that checks signatures has died."""


@dataclass(frozen=True)
class Replay:
    """What a member of a round had to compute."""

    run: bytes
    peer: PeerID
    order: Order
    weight: int
    manifest: Manifest
    state_dir: Path


class _Enough(Exception):
    """The round that was asked for is there."""


def _examples(text: str) -> Callable[[C], C]:
    """Put examples at the end of a command's help."""

    def add(command: C) -> C:
        lines = "\n".join(f"  {line}" for line in text.strip().splitlines())
        command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n\n\b\nExamples:\n{lines}"
        return command

    return add


def _start_log(state_dir: Path, log_level: common.Level) -> None:
    """An auditor may have nothing that it can write to."""
    with suppress(CannotWrite):
        common.start_log(state_dir, "swarm-audit", log_level)


# -- verify -----------------------------------------------------------------------------------------------


@_examples(
    """
swarm-audit verify LEDGER_A LEDGER_B --run RUN_ID
swarm-audit verify --run RUN_ID
swarm-audit verify HOST:PORT --run RUN_ID --json
"""
)
def verify(
    run: RunId,
    ledgers: Ledgers = None,
    processes: Processes = 0,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Audit a run: every signature, record, session, verdict, ban and head; and ledgers against each other.

    Without a LEDGER it audits the one that a peer of this machine keeps in --state-dir.
    """
    _start_log(state_dir, log_level)
    began = time.monotonic()
    with opened(ledgers or [str(state_dir)], common.parse_run(run)) as sources:
        report = run_audit(common.parse_run(run), sources, processes)
    seconds = time.monotonic() - began
    if json:
        common.say_json(**view.report_json(report, seconds))
    else:
        _print(view.report_lines(report, seconds))
    sys.exit(report.exit_code)


def run_audit(
    run: bytes,
    sources: list[Source],
    processes: int = 0,
    watch: Callable[[RoundView], None] | None = None,
) -> Report:
    """Audit ledgers as the commands do: long ones with several processes."""
    entries = sum(source.reader.size for source in sources)
    wanted = processes or (os.cpu_count() or 1 if entries >= PARALLEL else 1)
    with _spread(wanted) as spread:
        return audit(run, sources, audit_rules, spread, watch, reexecute)


@contextmanager
def _spread(
    processes: int,
) -> Iterator[Callable[[Callable[[RoundTask], RoundFacts], Iterable[RoundTask]], Iterable[RoundFacts]]]:
    if processes <= 1:
        yield map
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Not forked: threads of gRPC would be cut off in the middle of what they do.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:

        def spread(
            check: Callable[[RoundTask], RoundFacts], tasks: Iterable[RoundTask]
        ) -> Iterable[RoundFacts]:
            try:
                return list(pool.map(check, tasks))
            except BrokenProcessPool:
                raise AuditStopped(
                    "a process that checked signatures has died, perhaps for want of memory: try again with "
                    "`--processes 1`"
                ) from None

        yield spread


def reexecute(
    case: PortableEvidence, history: History | None, state_dir: Path | None = None, data: Path | None = None
) -> bool | None:
    """Whether evidence that takes computing again holds; None where that cannot be said here.

    "order" needs the records alone; the others also torch, and in `state_dir` the snapshot of its round.
    """
    if history is None:
        return None
    manifest = parse_manifest(history.genesis.manifest)
    rules = evidence_rules(manifest)
    read = read_boundary(case, rules) if case.kind == "boundary" else None
    advert = read_order(case, rules)[0] if read is None else read.advert
    shard = history.shard_of(case.against)
    at = (shard, history.snapshot_of(shard))
    if case.against not in history.roster or (advert.shard, advert.snapshot) != at:
        return None
    wired = wire_chains(history, advert.attempt) if history.shards else ()
    view = DataView(advert.data_count, advert.data_root)
    chains = chains_of(advert, case.against, wired)
    order = _order(history, advert.attempt, case.against, view, chains, manifest)
    if case.kind == "order":
        return order.digest() != read_order(case, rules)[1].order
    if state_dir is None or importlib.util.find_spec("torch") is None:
        return None
    from swarm.reexecution import NotAtHand, compute_again  # imports torch

    work = read or read_update(case, rules)
    tensors = tensors_of(case, work, order, history, manifest) if history.shards else None
    try:
        mine = compute_again(work, order, manifest, state_dir / "runs" / case.run.hex(), data, tensors)
    except NotAtHand as missing:
        print(missing, file=sys.stderr)
        return None
    if isinstance(work, UpdateCase):
        assert mine.encoded is not None
        return convicts(farthest(work, mine.encoded, rules.chunk), manifest.verification.tolerance)
    return convicts(max(mine.apart.values()), SENT_TOLERANCE)


# -- show, peer -------------------------------------------------------------------------------------------


@_examples("swarm-audit show 12 LEDGER --run RUN_ID")
def show(
    round_: Annotated[int, typer.Argument(metavar="ROUND", min=1)],
    run: RunId,
    ledgers: Ledgers = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Show one round, once everything up to it was checked: record, survivors, votes, verdicts."""
    _start_log(state_dir, log_level)
    with opened(ledgers or [str(state_dir)], common.parse_run(run)) as sources:
        found = _round(common.parse_run(run), sources, round_)
    if json:
        common.say_json(run_id=run.lower(), **view.round_json(found))
    else:
        _print(view.round_lines(found))
    sys.exit(1 if any(not finding.unreadable for finding in found.findings) else 0)


def _round(run: bytes, sources: list[Source], wanted: int) -> RoundView:
    """The round as the audit finds it. Raises NotShown."""
    found: list[RoundView] = []
    last = 0

    def watch(round_view: RoundView) -> None:
        nonlocal last
        last = max(last, round_view.round if round_view.where else 0)
        if round_view.round == wanted:
            found.append(round_view)
            raise _Enough

    try:
        report = run_audit(run, sources, 1, watch)
    except _Enough:
        return found[0]
    first = f"; first finding: {report.findings[0]}" if report.findings else ""
    raise NotShown(f"round {wanted} is not in these ledgers, the last one is {last}{first}")


@_examples("swarm-audit peer 12D3KooW... LEDGER --run RUN_ID")
def peer(
    peer_id: Annotated[str, typer.Argument(metavar="PEERID")],
    run: RunId,
    ledgers: Ledgers = None,
    processes: Processes = 0,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Show what one peer did: rounds, weight, checks made and passed, strikes, bans.

    The whole audit is made first; the exit code is that of `verify`.
    """
    _start_log(state_dir, log_level)
    public_key_bytes(peer_id)
    with opened(ledgers or [str(state_dir)], common.parse_run(run)) as sources:
        report = run_audit(common.parse_run(run), sources, processes)
    one = report.peers.get(peer_id)
    if one is None:
        raise NotShown(f"no record in these ledgers names {peer_id}")
    if json:
        found = view.peer_json(one, report)
        common.say_json(run_id=run.lower(), peer_id=peer_id, **found, ok=report.ok)
    else:
        _print(view.peer_lines(peer_id, one, report))
        if not report.ok:
            print("not everything in these ledgers holds: see `swarm-audit verify`")
    sys.exit(report.exit_code)


# -- evidence ---------------------------------------------------------------------------------------------


@_examples(
    """
swarm-audit evidence FILE LEDGER
swarm-audit evidence NAME LEDGER --run RUN_ID
"""
)
def evidence(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Or its name in a ban: 64 digits.")],
    ledger: Annotated[
        str | None, typer.Argument(metavar="LEDGER", help="Where it is, and the run's manifest.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="The run, to look for a name in.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="The run's text, if it is a file.")
    ] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Say what a piece of evidence proves, against whom, and whether it holds.

    Exit code 0: it holds; 1: it does not; 2: that cannot be said here. Without a LEDGER the manifest's
    defaults are taken for its terms.
    """
    _start_log(state_dir, log_level)
    if ledger is not None and run is not None and re.fullmatch("[0-9a-f]{64}", file):
        case = _named_evidence(file, ledger, common.parse_run(run))
    else:
        try:
            case = PortableEvidence.parse(read_file(Path(file), PortableEvidence.MOST_BYTES))
        except MessageRefused as refusal:
            raise NoLedger(f"{file} is no evidence: {refusal}") from None
    rules, notes = _terms(case, ledger)
    history = [] if ledger is None else _history_before(case, ledger, rules)
    folder = Path(ledger) if ledger is not None and (Path(ledger) / "runs").is_dir() else state_dir
    again = (lambda: reexecute(case, history[0], folder, data)) if history else None
    holds, text = judge_evidence(case, rules, again)
    if json:
        common.say_json(
            evidence=case.digest().hex(),
            run_id=case.run.hex(),
            kind=case.kind,
            against=case.against,
            holds=holds,
            text=text,
            notes=notes,
        )
    else:
        _print(view.evidence_lines(case, holds, text, notes))
    sys.exit({"holds": 0, "does not hold": 1}.get(holds, 2))


def _named_evidence(name: str, ledger: str, run: bytes) -> PortableEvidence:
    """The evidence in a ledger that a ban names. Raises NotShown."""
    with opened([ledger], run) as sources:
        reader = sources[0].reader
        for start in range(0, reader.size, BATCH):
            for raw in reader.entries(start, min(BATCH, reader.size - start)):
                if Entry.parse(raw).kind == "evidence":
                    case = PortableEvidence.parse(_item(reader, raw)[1])
                    if case.digest().hex() == name:
                        return case
    raise NotShown(f"{ledger} has no evidence {name}: name another ledger, or a file")


def _terms(case: PortableEvidence, ledger: str | None) -> tuple[EvidenceRules, list[str]]:
    """The rules that evidence is examined by, and what is to be said of them."""
    if ledger is None:
        return evidence_rules(Manifest()), [
            "examined by a manifest's default terms: name a ledger of the run for its own"
        ]
    with opened([ledger], case.run) as sources:
        raw = find_genesis(case.run, sources)
    if raw is None:
        raise NotShown(f"{ledger} has no genesis of run {case.run.hex()}, which the evidence is of")
    return evidence_rules(parse_manifest(open_signed(raw, Genesis).message.manifest)), []


def _history_before(case: PortableEvidence, ledger: str, rules: EvidenceRules) -> list[History]:
    """The history before the round that an accusation is about, from a ledger that holds up to there."""
    if case.kind not in ("update", "order"):
        return []
    try:
        wanted = read_order(case, rules)[0].round
    except MessageRefused:
        return []  # it does not hold, whatever the records say
    with opened([ledger], case.run) as sources:
        before = _round(case.run, sources, wanted).before
    return [] if before is None else [before]


# -- export, proof ----------------------------------------------------------------------------------------


@_examples(
    """
swarm-audit export --run RUN_ID --out my-ledger
swarm-audit export HOST:PORT --run RUN_ID --out their-ledger
"""
)
def export_ledger(
    run: RunId,
    out: Annotated[Path, typer.Option("--out", metavar="DIR2", help="A new folder.")],
    ledger: Annotated[str | None, typer.Argument(metavar="LEDGER", help="[--state-dir]")] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Write a ledger as files to take along (C2SP tlog-tiles), from a state folder or HOST:PORT.

    A state folder's head is signed with its key file; a port's comes signed.
    """
    _start_log(state_dir, log_level)
    run_id = common.parse_run(run)
    word = ledger or str(state_dir)
    kept = state_file(Path(word), run_id)
    if kept is not None:
        size = export_state(kept, run_id, identity or Path(word) / "identity.key", out)
    else:
        with opened([word], run_id) as sources:
            size = export_source(run_id, sources[0], out)
    if json:
        common.say_json(run_id=run_id.hex(), out=str(out), entries=size)
    else:
        print(f"{size} entries written to {out}")
        print(f"audit it: swarm-audit verify {out} --run {run_id.hex()}")


def export_state(kept: Path, run: bytes, key: Path, out: Path) -> int:
    """Export a peer's own ledger, signing its head; its size."""
    owner = Identity.load(key)
    ledger = Ledger(kept, None, run, read_only=True)
    try:
        size, root = ledger.head()
        text = write_checkpoint(Checkpoint(origin_of(run, owner.peer_id), size, root), owner)
        export(ledger, out, text, _files(run, Source(str(kept), ledger)))
    finally:
        ledger.close()
    return size


def export_source(run: bytes, source: Source, out: Path) -> int:
    """Export a ledger that is read elsewhere; its size. Raises NoLedger if its entries are not its head's."""
    if source.checkpoint is None:
        raise NoLedger(f"{source.name}: nothing with a signed head to export")
    reader = source.reader
    size, root = reader.head()
    with tempfile.TemporaryDirectory() as folder:
        copy = Ledger(Path(folder) / "ledger.sqlite", None, run)
        try:
            for start in range(0, size, BATCH):
                raws = reader.entries(start, min(BATCH, size - start))
                copy.append([_item(reader, raw) for raw in raws])
            if copy.head() != (size, root):
                raise NoLedger(f"{source.name}: its entries do not give its head: nothing was written")
            export(copy, out, source.checkpoint, _files(run, source))
        finally:
            copy.close()
    return size


def _item(reader: Any, raw: bytes) -> tuple[str, bytes]:
    entry = Entry.parse(raw)
    content = entry.content if entry.content is not None else reader.large(entry.sha256)
    if content is None:
        raise NoLedger(
            f"a large content ({entry.sha256.hex()}) is not kept there any more: export from another peer"
        )
    return entry.kind, content


def _files(run: bytes, source: Source) -> dict[str, bytes]:
    """What goes beside an exported ledger."""
    raw = find_genesis(run, [source])
    if raw is None:
        raise NotShown(f"{source.name} has no genesis of run {run.hex()}")
    return dict(zip(FILES, (raw, open_signed(raw, Genesis).message.manifest), strict=True))


@_examples("swarm-audit proof LEDGER 57 --run RUN_ID > entry-57.tlog-proof")
def proof(
    ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="An exported folder or HOST:PORT.")],
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0)],
    run: RunId,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Write a proof that an entry is in a ledger (C2SP tlog-proof), which other people's tools can check.

    The proof is checked before it is written; what it is about is the entry's own bytes.
    """
    _start_log(state_dir, log_level)
    run_id = common.parse_run(run)
    with opened([ledger], run_id) as sources:
        source = sources[0]
        size, _ = source.reader.head()
        if source.checkpoint is None:
            raise NoLedger(f"{ledger} has no signed head: export it first (`swarm-audit export`)")
        if index >= size:
            raise NotShown(f"{ledger} has {size} entries, from 0 to {size - 1}")
        head = read_checkpoint(source.checkpoint, parse_checkpoint(source.checkpoint).author)
        raw = next(iter(source.reader.entries(index, 1)), b"")
        hashes = source.reader.inclusion(index, size)
        if head.run != run_id or not merkle.verify_inclusion(
            merkle.leaf_hash(raw), index, head.size, hashes, head.root
        ):
            raise NotShown(f"{ledger} entry {index}: not in the tree whose head is signed")
    lines = ["c2sp.org/tlog-proof@v1", f"index {index}"]
    lines += [base64.b64encode(value).decode() for value in hashes]
    text = "\n".join(lines) + "\n\n" + source.checkpoint
    if json:
        common.say_json(index=index, size=size, entry=raw.hex(), proof=text)
    else:
        print(text, end="")


# -- replay -----------------------------------------------------------------------------------------------


@_examples("swarm-audit replay 12 LEDGER --run RUN_ID --state-dir DIR")
def replay(
    round_: Annotated[int, typer.Argument(metavar="ROUND", min=1)],
    run: RunId,
    ledgers: Ledgers = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="The run's text, if it is a file.")
    ] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Execute a round's orders again, where its snapshot is at hand; else say what is missing here.

    Snapshots are looked for in --state-dir: a peer keeps the last few. Exit code 0: the record's own snapshot
    follows, bit for bit; 2: something is missing, or this machine rounds in another way than the swarm's.
    """
    _start_log(state_dir, log_level)
    run_id = common.parse_run(run)
    with opened(ledgers or [str(state_dir)], run_id) as sources:
        found = _round(run_id, sources, round_)
    replays, missing = replays_of(found, run_id, state_dir)
    follows = None if missing else _follows(replays, data)
    agreed = follows is not None and found.record is not None and follows == found.record.snapshot
    if json:
        orders = [
            {"peer_id": one.peer, "order": one.order.digest().hex(), "weight": one.weight} for one in replays
        ]
        snapshot = None if follows is None else follows.hex()
        common.say_json(
            run_id=run_id.hex(),
            round=round_,
            orders=orders,
            missing=missing,
            snapshot=snapshot,
            agreed=agreed,
        )
    else:
        for one in replays:
            print(f"{one.peer}  weight {one.weight}")
            print(f"  order {one.order.digest().hex()}")
        said = [f"missing: {what}" for what in missing]
        if follows is not None:
            said.append(
                f"computed again: the record's snapshot follows, bit for bit ({follows.hex()})"
                if agreed
                else f"computed again: {follows.hex()} follows here, not the record's snapshot; a machine "
                "that rounds in another way than the swarm's gives another one too"
            )
        _print(line for text in said for line in view.wrapped(text))
    if not agreed:
        sys.exit(CannotReplay.exit_code)


def _follows(replays: list[Replay], data: Path | None) -> bytes | None:
    """The hash of the snapshot that the orders lead to."""
    from swarm.reexecution import replay_orders  # imports torch

    one = replays[0]
    orders = [(replay.order, replay.weight) for replay in replays]
    return replay_orders(orders, one.manifest, one.state_dir / "runs" / one.run.hex(), data)


def replays_of(found: RoundView, run: bytes, state_dir: Path) -> tuple[list[Replay], list[str]]:
    """A round's orders, and what is missing here to execute them."""
    record, before = found.record, found.before
    if record is None or before is None:
        return [], [f"round {found.round} has no record whose order could be drawn"]
    missing: list[str] = []
    manifest, replays = parse_manifest(before.genesis.manifest), list[Replay]()
    if before.shards:
        missing.append("a run of one shard: chains are not computed again here, their orders are only drawn")
    for shard, cell in enumerate(record.sessions):
        of = f" of shard {shard}" if before.shards else ""
        session = next((one for one in found.sessions if one.id == cell.session), None)
        if session is None:
            missing.append(f"no ledger here shows the round's session{of}: its adverts say what was promised")
        name = before.snapshot_of(shard).hex()
        snapshot = state_dir / "runs" / run.hex() / "snapshots" / f"{name}.snapshot"
        if not snapshot.exists():
            missing.append(
                f"the snapshot{of} before the round, {snapshot}: ask a peer that runs with --archive"
            )
        for peer_id in cell.survivors if session is not None else ():
            assert session is not None
            member = session.members[peer_id]
            if member.data_root is not None:
                missing.append(f"the text of {peer_id}, which is its own")
            view = DataView(member.data_count, member.data_root)
            order = _order(before, record.attempt, peer_id, view, member.chains, manifest)
            replays.append(Replay(run, peer_id, order, member.weight, manifest, state_dir))
    if importlib.util.find_spec("torch") is None:
        missing.append("an installation that trains: pip install 'edgeswarm[peer]'")
    return replays, missing


def _order(
    before: History,
    attempt: int,
    peer_id: PeerID,
    data: DataView,
    chains: Sequence[Counted],
    manifest: Manifest,
) -> Order:
    """What a member had to compute, at the round after `before`; of several shards, for these chains."""
    if not before.shards:
        return draw_order(before, attempt, peer_id, data, manifest.work)
    counted = [(one.chain, one.slices) for one in chains]
    return chained_order(before, attempt, peer_id, data, manifest.work, counted)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


COMMANDS: dict[str, Callable[..., None]] = {
    "verify": verify,
    "show": show,
    "peer": peer,
    "evidence": evidence,
    "export": export_ledger,
    "proof": proof,
    "replay": replay,
}


def main() -> None:
    """The entry point."""
    common.main_of(COMMANDS, "swarm-audit", EXAMPLES)()


if __name__ == "__main__":
    main()
