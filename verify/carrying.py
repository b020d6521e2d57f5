"""What a record says of what its survivors brought: which statements it carries, and of their adverts.

The promise: a proposer cannot leave one out, and no signer crowds the others out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from proto.canonical import PeerID
from proto.energy import EnergyClaim, EnergyKind
from proto.errors import MessageRefused
from verify.record import MOST_CARRIED, MOST_OF_ONE, Goodbye, History, Join, Move, Subject
from verify.standing import Judgement, Verdict
from verify.statement import domain_of, open_signed

RANK = {Judgement.DOMAIN: 0, Goodbye.DOMAIN: 1, Join.DOMAIN: 1, Move.DOMAIN: 1, Verdict.DOMAIN: 2}
"""Which statements come first where not all fit, by the first word of their subject."""


def union_of_statements(history: History, carried: Iterable[Sequence[bytes]]) -> tuple[bytes, ...]:
    """What a record must carry: all that is admissible, one a subject, in order.

    Where it is more than a record holds, judgements come first, and verdicts last.
    """
    chosen: dict[Subject, bytes] = {}
    said = {raw for statements in carried for raw in statements}
    for raw in sorted(said, key=lambda raw: (not binds(raw), raw)):
        try:
            chosen.setdefault(history.subject(raw), raw)
        except MessageRefused:
            continue  # it was admissible where it was signed, at another height; the record goes without
    return tuple(sorted(in_fair_order(history, chosen)[:MOST_CARRIED]))


def leaves_out(history: History, statements: Sequence[bytes], carried: Iterable[Sequence[bytes]]) -> bool:
    """Whether a record with these statements leaves out what some of its votes carried. Other votes may have
    brought a statement that goes first, or have crowded it out."""
    said = {history.subject(raw): raw for raw in statements}
    of_one = Counter(signer for _, signer, *_ in said)
    if len(said) >= MOST_CARRIED:
        return False
    for raw in union_of_statements(history, carried):
        subject = history.subject(raw)
        if subject in said:
            chosen = said[subject]
            if (not binds(chosen), chosen) > (not binds(raw), raw):
                return True
        elif subject[0] != Join.DOMAIN and of_one[subject[1]] < MOST_OF_ONE:
            return True
    return False


def in_fair_order(history: History, statements: Mapping[Subject, bytes]) -> list[bytes]:
    """Which go first where not all fit: everybody's first of each kind before anybody's second, judgements
    before the rest; of one signer no more than `MOST_OF_ONE`, and no joins but those that are taken."""
    joins = {raw for subject, raw in statements.items() if subject[0] == Join.DOMAIN}
    late = joins - set(history.taken(joins))
    of_one: Counter[tuple[str, PeerID]] = Counter()
    in_all: Counter[PeerID] = Counter()
    ranked: list[tuple[int, int, bytes, PeerID]] = []
    for subject, raw in sorted(statements.items(), key=lambda item: item[1]):
        domain, signer = subject[:2]
        if raw in late:
            continue
        ranked.append((of_one[domain, signer], RANK[domain], raw, signer))
        of_one[domain, signer] += 1
    kept: list[bytes] = []
    for _, _, raw, signer in sorted(ranked):
        in_all[signer] += 1
        if in_all[signer] <= MOST_OF_ONE:
            kept.append(raw)
    return kept


def binds(raw: bytes) -> bool:
    """Whether a statement cannot be taken back: that evidence holds, or what its author computed.

    False, never an error, on anything that is neither.
    """
    try:
        if domain_of(raw) == Judgement.DOMAIN:
            return open_signed(raw, Judgement).message.holds
        return domain_of(raw) == Verdict.DOMAIN and open_signed(raw, Verdict).message.sketch is not None
    except MessageRefused:
        return False


def energy_of(
    claims: Iterable[tuple[PeerID, EnergyClaim | None]],
) -> tuple[tuple[PeerID, EnergyKind, int | None, int], ...]:
    """What a record says of its survivors' energy, from their adverts."""
    return tuple(
        (peer, claim.kind, claim.millijoules, claim.network_bytes)
        for peer, claim in claims
        if claim is not None
    )


def median(values: Sequence[int]) -> int:
    """The lower median: at least half of the values are at least this, so a minority cannot move it far."""
    return sorted(values)[(len(values) - 1) // 2]
