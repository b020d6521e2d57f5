"""A round's record against the sessions that led to it: everything in it that their statements give.

A ledger shows the session of its author's cell. The promise: a cell's part of a record is computed again from
that cell's session, the weights of all shards from any cell's certificates; and what takes every cell's votes
from all of them, where ledgers show them all, or as far as they go.
"""

from collections.abc import Iterable, Iterator, Mapping

from proto.canonical import PeerID
from proto.errors import MessageRefused
from verify.audit_report import Member
from verify.audit_session import SessionFacts
from verify.carrying import energy_of, leaves_out, median, union_of_statements
from verify.chains import Counted, weights
from verify.record import Cell, History, Record

Shown = Mapping[int, SessionFacts]
"""Of each shard the session that a record names, as far as ledgers show them."""


def sessions_shown(record: Record, sessions: Iterable[SessionFacts]) -> Shown:
    """Which of these sessions the record names, one a shard."""
    found: dict[int, SessionFacts] = {}
    for facts in sessions:
        cell = cell_of(record, facts)
        if cell is not None and cell.session == facts.id and is_whole(facts, cell):
            found.setdefault(facts.shard, facts)
    return found


def cell_of(record: Record, facts: SessionFacts) -> Cell | None:
    """What a record says of the shard that a session is of; None where it is of another attempt."""
    named = facts.slot == (record.round, record.attempt) and facts.shard < len(record.sessions)
    return record.sessions[facts.shard] if named and facts.final is not None else None


def survivors_of(facts: SessionFacts) -> list[tuple[PeerID, Member]]:
    """A session's survivors with what their adverts say."""
    return [(peer, facts.members[peer]) for peer in facts.survivors]


def differences(before: History, record: Record, facts: SessionFacts, shown: Shown) -> Iterator[str]:
    """What a record says otherwise than one of its sessions. `before`: the history it follows; `shown`: the
    record's sessions."""
    cell = record.sessions[facts.shard]
    of = f" of shard {facts.shard}" if record.cells else ""
    if not is_whole(facts, cell):
        yield f"its survivors{of} are not those of the final set (entry {facts.final})"
        return
    for name, said, made in _cell_values(before, record, facts, cell):
        if said != made:
            source = "seeds give" if name == "beacon" else "adverts give"
            yield f"its {name}{of} {'is' if name == 'beacon' else 'are'} not what the session's {source}"
    if record.cells:
        yield from _chain_differences(before, record, facts, shown)
    here = {**shown, facts.shard: facts}
    carried = [union_of_statements(before, one.carried) for one in here.values()]  # as each cell tells all
    if len(here) == len(record.sessions):
        right = record.statements == union_of_statements(before, carried)
    else:
        right = not leaves_out(before, record.statements, carried)
    if not right:
        yield "its statements are not what the session's votes give"


def is_whole(facts: SessionFacts, cell: Cell) -> bool:
    """Whether a session has the survivors that the record gives the cell, and all their adverts."""
    return facts.survivors == cell.survivors and set(facts.survivors) <= facts.members.keys()


def _cell_values(
    before: History, record: Record, facts: SessionFacts, cell: Cell
) -> Iterator[tuple[str, object, object]]:
    """Of each field that the cell's statements give: its name, what the record says, what they give."""
    here = set(cell.survivors)
    members = survivors_of(facts)
    said = dict(zip(record.survivors, record.weights, strict=True))
    yield "weights", [said[peer] for peer, _ in members], [member.weight for _, member in members]
    if facts.shard == len(record.sessions) - 1:  # the last shard computes the losses
        last = [member for _, member in members if member.weight]
        weight = sum(member.weight for member in last)
        yield "tokens", record.tokens, sum(member.tokens for member in last)
        yield "loss", record.loss, sum(one.loss * one.weight for one in last) // max(weight, 1)
        yield "heldout", record.heldout, median([one.heldout for one in last]) if last else 0
    heads = tuple((peer, member.head_size, member.head_root) for peer, member in members)
    yield "heads", tuple(one for one in record.heads if one[0] in here), heads
    energy = energy_of((peer, member.energy) for peer, member in members)
    yield "energy", tuple(one for one in record.energy if one[0] in here), energy
    data = tuple(
        (peer, member.data_root, member.data_count)
        for peer, member in members
        if member.data_root is not None and before.roster[peer].data_root is None
    )
    yield "data", tuple(one for one in record.data if one[0] in here), data
    if facts.beacon is not None:
        yield "beacon", cell.beacon, facts.beacon


def _chain_differences(before: History, record: Record, facts: SessionFacts, shown: Shown) -> Iterator[str]:
    """A chain counts in every shard or in none, for the peers that its certificate names."""
    mine = _chains(facts)
    try:
        given = weights(mine, len(record.cells))
    except MessageRefused as refusal:
        yield f"its certificates of shard {facts.shard}: {refusal}"
        return
    said = dict(zip(record.survivors, record.weights, strict=True))
    for shard, cell in enumerate(record.cells):
        if {peer: said[peer] for peer in cell.survivors if said[peer]} != given[shard]:
            yield f"its weights of shard {shard} are not what the certificates of shard {facts.shard} give"
    for shard, other in shown.items():
        strange = sorted({one.chain for one in {*mine} ^ {*_chains(other)}})
        if strange:
            yield f"shards {facts.shard} and {shard} do not count the same of chains {strange}"
    here = {**shown, facts.shard: facts}
    if len(here) == len(record.cells):
        met = {peer for one in here.values() for peer in one.members}
        if len(met) < before.quorum:
            yield f"its sessions have {len(met)} members, {before.quorum} had to meet"


def _chains(facts: SessionFacts) -> list[Counted]:
    """The chains that a cell's survivors count."""
    return [one for _, member in survivors_of(facts) for one in member.chains]
