"""A run's history, fed with nearly valid outcomes and statements: it goes on by the rules, or not at all."""

from proto.errors import MessageRefused
from swarm.carried import Carried
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator, try_all
from tests.verify import chain
from tests.verify.chain import KEYS, PEERS
from verify.carrying import union_of_statements
from verify.record import Decided, History
from verify.statement import sign

HISTORY = seeds.grown()
OUTSIDERS = {peer: KEYS[peer] for peer in PEERS[20:24]}


def follow(raw: bytes) -> None:
    """What the next outcome leads to; a void one leads nowhere."""
    decided = Decided.parse(raw)
    if not decided.recovery and not decided.body:
        HISTORY.check_void(decided)
        return
    after = HISTORY.extend(raw)
    assert after.round == HISTORY.round + 1
    assert after.run == HISTORY.run
    assert 0 < len(after.roster) <= HISTORY.genesis.largest_cell
    assert not set(after.roster) & set(after.conduct.bans)


def test_an_outcome_that_all_may_sign_is_followed_or_refused_by_name() -> None:
    """Even a quorum, and the stewards, that sign nonsense can lead nobody out of the rules."""
    mutator = Mutator("outcomes", seeds.outcomes(HISTORY), KEYS)
    try_all(follow, mutator.inputs(8_000)).check(various=25, taken=5)


def test_a_record_that_a_quorum_certified_is_followed_or_refused_by_name() -> None:
    """The votes are for the changed record, so that its content is looked at."""
    said = tuple(sorted(seeds.carried(HISTORY)[:4]))
    records = [chain.record_after(HISTORY), chain.record_after(HISTORY, statements=said)]
    mutator = Mutator("records", [record.encode() for record in records], KEYS)

    def certified(raw: bytes) -> None:
        record = type(records[0]).parse(raw)
        follow(chain.decided(HISTORY, record))

    try_all(certified, mutator.inputs(4_000)).check(various=30, taken=10)


def test_outsiders_change_nothing_whatever_they_sign() -> None:
    """Without the keys of members and stewards, all that is followed are the outcomes that were there."""
    mutator = Mutator("outsiders", seeds.outcomes(HISTORY), OUTSIDERS)
    values = {HISTORY.extend(raw).head for raw in mutator.seeds if Decided.parse(raw).body}

    def as_decided(raw: bytes) -> None:
        follow(raw)
        if Decided.parse(raw).body:
            assert HISTORY.extend(raw).head in values

    try_all(as_decided, mutator.inputs(6_000)).check(various=20, taken=5)


def test_a_statement_for_a_record_has_a_subject_or_is_refused() -> None:
    mutator = Mutator("statements", seeds.carried(HISTORY), KEYS)

    def about(raw: bytes) -> None:
        subject = HISTORY.subject(raw)
        assert all(isinstance(part, str) for part in subject)
        assert subject[1] in KEYS

    try_all(about, mutator.inputs(8_000)).check(various=25, taken=100)


def test_whatever_is_taken_in_can_be_carried_by_a_record() -> None:
    """What members hand each other, mutated, fills a record that every member follows."""
    mutator = Mutator("carried", seeds.carried(HISTORY), KEYS)
    carried = Carried()
    for raw in mutator.inputs(1_500):
        try:
            carried.take(raw, HISTORY)
        except MessageRefused:
            continue
    chosen = union_of_statements(
        HISTORY, [carried.admissible(HISTORY), [b"", b"\x84", mutator.seeds[0][:-1]]]
    )
    assert len(chosen) > 10
    follow(chain.decided(HISTORY, chain.record_after(HISTORY, statements=chosen)))


def test_a_genesis_begins_a_run_or_is_refused() -> None:
    begun = sign(KEYS[PEERS[0]], HISTORY.genesis)

    def first(raw: bytes) -> None:
        history = History.begin(raw)
        assert history.genesis.founder in history.members

    try_all(first, Mutator("genesis", [begun], KEYS).inputs(4_000)).check(various=20)
