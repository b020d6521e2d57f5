"""Whoever lies about its work, its sums or its findings is banned whatever it tries; the honest never are."""

import itertools
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from proto.canonical import PeerID, tagged_hash
from proto.errors import MessageRefused
from secagg.interface import Job, SendSum
from secagg.messages import FinalSet, Shown, chunk_hashes
from swarm.effects import Adopt, Effect, Work
from swarm.openings import EvidenceAsked, ShownAsked
from swarm.order import Order
from swarm.testing import CHUNK, VirtualSwarm, made_of, virtual_manifest, virtual_slice
from tests.attacks.rounds import assert_one_model, records_of
from tests.verify.chain import wish
from verify.check import ChunksAsked, Computed
from verify.commitment import ChunkOpening, SliceOpening
from verify.evidence import PortableEvidence
from verify.identity import Identity
from verify.record import Decided, Goodbye, Record, RecordRefused, colluders
from verify.sketch import WIDTH
from verify.sketch import sketch as make_sketch
from verify.standing import CONTRADICTED, FALSE_ACCUSATION, SILENCE, Judgement, Verdict
from verify.statement import domain_of, open_signed, sign

Bend = Callable[[Order, list[np.ndarray]], Work]
Answer = list[bytes] | None


class Swarm(VirtualSwarm):
    """A virtual swarm with liars, who train (`bends`), answer (`answers`) and sum (`owners`) as they like."""

    def __init__(
        self, peers: int = 4, rounds: int = 8, mode: str = "secure", rate: float = 1.0, seed: int = 0
    ):
        self.bends: dict[PeerID, Bend] = {}
        self.answers: dict[PeerID, Callable[[PeerID, bytes, Answer], Answer]] = {}
        self.owners: set[PeerID] = set()
        self.rate = rate
        super().__init__(peers, rounds, seed, virtual_manifest(rounds, mode, verification=f"rate = {rate}"))
        self.liars = sorted(self.peers)[-1:]

    @property
    def liar(self) -> PeerID:
        return self.liars[-1]

    @property
    def honest(self) -> list[PeerID]:
        return sorted(set(self.peers) - set(self.liars))

    def collude(self) -> list[PeerID]:
        """As many liars as a roster bears."""
        self.liars = sorted(self.peers)[-colluders(len(self.peers)) :]
        return self.liars

    def sign(self, peer: PeerID, message: object) -> bytes:
        return sign(self.peers[peer].identity, message)  # type: ignore[arg-type]

    def tell_all(self, peer: PeerID, raw: bytes) -> None:
        for other in self.machine(peer).history.members:
            self._tell(peer, other, raw)

    def when(self, peer: PeerID, kind: type, action: Callable[[Effect], None]) -> None:
        """Do something when a peer is asked to carry out an effect of a kind."""
        before = self.on_effect

        def look(me: PeerID, effect: Effect) -> None:
            before(me, effect)
            if me == peer and isinstance(effect, kind):
                action(effect)

        self.on_effect = look

    # -- where liars are bent ----------------------------------------------------------------------------

    def train(self, me: PeerID, order: Order, slices: int) -> Work:
        true = [virtual_slice(order, index, self.size) for index in range(slices)]
        return self.bends[me](order, true) if me in self.bends else made_of(order, true)

    def answer(self, sender: PeerID, to: PeerID, raw: bytes) -> Answer:
        if to not in self.answers:
            return super().answer(sender, to, raw)
        try:
            true = super().answer(sender, to, raw)
        except MessageRefused:
            true = None
        return self.answers[to](sender, raw, true)

    def _do(self, me: PeerID, effect: Effect) -> None:
        if me in self.owners and isinstance(effect, Job) and effect.name[0] == "sum":
            session, job = self.machine(me).session, effect

            def lie() -> tuple[bytes, ...]:
                job.run()
                assert session is not None
                total = session._summing.of(int(job.name[1]))
                total += np.int16(1)
                return chunk_hashes(total, CHUNK)

            effect = replace(job, run=lie)
        super()._do(me, effect)

    # -- what must hold ------------------------------------------------------------------------------------

    def goes_on(self) -> dict[PeerID, str]:
        """Run to the end, or to the record after all liars are banned: whom the honest banned, and why.

        The honest are of one mind all the way, and have neither banned nor struck one of them.
        """

        def over() -> bool:
            histories = [self.machine(peer).history for peer in self.honest]
            banned = max((ban.round for ban in histories[0].conduct.bans.values()), default=0)
            done = self.liars and all(set(self.liars) <= set(one.conduct.bans) for one in histories)
            ended = all(self.peers[peer].final for peer in self.honest)
            return ended or bool(done and all(one.round > banned for one in histories))

        self.run(4_000.0, over)
        assert over()
        chains = [records_of(self, peer) for peer in self.honest]
        rounds = min(map(len, chains))
        assert all(chain[:rounds] == chains[0][:rounds] for chain in chains)
        (bans,) = {
            tuple(sorted((peer, ban.reason, ban.round) for peer, ban in self.bans(one).items()))
            for one in self.honest
        }
        assert {peer for peer, _, _ in bans} <= set(self.liars), "an honest peer is banned"
        for peer in self.honest:
            assert not self.machine(peer).history.conduct.strikes.get(peer)
        return {peer: reason for peer, reason, _ in bans}

    def bans(self, peer: PeerID) -> dict:
        return dict(self.machine(peer).history.conduct.bans)

    def banned_in(self, peer: PeerID) -> int:
        return int(self.bans(self.honest[0])[peer].round)

    def within(self, chances: int = 1) -> int:
        """Records within which a cheat of every round is banned, but for once in a hundred runs."""
        missed = 1 - self.rate / chances
        return 4 + (math.ceil(math.log(0.01) / math.log(missed)) if missed else 0)


SWARMS = [(4, "secure", 1.0), (4, "plain", 0.5), (8, "plain", 1.0), (8, "secure", 0.5)]
ALL = pytest.mark.parametrize(("peers", "mode", "rate"), SWARMS, ids=lambda value: str(value))


# -- the honest -------------------------------------------------------------------------------------------


@ALL
def test_among_the_honest_everyone_is_checked_and_nobody_is_found_wrong(
    peers: int, mode: str, rate: float
) -> None:
    swarm = Swarm(peers, 3, mode, rate)
    swarm.liars = []
    assert swarm.goes_on() == {}
    assert_one_model(swarm, swarm.honest)
    conduct = swarm.machine(swarm.honest[0]).history.conduct
    assert sum(conduct.passed.values()) >= (peers if rate == 1 else 1)
    assert not conduct.judged
    assert not conduct.settled
    if rate == 1.0:
        assert set(conduct.passed) == set(swarm.peers)
        assert not conduct.complaints


def test_an_honest_peer_that_is_killed_again_and_again_is_not_banned() -> None:
    """What it computed is gone with it, so that it can open nothing."""
    swarm = Swarm(4, 20, "plain")
    swarm.liars, victim, rounds = [], sorted(swarm.peers)[-1], {3, 10, 17}

    def kill(effect: Effect) -> None:
        assert isinstance(effect, Adopt)
        if effect.record.round in rounds:
            rounds.discard(effect.record.round)
            swarm.at(swarm.now + 0.001, lambda: swarm.kill(victim))
            swarm.at(swarm.now + 8.0, lambda: swarm.start(victim))

    swarm.when(victim, Adopt, kill)
    swarm.run(4_000.0)
    assert not rounds
    assert not swarm.machine(victim).history.conduct.bans
    assert victim in swarm.machine(victim).history.roster


def test_a_checker_that_is_not_there_is_replaced_by_the_next() -> None:
    swarm = Swarm(4, 8, "plain")
    swarm.answers[swarm.liar] = lambda sender, raw, true: true
    swarm.bends[swarm.liar] = flipped
    deaf = swarm.honest[0]
    swarm.recompute = lambda me, order, index: (  # type: ignore[method-assign]
        None if me == deaf else VirtualSwarm.recompute(swarm, me, order, index)
    )
    assert swarm.goes_on() == {swarm.liar: "update"}


# -- lies about the work -----------------------------------------------------------------------------------


def flipped(order: Order, true: list[np.ndarray]) -> Work:
    return made_of(order, [-one for one in true])


def zeros(order: Order, true: list[np.ndarray]) -> Work:
    return made_of(order, [np.zeros_like(one) for one in true])


def stale(order: Order, true: list[np.ndarray]) -> Work:
    first = replace(order, round=1)
    return made_of(order, [virtual_slice(first, index, len(true[0])) + np.int16(1) for index in range(4)])


def hidden(order: Order, true: list[np.ndarray]) -> Work:
    work = made_of(order, true)
    return replace(work, update=work.update - true[0])


def one_chunk(order: Order, true: list[np.ndarray]) -> Work:
    bent = [one.copy() for one in true]
    for one in bent:
        one[:CHUNK] = -one[:CHUNK]
    return made_of(order, bent)


def other_order(order: Order, true: list[np.ndarray]) -> Work:
    return made_of(replace(order, seed=bytes(32)), true)


WORKS: dict[str, tuple[Bend, str]] = {
    "sign flip": (flipped, "update"),
    "zeros": (zeros, "update"),
    "stale": (stale, "update"),
    "hidden slice": (hidden, "slices"),
    "one chunk": (one_chunk, "update"),
    "another order": (other_order, "order"),
}


RUNS = [(lie, *SWARMS[0]) for lie in WORKS]
RUNS += [("zeros", *SWARMS[1]), ("sign flip", *SWARMS[2]), ("hidden slice", *SWARMS[3])]


@pytest.mark.parametrize(("lie", "peers", "mode", "rate"), RUNS)
def test_who_lies_about_its_work_is_banned_in_time(lie: str, peers: int, mode: str, rate: float) -> None:
    swarm = Swarm(peers, 20, mode, rate)
    bend, reason = WORKS[lie]
    swarm.bends[swarm.liar] = bend
    assert swarm.goes_on() == {swarm.liar: reason}
    assert swarm.banned_in(swarm.liar) <= swarm.within()
    assert swarm.peers[swarm.liar].banned


def test_who_voids_what_it_was_drawn_for_is_checked_all_the_same() -> None:
    """As an owner it keeps its sum back once the seeds show that it is to be looked at."""
    swarm = Swarm(4, 5)
    swarm.bends[swarm.liar] = flipped
    transfer, kept = swarm._transfer, list[bytes]()

    def keep_back(me: PeerID, sent: SendSum) -> None:
        if me == swarm.liar and isinstance(sent, SendSum):
            kept.append(sent.header)
        else:
            transfer(me, sent)

    swarm._transfer = keep_back  # type: ignore[method-assign,assignment]
    assert swarm.goes_on() == {swarm.liar: "update"}
    assert kept
    assert any(peer.voids for peer in swarm.peers.values())


# -- lies in what is opened, and silence ---------------------------------------------------------------------


def refuses(*kinds: type) -> Callable[[PeerID, bytes, Answer], Answer]:
    domains = {kind.DOMAIN for kind in kinds}  # type: ignore[attr-defined]
    return lambda sender, raw, true: None if domain_of(raw) in domains else true


@pytest.mark.parametrize("mode", ["secure", "plain"])
def test_who_opens_nothing_is_struck_and_banned(mode: str) -> None:
    swarm = Swarm(4, 40, mode)
    swarm.bends[swarm.liar] = flipped
    swarm.answers[swarm.liar] = refuses(Computed, ChunksAsked)
    assert swarm.goes_on() == {swarm.liar: SILENCE}


def test_who_opens_nothing_and_stays_away_for_a_round_is_banned_no_less() -> None:
    swarm = Swarm(4, 60, "plain")
    swarm.bends[swarm.liar] = flipped
    swarm.answers[swarm.liar] = refuses(Computed, ChunksAsked)
    meet = swarm._meet

    def stay_away(me: PeerID, asked: object, work: int) -> None:
        if me != swarm.liar or swarm.machine(me).history.round % 2 == 0:
            meet(me, asked, work)  # type: ignore[arg-type]

    swarm._meet = stay_away  # type: ignore[method-assign,assignment]
    assert swarm.goes_on() == {swarm.liar: SILENCE}


GARBAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "nothing": lambda raws: [],
    "noise": lambda raws: [b"\x84" + bytes(40)] * 3,
    "its beginning": lambda raws: raws[:4],
    "a flood": lambda raws: raws * 50,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_who_opens_garbage_breaks_no_checker_and_is_banned(what: str) -> None:
    swarm = Swarm(4, 40, "plain")
    swarm.bends[swarm.liar] = flipped
    # A flood begins with the true answer: what comes after it is not read.
    swarm.answers[swarm.liar] = lambda sender, raw, true: (
        GARBAGE[what](true) if true and domain_of(raw) == Computed.DOMAIN else true
    )
    assert set(swarm.goes_on()) == {swarm.liar}


def test_who_opens_wrong_leaves_harms_no_checker_but_itself() -> None:
    swarm = Swarm(4, 6, "secure")

    def bend(sender: PeerID, raw: bytes, true: Answer) -> Answer:
        if not true or domain_of(raw) != Computed.DOMAIN:
            return true
        opening = open_signed(true[0], SliceOpening).message
        bent = opening.model_copy(update={"leaves": opening.leaves[::-1]})
        return [swarm.sign(swarm.liar, bent), *true[1:]]

    swarm.answers[swarm.liar] = bend
    assert swarm.goes_on() == {swarm.liar: "opening"}


def test_who_cheats_and_leaves_cannot_come_back() -> None:
    swarm = Swarm(5, 10, "plain")
    swarm.bends[swarm.liar] = flipped

    def leave(effect: Effect) -> None:
        machine = swarm.machine(swarm.liar)
        if machine.history.round == 0:
            swarm.tell_all(swarm.liar, swarm.sign(swarm.liar, Goodbye(run=machine.history.run, round=0)))

    swarm.when(swarm.liar, Job, leave)
    assert swarm.goes_on() == {swarm.liar: "update"}
    history = swarm.machine(swarm.honest[0]).history
    join = wish(history)
    with pytest.raises(RecordRefused, match="banned since"):
        history.admits(swarm.sign(swarm.liar, join))


# -- checkers that do not compute ---------------------------------------------------------------------------


def lazy(swarm: Swarm, sketch: Callable[[Verdict], object]) -> None:
    """Liars find everybody clean on what they did not compute; `sketch`: what they sign for it."""
    honest_again = swarm.recompute

    def recompute(me: PeerID, order: Order, index: int) -> np.ndarray | None:
        return np.zeros(swarm.size, np.int16) if me in swarm.liars else honest_again(me, order, index)

    def say(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender not in swarm.liars or domain_of(raw) not in (Verdict.DOMAIN, Judgement.DOMAIN):
            return [(0.0, raw)]
        if domain_of(raw) == Judgement.DOMAIN:
            return []
        said = open_signed(raw, Verdict).message
        changed = said.model_copy(update={"outcome": "clean", "sketch": sketch(said)})
        return [(0.0, swarm.sign(sender, changed))]

    swarm.recompute = recompute  # type: ignore[method-assign]
    swarm.filter = say


@ALL
def test_who_finds_clean_what_it_did_not_compute_is_contradicted_and_banned(
    peers: int, mode: str, rate: float
) -> None:
    swarm = Swarm(peers, 200, mode, rate)
    lazy(swarm, lambda said: said.sketch or (0,) * WIDTH)
    assert swarm.goes_on() == {swarm.liar: CONTRADICTED}


def test_who_copies_a_sketch_from_what_it_was_shown_has_told_another_before() -> None:
    swarm = Swarm(4, 30, "plain")

    def copied(said: Verdict) -> object:
        checks = swarm.machine(swarm.liar).checks
        drawn = checks._drawn.get(said.session)
        if drawn is None:
            return said.sketch
        (draw,) = (one for one in drawn.checks if one.checked == said.checked)
        true = virtual_slice(checks._order_of(drawn, said.checked), draw.what, swarm.size)
        return make_sketch(true, tagged_hash("sketch", said.session, said.checked.encode()))

    lazy(swarm, copied)
    assert swarm.goes_on() == {swarm.liar: "two results"}


# -- lies about sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["secure", "plain"])
def test_an_owner_that_lies_about_its_sum_is_banned(mode: str) -> None:
    swarm = Swarm(4, 8, mode)
    swarm.owners.add(swarm.liar)
    assert swarm.goes_on() == {swarm.liar: "sum"}


def test_an_owner_that_lies_and_does_not_show_its_own_integers_is_banned() -> None:
    swarm = Swarm(4, 40, "plain")
    swarm.owners.add(swarm.liar)
    swarm.answers[swarm.liar] = refuses(ShownAsked)
    assert swarm.goes_on() == {swarm.liar: SILENCE}


def test_an_owner_does_not_know_which_sum_is_looked_at_when_it_publishes_it() -> None:
    """The draw is that of the next session's seeds: the one that its own session gives says nothing of it."""
    swarm = Swarm(4, 2, "secure")
    swarm.liars = []
    swarm.goes_on()
    checks = swarm.machine(swarm.honest[0]).checks
    earlier, last = checks._drawn.values()
    assert earlier.sums
    assert not last.sums


def test_who_shows_garbage_in_place_of_its_masked_integers_breaks_nobody() -> None:
    swarm = Swarm(4, 40, "plain")

    def bend(sender: PeerID, raw: bytes, true: Answer) -> Answer:
        if not true or domain_of(raw) != ShownAsked.DOMAIN:
            return true
        shown = open_signed(true[0], Shown).message
        return [swarm.sign(swarm.liar, shown.model_copy(update={"data": bytes(3), "header": b"\x84" * 9}))]

    swarm.answers[swarm.liar] = bend
    assert swarm.goes_on() == {swarm.liar: SILENCE}


# -- lies about others ---------------------------------------------------------------------------------------


def accuses(
    swarm: Swarm, liars: Iterable[PeerID], case: Callable[[PeerID], PortableEvidence | None], rounds: range
) -> None:
    """Each of these says at the start of these rounds that the case holds, and serves it to whoever asks."""
    made: dict[bytes, bytes] = {}

    def serve(sender: PeerID, raw: bytes, true: Answer) -> Answer:
        if domain_of(raw) != EvidenceAsked.DOMAIN:
            return true
        held = made.get(open_signed(raw, EvidenceAsked).message.evidence)
        return true if held is None else [held]

    def accuse(peer: PeerID) -> None:
        machine = swarm.machine(peer)
        evidence = case(peer) if machine.history.round in rounds else None
        if evidence is None:
            return
        made[evidence.digest()] = evidence.encode()
        said = Judgement(
            run=machine.history.run,
            round=machine.history.round,
            evidence=evidence.digest(),
            kind=evidence.kind,
            against=evidence.against,
            holds=True,
        )
        swarm.tell_all(peer, swarm.sign(peer, said))

    accusers, tell = set(liars), swarm._tell

    def stand_by_it(me: PeerID, to: PeerID, raw: bytes) -> None:
        judged = open_signed(raw, Judgement).message if domain_of(raw) == Judgement.DOMAIN else None
        if me not in accusers or judged is None or judged.holds:
            tell(me, to, raw)

    swarm._tell = stand_by_it  # type: ignore[method-assign]
    for peer in accusers:
        swarm.answers[peer] = serve
        swarm.when(peer, Adopt, lambda effect, peer=peer: swarm.at(swarm.now + 0.2, lambda: accuse(peer)))  # type: ignore[misc]


def made_up(swarm: Swarm, kind: str = "update") -> Callable[[PeerID], PortableEvidence]:
    """Evidence with nothing in it."""

    def case(peer: PeerID) -> PortableEvidence:
        history = swarm.machine(peer).history
        statement = swarm.sign(peer, EvidenceAsked(evidence=tagged_hash("x", history.head)))
        return PortableEvidence(
            run=history.run, kind=kind, against=swarm.honest[0], adverts=(), statements=(statement,)
        )

    return case


@pytest.mark.parametrize("kind", ["update", "sum", "order", "two votes", "no such thing"])
def test_who_accuses_on_made_up_evidence_is_banned(kind: str) -> None:
    swarm = Swarm(4, 6, "plain")
    accuses(swarm, [swarm.liar], made_up(swarm, kind), range(2, 3))
    assert swarm.goes_on() == {swarm.liar: FALSE_ACCUSATION}


def test_as_many_as_a_roster_bears_accuse_together_in_vain() -> None:
    swarm = Swarm(8, 7, "plain")
    liars = swarm.collude()
    case = made_up(swarm, "update")
    accuses(swarm, liars, lambda peer: case(liars[0]), range(2, 3))
    assert swarm.goes_on() == dict.fromkeys(liars, FALSE_ACCUSATION)


@pytest.mark.parametrize("kind", ["opening", "update", "slices", "order"])
def test_a_checker_that_accuses_with_true_openings_of_an_honest_peer_is_banned(kind: str) -> None:
    """It was drawn, and shows others what it was shown."""
    swarm = Swarm(4, 8, "plain")
    seen: list[tuple[PeerID, list[bytes]]] = []
    answer = swarm.answer

    def listen(sender: PeerID, to: PeerID, raw: bytes) -> Answer:
        raws = answer(sender, to, raw)
        if sender == swarm.liar and raws and domain_of(raw) == Computed.DOMAIN:
            seen.append((to, raws))
        return raws

    swarm.answer = listen  # type: ignore[method-assign]

    def case(peer: PeerID) -> PortableEvidence | None:
        if not seen:
            return None
        victim, raws = seen[-1]
        session = open_signed(raws[0], SliceOpening).message.session
        drawn = swarm.machine(peer).checks._drawn.get(session)
        if drawn is None:
            return None
        chunks = [raw for raw in raws if domain_of(raw) == ChunkOpening.DOMAIN]
        own = next(
            raw
            for raw in chunks
            if open_signed(raw, ChunkOpening).message.slice
            == open_signed(raws[0], SliceOpening).message.slice
        )
        first = open_signed(chunks[0], ChunkOpening).message.chunk
        same = [raw for raw in chunks if open_signed(raw, ChunkOpening).message.chunk == first]
        headers = raws[1 : 1 + len(drawn.transcript.cut.parts)]
        statements = {
            "opening": (raws[0], own),
            "update": (raws[0], own),
            "slices": (raws[0], *same, *headers),
            "order": (raws[0],),
        }[kind]
        adverts = tuple(sorted(raw for raw, _ in drawn.transcript.adverts.values()))
        run = swarm.machine(peer).history.run
        return PortableEvidence(run=run, kind=kind, against=victim, adverts=adverts, statements=statements)

    accuses(swarm, [swarm.liar], case, range(1, 4))
    assert swarm.goes_on() == {swarm.liar: FALSE_ACCUSATION}


def test_complaints_of_as_many_as_a_roster_bears_strike_nobody() -> None:
    swarm = Swarm(8, 5, "plain")
    liars = swarm.collude()
    victim = swarm.honest[0]

    def complain(peer: PeerID) -> None:
        history = swarm.machine(peer).history
        said = Verdict(
            run=history.run,
            round=history.round,
            session=tagged_hash("some", history.head),
            checked=victim,
            slice=0,
            outcome="silent",
            sketch=(0,) * WIDTH,
        )
        swarm.tell_all(peer, swarm.sign(peer, said))

    for peer in liars:
        swarm.when(peer, Adopt, lambda effect, peer=peer: swarm.at(swarm.now + 0.2, lambda: complain(peer)))  # type: ignore[misc]
    assert swarm.goes_on() == {}


def test_a_friend_that_always_says_clean_delays_a_ban_and_no_more() -> None:
    swarm = Swarm(8, 20, "plain")
    friend, cheat = swarm.collude()
    swarm.bends[cheat] = flipped
    tell = swarm._tell

    def covers(me: PeerID, to: PeerID, raw: bytes) -> None:
        if me == friend and domain_of(raw) == Verdict.DOMAIN:
            found = open_signed(raw, Verdict).message
            raw = swarm.sign(friend, found.model_copy(update={"outcome": "clean"}))
        if me != friend or domain_of(raw) != Judgement.DOMAIN:
            tell(me, to, raw)

    swarm._tell = covers  # type: ignore[method-assign]
    swarm.liars = [cheat, friend]
    swarm.run(4_000.0, lambda: cheat in swarm.bans(swarm.honest[0]))
    assert {cheat: "update"} == {peer: ban.reason for peer, ban in swarm.bans(swarm.honest[0]).items()}


def test_members_that_flood_statements_keep_no_ban_away() -> None:
    swarm = Swarm(8, 20, "plain")
    flooder, cheat = swarm.collude()
    swarm.bends[cheat] = flipped

    def flood(effect: Effect) -> None:
        history = swarm.machine(flooder).history
        for number in range(40):
            named = tagged_hash("flood", history.head, bytes([number]))
            about = sorted(history.roster)[number % (len(history.roster) - 1)]
            common = {"run": history.run, "round": history.round}
            judged = Judgement(**common, evidence=named, kind="update", against=about, holds=bool(number % 2))
            found = Verdict(**common, session=named, checked=about, slice=0, outcome="silent", sketch=None)
            for message in (judged, found):
                swarm.tell_all(flooder, swarm.sign(flooder, message))

    swarm.when(flooder, Adopt, flood)
    swarm.run(4_000.0, lambda: cheat in swarm.bans(swarm.honest[0]))
    assert swarm.bans(swarm.honest[0])[cheat].reason == "update"
    assert set(swarm.bans(swarm.honest[0])) <= {cheat, flooder}


def test_any_number_of_strangers_that_ask_to_join_keeps_no_ban_away() -> None:
    swarm = Swarm(4, 5, "plain")
    swarm.bends[swarm.liar] = flipped

    def ask() -> None:
        for number in range(300):
            key = Identity.from_seed(bytes([90, number & 255, number >> 8]) + bytes(29))
            for peer in swarm.honest:
                machine = swarm.machine(peer)
                with suppress(MessageRefused):
                    machine.carry(sign(key, wish(machine.history, round=0)))

    swarm.at(0.5, ask)
    swarm.run(200.0, lambda: swarm.liar in swarm.bans(swarm.honest[0]))
    assert swarm.bans(swarm.honest[0])[swarm.liar].reason == "update"


# -- what stays ---------------------------------------------------------------------------------------------


def test_bans_outlive_every_process_and_newcomers_read_them_in_the_records() -> None:
    swarm = Swarm(5, 12, "plain")
    swarm.bends[swarm.liar] = flipped
    swarm.run(4_000.0, lambda: swarm.liar in swarm.bans(swarm.honest[0]))
    ban = swarm.bans(swarm.honest[0])[swarm.liar]
    for peer in swarm.honest:
        swarm.kill(peer)
        swarm.start(peer)
        assert swarm.bans(peer).get(swarm.liar, ban) == ban
    late = Identity.from_seed(bytes([91]) * 32)
    swarm.join(late)
    swarm.run(4_000.0, lambda: bool(swarm.peers[late.peer_id].final))
    assert swarm.bans(late.peer_id) == {swarm.liar: ban}
    assert late.peer_id in swarm.machine(late.peer_id).history.roster


def test_a_banned_key_that_starts_again_is_told_so_and_let_in_by_nobody() -> None:
    swarm = Swarm(4, 10, "plain")
    swarm.bends[swarm.liar] = flipped
    swarm.run(4_000.0, lambda: swarm.peers[swarm.liar].banned)
    swarm.peers[swarm.liar].banned = False
    swarm.start(swarm.liar)
    assert swarm.goes_on() == {swarm.liar: "update"}
    assert swarm.peers[swarm.liar].banned
    history = swarm.machine(swarm.honest[0]).history
    join = wish(history)
    for peer in swarm.honest:
        with pytest.raises(RecordRefused, match="is banned since"):
            swarm.machine(peer).carry(swarm.sign(swarm.liar, join))
    assert swarm.liar not in history.roster


def test_evidence_is_kept_by_all_who_judged_it_and_served_after_a_restart() -> None:
    swarm = Swarm(4, 6, "plain")
    swarm.bends[swarm.liar] = hidden
    swarm.goes_on()
    name = swarm.bans(swarm.honest[0])[swarm.liar].evidence
    holders = [peer for peer in swarm.honest if name in swarm.peers[peer].disk.evidence]
    assert len(holders) >= 2
    for peer in holders:
        raw = swarm.peers[peer].disk.evidence[name]
        assert PortableEvidence.parse(raw).digest() == name
        swarm.kill(peer)
        swarm.start(peer)
        asked = swarm.sign(swarm.honest[0], EvidenceAsked(evidence=name))
        served = swarm.machine(peer).answer(swarm.honest[0], asked)
        assert b"".join(served) == raw


def test_who_finds_everything_unclear_is_replaced_by_the_next() -> None:
    swarm = Swarm(4, 40, "plain", 0.5)
    true = swarm.recompute

    def recompute(me: PeerID, order: Order, index: int) -> np.ndarray | None:
        return None if me == swarm.liar else true(me, order, index)

    swarm.recompute = recompute  # type: ignore[method-assign]
    assert swarm.goes_on() == {}
    found: dict[tuple[bytes, PeerID], dict[PeerID, str]] = {}
    decided = map(Decided.parse, swarm.peers[swarm.honest[0]].disk.decided)
    for raw in itertools.chain(*(Record.parse(one.body).statements for one in decided if one.body)):
        if domain_of(raw) == Verdict.DOMAIN:
            said = open_signed(raw, Verdict)
            of = found.setdefault((said.message.session, said.message.checked), {})
            of[said.signer] = said.message.outcome
    closed = list(found.values())[:-8]
    spoiled = [who for who in closed if who.get(swarm.liar) == "unclear"]
    assert spoiled
    assert all("clean" in who.values() for who in spoiled)


def test_no_proposer_makes_honest_checkers_contradict_each_other() -> None:
    """Without masks the seeds in a final set's votes make the beacon: other votes, other draws."""
    swarm = Swarm(4, 24, "plain")
    split: list[PeerID] = []

    def will(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        turn = swarm.honest[swarm.machine(to).history.round % len(swarm.honest)]
        if sender != swarm.liar or to != turn or domain_of(raw) != FinalSet.DOMAIN:
            return [(0.0, raw)]
        final, session = open_signed(raw, FinalSet).message, swarm.machine(sender).session
        assert session is not None
        fewer = final.model_copy(update={"votes": final.votes[: session.terms.minimum]})
        split.append(to)
        return [(0.0, swarm.sign(sender, fewer))]

    swarm.filter = will
    assert set(swarm.goes_on()) <= {swarm.liar}
    assert split
    contradicted = swarm.machine(swarm.honest[0]).history.conduct.contradicted
    assert not {
        peer for peer in swarm.honest for other in contradicted.get(peer, ()) if other in swarm.honest
    }
