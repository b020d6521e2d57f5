"""What `swarm-audit` shows: lines of at most 80 columns for people, JSON values for programs."""

import textwrap
from collections.abc import Iterator
from typing import Any

from swarm.cli.common import show_size
from swarm.energy.claims import claim_json
from verify.audit_report import Contribution, Finding, HeldEvidence, Report, RoundView
from verify.case import PortableEvidence
from verify.record import MICRO, Cell, Goodbye, Join, Move, Record
from verify.standing import Ban, Judgement, Verdict
from verify.statement import domain_of, open_signed

WIDTH = 80
SHOWN = 20
"""Findings that are shown to people; JSON has more."""
RESULTS = ("clean: nothing wrong was found", "WRONG", "UNREADABLE: not everything could be read")


def safe(text: str) -> str:
    """Others' text without escape codes."""
    return "".join(c if c.isprintable() else "?" for c in text)


def wrapped(text: str, indent: int = 2) -> list[str]:
    """A text in lines that fit, the later ones further in."""
    first, later = " " * indent, " " * (indent + 2)
    return textwrap.wrap(safe(text), WIDTH, initial_indent=first, subsequent_indent=later) or [first]


# -- verify -----------------------------------------------------------------------------------------------


def report_lines(report: Report, seconds: float) -> Iterator[str]:
    """An audit for people."""
    yield f"run {report.run.hex()}"
    yield ""
    yield f"{'ledger':24} {'entries':>9} {'records':>8} {'sessions':>9}  head"
    for ledger in report.ledgers:
        signed = "signed" if ledger.signed else "unsigned"
        row = f"{ledger.size:9d} {ledger.records:8d} {ledger.sessions:9d}  {signed}"
        yield f"{safe(ledger.name)[-24:]:24} {row}"
        yield f"  {ledger.author or 'whose it is cannot be told'}"
    yield ""
    for label, text in _summary(report):
        yield from textwrap.wrap(f"{label:10}{text}", WIDTH, subsequent_indent=" " * 10)
    if report.findings:
        yield ""
        wrong = len(report.findings) + report.more
        yield f"{wrong} finding{'s' if wrong > 1 else ''}, the first ones of each kind first:"
        for finding in report.findings[:SHOWN]:
            yield from wrapped(f"{'UNREADABLE' if finding.unreadable else 'WRONG'} {finding}")
        if wrong > SHOWN:
            yield f"  and {wrong - SHOWN} more"
    if report.handled:
        yield ""
        yield "what banned peers did, and were banned for or anyway:"
        for finding in report.handled[:SHOWN]:
            yield from wrapped(str(finding))
    for note in report.notes:
        yield from wrapped(f"note: {note}", 0)
    yield ""
    rate = report.statements / max(seconds, 1e-9)
    yield RESULTS[report.exit_code]
    yield f"{report.statements} signatures checked in {seconds:.1f} s ({rate:.0f} a second)"


def _summary(report: Report) -> Iterator[tuple[str, str]]:
    genesis, history = report.genesis, report.history
    if genesis is not None:
        members = f"{len(genesis.members)} members, manifest of {show_size(len(genesis.manifest))}"
        yield "genesis", f"founded by {genesis.founder}, {members}"
    last = 0 if history is None else history.round
    yield (
        "records",
        f"{report.records} up to round {last}, {report.recoveries} recoveries of the stewards, "
        f"{report.voids} void attempts certified",
    )
    yield "sessions", f"{report.sessions} shown, with adverts, final set, releases and sums"
    drawn = report.verdicts - report.verdicts_unseen
    yield "checks", f"{report.verdicts} verdicts, {drawn} of sessions whose draw is known"
    yield "heads", f"{report.heads} heads compared with the ledgers that are here"
    bans = {} if history is None else history.conduct.bans
    yield "bans", "none" if not bans else f"{len(bans)}:"
    for peer, ban in sorted(bans.items(), key=lambda item: item[1].round):
        held = report.evidence.get(ban.evidence)
        yield "", f"{peer} since record {ban.round}: {ban.reason}, {_standing(ban, held)}"


def _standing(ban: Ban, held: HeldEvidence | None) -> str:
    if not any(ban.evidence):
        return "by strikes"
    if held is None:
        return "its evidence is not here"
    return "the accusation does not hold" if ban.reason.startswith("false") else f"its evidence: {held.holds}"


def report_json(report: Report, seconds: float) -> dict[str, Any]:
    """An audit for programs."""
    history = report.history
    return {
        "run_id": report.run.hex(),
        "ok": report.ok,
        "exit_code": report.exit_code,
        "statements": report.statements,
        "seconds": seconds,
        "round": 0 if history is None else history.round,
        "records": report.records,
        "recoveries": report.recoveries,
        "voids": report.voids,
        "sessions": report.sessions,
        "verdicts": report.verdicts,
        "heads": report.heads,
        "ledgers": [
            {
                "name": one.name,
                "author": one.author,
                "size": one.size,
                "root": one.root.hex(),
                "signed": one.signed,
                "records": one.records,
                "sessions": one.sessions,
            }
            for one in report.ledgers
        ],
        "findings": [finding_json(one) for one in report.findings],
        "more_findings": report.more,
        "handled": [finding_json(one) for one in report.handled],
        "notes": report.notes,
        "bans": bans_json(report),
        "evidence": [
            {
                "evidence": name.hex(),
                "kind": one.kind,
                "against": one.against,
                "holds": one.holds,
                "text": one.text,
                "ledger": one.ledger,
                "index": one.index,
            }
            for name, one in report.evidence.items()
        ],
        "peers": [{"peer_id": peer, **peer_json(one, report)} for peer, one in sorted(report.peers.items())],
    }


def bans_json(report: Report) -> list[dict[str, Any]]:
    """The bans, each with what the audit finds of its evidence."""
    bans = {} if report.history is None else report.history.conduct.bans
    found = []
    for peer, ban in sorted(bans.items()):
        held = report.evidence.get(ban.evidence)
        found.append(
            {
                **ban.json(peer),
                "holds": None if held is None else held.holds,
            }
        )
    return found


def finding_json(finding: Finding) -> dict[str, Any]:
    """One finding."""
    return {
        "ledger": finding.ledger,
        "index": finding.index,
        "what": finding.what,
        "by": finding.by,
        "unreadable": finding.unreadable,
    }


# -- peer -------------------------------------------------------------------------------------------------


def peer_json(one: Contribution, report: Report) -> dict[str, Any]:
    """What the records say of a peer."""
    ban = one.ban
    return {
        "member": one.member,
        "shard": one.shard,
        "rounds": one.rounds,
        "weight": one.weight,
        "checks_made": one.checks_made,
        "drawn": one.drawn,
        "checked": one.checked,
        "passed": one.passed,
        "found_wrong": one.wrong,
        "complaints": one.complaints,
        "strikes": one.strikes,
        "energy": None if one.energy is None else claim_json(one.energy, report.joules_per_megabyte),
        "energy_doubts": one.doubts,
        "ban": None
        if ban is None
        else {"round": ban.round, "reason": ban.reason, "evidence": ban.evidence.hex()},
    }


def peer_lines(peer: str, one: Contribution, report: Report) -> Iterator[str]:
    """A peer's contribution for people."""
    total = sum(other.weight for other in report.peers.values())
    share = f"{100 * one.weight / total:.1f} % of all" if total else "of none"
    yield peer
    standing = "in the roster" if one.member else "not in the roster"
    if one.shard is not None:
        standing += f", holds shard {one.shard}"
    if one.ban is not None:
        standing = f"banned since record {one.ban.round}, for {one.ban.reason}"
    yield f"  standing  {standing}"
    yield f"  rounds    {one.rounds} of {report.records} survived"
    yield f"  weight    {one.weight} slices, {share}"
    yield f"  checked   {one.checked} times ({one.drawn} draws are known): {one.passed} passed, "
    yield f"            {one.wrong} wrong, {one.complaints} without an answer"
    yield f"  checks    {one.checks_made} made of others"
    yield f"  strikes   {one.strikes}"
    if one.energy is not None:
        claimed = claim_json(one.energy, report.joules_per_megabyte)
        used = "nobody knows" if claimed["joules"] is None else f"{claimed['joules']:,.0f} J"
        network = f"{claimed['network_joules']:,.0f} J of network (modelled)"
        yield f"  energy    {used} ({one.energy.kind}), {network}"
        yield from wrapped(f"by {one.energy.source}", 12)
        if claimed["gco2e"] is not None:
            yield f"            {claimed['gco2e']:,.1f} g CO2e at {claimed['grid']['source']}"
        for doubt in one.doubts:
            yield from wrapped(f"doubt: {doubt}", 12)
    if one.ban is not None and any(one.ban.evidence):
        held = report.evidence.get(one.ban.evidence)
        yield f"  evidence  {one.ban.evidence.hex()}"
        yield from wrapped(_standing(one.ban, held), 12)


# -- show -------------------------------------------------------------------------------------------------


def round_json(view: RoundView) -> dict[str, Any]:
    """One round for programs."""
    record = view.record
    value: dict[str, Any] = {
        "round": view.round,
        "recovery": view.decided is not None and view.decided.recovery,
        "voids": view.voids,
        "entries": [{"ledger": name, "index": index} for name, index in view.where],
        "voters": list(view.voters),
        "roster": [] if view.history is None else list(view.history.members),
        "findings": [finding_json(one) for one in view.findings],
        "sessions": [
            {
                "session": one.id.hex(),
                "attempt": one.slot[1],
                "shard": one.shard,
                "members": {peer: member.weight for peer, member in one.members.items()},
                "survivors": None if one.survivors is None else list(one.survivors),
                "proposer": one.proposer,
                "owners": {str(part): owner for part, owner in one.owners.items()},
                "beacon": None if one.beacon is None else one.beacon.hex(),
                "chunks": one.chunks,
            }
            for one in view.sessions
        ],
    }
    if record is not None:
        value["record"] = {
            "attempt": record.attempt,
            "digest": record.digest().hex(),
            "previous": record.previous.hex(),
            "snapshot": record.snapshot.hex(),
            "session": record.session.hex(),
            "survivors": dict(zip(record.survivors, record.weights, strict=True)),
            "tokens": record.tokens,
            "loss": record.loss / MICRO,
            "heldout_loss": record.heldout / MICRO,
            "beacon": record.beacon.hex(),
            "cells": [
                {
                    "session": cell.session.hex(),
                    "snapshot": cell.snapshot.hex(),
                    "survivors": list(cell.survivors),
                    "beacon": cell.beacon.hex(),
                }
                for cell in record.cells
            ],
            "statements": [statement_text(raw) for raw in record.statements],
        }
    return value


def round_lines(view: RoundView) -> Iterator[str]:
    """One round for people."""
    record = view.record
    places = ", ".join(f"{name} entry {index}" for name, index in view.where)
    yield from wrapped(f"round {view.round}: {places or 'no outcome that holds'}", 0)
    if record is None:
        if view.decided is not None and view.decided.recovery and view.history is not None:
            yield "a recovery of the stewards; the roster after it:"
            yield from (f"  {peer}" for peer in view.history.members)
    else:
        yield f"record    {record.digest().hex()}"
        yield f"snapshot  {record.snapshot.hex()}"
        yield f"session   {record.session.hex()}"
        loss = f"loss {record.loss / MICRO:.3f}, held-out {record.heldout / MICRO:.3f}"
        yield f"attempt {record.attempt} ({view.voids} void ones certified), {loss}, {record.tokens} tokens"
        for shard, cell in enumerate(record.sessions):
            yield ""
            if record.cells:
                yield f"shard {shard}"
                yield f"  snapshot {cell.snapshot.hex()}"
                yield f"  session  {cell.session.hex()}"
            yield from _cell_lines(view, record, cell)
        for raw in record.statements:
            yield from wrapped(statement_text(raw))
    for finding in view.findings:
        yield from wrapped(f"{'UNREADABLE' if finding.unreadable else 'WRONG'} {finding}")


def _cell_lines(view: RoundView, record: Record, cell: Cell) -> Iterator[str]:
    """The survivors of one session."""
    named = next((one for one in view.sessions if one.id == cell.session), None)
    weights = dict(zip(record.survivors, record.weights, strict=True))
    yield f"{'survivor':52}  weight  voted  owns"
    for peer in cell.survivors:
        voted = "yes" if peer in view.voters else "no"
        parts = [] if named is None else [str(part) for part, owner in named.owners.items() if owner == peer]
        owns = f"part {', '.join(parts)}" if parts else "-"
        yield f"{peer}  {weights[peer]:6d}  {voted:5}  {owns}"[:WIDTH]
        for chain in () if named is None else named.members[peer].chains:
            yield f"  chain {chain.chain}: {chain.slices} slices"
    if named is None:
        yield "no ledger here shows the session: what led to the record was not checked"
    elif named.proposer is not None:
        yield f"proposer {named.proposer}"


def statement_text(raw: bytes) -> str:
    """A statement that a record carries, in words."""
    domain = domain_of(raw)
    if domain == Verdict.DOMAIN:
        signed = open_signed(raw, Verdict)
        return f"{signed.signer} checked {signed.message.checked}: {signed.message.outcome}"
    if domain == Judgement.DOMAIN:
        judged = open_signed(raw, Judgement)
        said = "holds" if judged.message.holds else "does not hold"
        of = f"{judged.message.kind} against {judged.message.against}"
        return f"{judged.signer} finds that evidence {judged.message.evidence.hex()[:16]} ({of}) {said}"
    if domain == Move.DOMAIN:
        moved = open_signed(raw, Move)
        return f"{moved.signer} moves to shard {moved.message.shard}"
    kinds: dict[str, type[Join | Goodbye]] = {Join.DOMAIN: Join, Goodbye.DOMAIN: Goodbye}
    if domain in kinds:
        return f"{open_signed(raw, kinds[domain]).signer} {'joins' if domain == Join.DOMAIN else 'leaves'}"
    return f"a {domain}"


# -- evidence ---------------------------------------------------------------------------------------------


def evidence_lines(case: PortableEvidence, holds: str, text: str, notes: list[str]) -> Iterator[str]:
    """A file of evidence for people."""
    yield f"evidence  {case.digest().hex()}"
    yield f"run       {case.run.hex()}"
    yield f"kind      {safe(case.kind)}"
    yield f"against   {case.against}"
    yield f"contains  {len(case.statements)} statements, {len(case.adverts)} adverts"
    yield from wrapped(f"{holds.upper()}: {text}", 0)
    for note in notes:
        yield from wrapped(f"note: {note}", 0)
