"""Void attempts, replays and kills in rounds with masks: whatever happens, an update is masked once."""

from collections.abc import Callable, Iterable

import pytest

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.interface import FROM, SendPart, SendSum, Step, Tell
from secagg.messages import Part, PartSum, Receipt, Release, SessionMessage, ShareList
from swarm.effects import Effect, Phase, SaveDecided, SaveEntered, SaveVote, Slot, Train
from swarm.round import Participant
from swarm.testing import VirtualSwarm
from tests.attacks.rounds import (
    Watch,
    assert_one_model,
    assert_sums_are_those_of_the_survivors,
    records_of,
    sends_garbage,
    swarm_of,
)
from verify.statement import domain_of, open_signed

KINDS: dict[str, type[SessionMessage]] = {kind.DOMAIN: kind for kind in FROM}

DEALS = [Step.SHARE, Step.READY, Step.MASK, Step.AGREE]


def to_the_end(swarm: VirtualSwarm) -> None:
    """Until everyone has ended, those who come back late too."""
    swarm.run(seconds=1_000, until=lambda: all(peer.final for peer in swarm.peers.values()))


# -- one update, one session --------------------------------------------------------------------------------


def mute(watch: Watch, step: Step, slots: set[Slot]) -> None:
    """From this step on, what a session's proposer says in these slots is lost."""
    swarm = watch.swarm

    def lose(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        machine = swarm.machine(sender)
        session = machine.session
        if domain_of(raw) not in KINDS or session is None or machine.slot not in slots:
            return [(0.0, raw)]
        return [] if sender == session.terms.proposer and session.step >= step else [(0.0, raw)]

    swarm.filter = lose


def assert_nothing_is_used_twice(watch: Watch) -> None:
    """No key, seed, order, update or masked chunk of any peer occurs in two attempts, or at two peers."""
    adverts = watch.adverts()
    keys = [key for _, advert in adverts for key in (advert.seal_key, advert.mask_key)]
    seeds = [advert.seed_commitment for _, advert in adverts]
    assert None not in keys
    assert len(set(keys)) == len(keys) > 0
    assert len(set(seeds)) == len(seeds)
    orders = {(peer, e.slot): e.order for peer, e in watch.effects if isinstance(e, Train)}
    assert len({order.slices for order in orders.values()}) == len(orders)
    assert len({order.seed for order in orders.values()}) == len(orders)
    entered = [(peer, effect.slot) for peer, effect in watch.effects if isinstance(effect, SaveEntered)]
    assert len(set(entered)) == len(entered)
    assert len({update.tobytes() for update in watch.updates.values()}) == len(watch.updates)
    parts: dict[tuple[PeerID, bytes, int], set[bytes]] = {}
    for peer, effect in watch.effects:
        if isinstance(effect, SendPart):
            parts.setdefault((peer, effect.session, effect.part), set()).add(effect.header)
    assert parts
    assert all(len(headers) == 1 for headers in parts.values()), "sent again, a part is the very same"
    chunks = [hash_ for (header,) in parts.values() for hash_ in open_signed(header, Part).message.hashes]
    assert len(set(chunks)) == len(chunks)


@pytest.mark.parametrize("step", DEALS, ids=lambda step: step.name.lower())
def test_after_a_void_at_any_step_keys_seeds_sequences_and_updates_are_others(step: Step) -> None:
    swarm = swarm_of(4, rounds=3)
    watch = Watch(swarm)
    mute(watch, step, {(2, 0), (2, 1)})
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, swarm.peers)
    assert [(record.round, record.attempt) for record in chain] == [(1, 0), (2, 2), (3, 0)]
    assert_nothing_is_used_twice(watch)
    assert_sums_are_those_of_the_survivors(watch, chain, swarm.peers)


def test_after_a_void_with_a_final_set_keys_seeds_sequences_and_updates_are_others() -> None:
    """The seeds are out and the sum is withheld: what was masked then is given up."""
    swarm = swarm_of(4, rounds=3)
    watch = Watch(swarm)
    withhold_sums(swarm, {(2, 0), (2, 1)})
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, swarm.peers)
    assert [(record.round, record.attempt) for record in chain] == [(1, 0), (2, 2), (3, 0)]
    assert_nothing_is_used_twice(watch)
    assert_sums_are_those_of_the_survivors(watch, chain, swarm.peers)


def withhold_sums(swarm: VirtualSwarm, slots: set[Slot]) -> None:
    transfer = swarm._transfer

    def withhold(me: PeerID, sent: SendPart | SendSum) -> None:
        if isinstance(sent, SendPart) or swarm.machine(me).slot not in slots:
            transfer(me, sent)

    swarm._transfer = withhold  # type: ignore[method-assign]


@pytest.mark.parametrize("step", [*DEALS, Step.UNMASK], ids=lambda step: step.name.lower())
def test_a_peer_killed_after_it_entered_sends_no_part_for_that_slot_again(step: Step) -> None:
    swarm = swarm_of(4, rounds=4)
    watch, victim = Watch(swarm), sorted(swarm.peers)[1]
    killed: list[int] = []
    sent: set[tuple[Slot, int, bytes]] = set()

    def strike(peer: PeerID, effect: Effect) -> None:
        machine = swarm.machine(peer)
        if peer != victim or machine.session is None or isinstance(effect, SaveEntered):
            return
        if machine.session.step is step and machine.slot == (2, 0) and not killed:
            killed.append(swarm.peers[victim].life)
            swarm.kill(victim)
            swarm.at(swarm.now + 0.1, lambda: swarm.start(victim))
        elif isinstance(effect, SendPart):
            sent.add((machine.slot, swarm.peers[victim].life, effect.session))

    watch.hooks.append(strike)
    to_the_end(swarm)
    assert killed == [1]
    assert_one_model(swarm, swarm.peers)
    assert ((2, 0), 2) not in {(slot, life) for slot, life, _ in sent}
    slots = {slot for slot, _, _ in sent}
    assert len(slots) == len(sent) >= 3, "one session a slot, in one life"
    assert_nothing_is_used_twice(watch)


def test_all_that_was_said_in_an_attempt_means_nothing_in_the_next() -> None:
    swarm = swarm_of(4, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[2]
    withhold_sums(swarm, {(1, 0)})
    heard: dict[bytes, None] = {}
    again: set[str] = set()

    def replay(sender: PeerID, to: PeerID, raw: bytes) -> Iterable[tuple[float, bytes]]:
        if domain_of(raw) in KINDS and swarm.machine(sender).slot == (1, 0):
            heard[raw] = None
        machine = swarm.peers[to].machine
        if machine is not None and machine.session is not None and machine.slot != (1, 0):
            before = machine.session.step
            for old in heard:
                author = open_signed(old, KINDS[domain_of(old)]).signer
                assert machine.receive(author, old) == machine.receive(liar, old) == []
                again.add(domain_of(old))
            assert machine.session.step is before
        return [(0.0, raw)]

    swarm.filter = replay
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, swarm.peers)
    assert [record.attempt for record in chain] == [1, 0, 0]
    assert {ShareList.DOMAIN, Receipt.DOMAIN, Release.DOMAIN} <= again
    assert_sums_are_those_of_the_survivors(watch, chain, swarm.peers)
    assert not any(swarm.machine(peer).evidence for peer in swarm.peers)


def test_data_of_an_earlier_attempt_find_no_room_in_the_next() -> None:
    swarm = swarm_of(4, rounds=2)
    watch = Watch(swarm)
    withhold_sums(swarm, {(1, 0)})
    refused: set[str] = set()
    old: list[tuple[PeerID, bytes]] = []

    def replay(peer: PeerID, effect: Effect) -> None:
        machine = swarm.machine(peer)
        if isinstance(effect, SendPart | SendSum) and machine.slot == (1, 0):
            old.append((peer, effect.header))
        if isinstance(effect, SendPart) and machine.slot == (1, 1):
            for sender, header in old:
                with pytest.raises(MessageRefused, match="for another session"):
                    machine.room(sender, header)
                refused.add(domain_of(header))

    watch.hooks.append(replay)
    swarm.run(seconds=500)
    assert_one_model(swarm, swarm.peers)
    assert refused == {Part.DOMAIN, PartSum.DOMAIN}


# -- the disk ---------------------------------------------------------------------------------------------


def test_secrets_of_sessions_never_reach_the_disk() -> None:
    swarm = swarm_of(4, rounds=4)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    drawn: list[bytes] = []
    saved: list[bytes] = []
    wrapped: list[Participant] = []

    def collect(peer: PeerID, effect: Effect) -> None:
        machine = swarm.machine(peer)
        if isinstance(effect, SaveVote | SaveDecided):
            saved.append(effect.raw)
        if isinstance(effect, Train) and all(machine is not one for one in wrapped):
            wrapped.append(machine)
            entropy = machine.entropy

            def kept() -> bytes:
                drawn.append(entropy())
                return drawn[-1]

            machine.entropy = kept

    watch.hooks.append(collect)
    sends_garbage(watch, liar, lambda slot: slot == (2, 0))  # a void attempt, with openings
    withhold_sums(swarm, {(3, 0)})
    swarm.at(22.0, lambda: swarm.kill(liar))
    swarm.at(23.0, lambda: swarm.start(liar))
    swarm.run(seconds=500)
    assert_one_model(swarm, set(swarm.peers) - {liar})
    for peer in swarm.peers.values():
        saved += [*peer.disk.decided, *(raw for votes in peer.disk.votes.values() for raw in votes)]
    assert len(set(drawn)) == len(drawn) >= 4 * 4 * 5
    disk = b"".join(saved)
    assert len(saved) > 50
    assert not [secret for secret in drawn if secret in disk]
    told = b"".join(effect.raw for _, effect in watch.effects if isinstance(effect, Tell))
    shown = {at % 4 for at, secret in enumerate(drawn) if secret in told}
    assert shown == {2}, "seal key, mask key, seed, dealing: the seed alone is told, once the set is final"


# -- kills ------------------------------------------------------------------------------------------------


STAGES = ["share", "ready", "mask", "agree", "unmask", "apply", "decide"]


def stage_of(machine: Participant, effect: Effect) -> str:
    session = machine.session
    if machine.phase is not Phase.SESSION or session is None or isinstance(effect, SaveEntered):
        return machine.phase.value
    return session.step.name.lower()


def kill_at(watch: Watch, stage: str, chosen: Callable[[PeerID], bool], away: float = 8.0) -> list[PeerID]:
    """Kill each of the chosen once, when it carries out something in this stage of attempt (2, 0)."""
    killed: list[PeerID] = []
    swarm = watch.swarm

    def strike(peer: PeerID, effect: Effect) -> None:
        machine = swarm.machine(peer)
        now = machine.slot == (2, 0) and stage_of(machine, effect) == stage
        if now and peer not in killed and chosen(peer):
            killed.append(peer)
            swarm.kill(peer)
            swarm.at(swarm.now + away, lambda: swarm.start(peer))

    watch.hooks.append(strike)
    return killed


def assert_one_hash_and_at_most_one_void(watch: Watch) -> None:
    swarm = watch.swarm
    chain = assert_one_model(swarm, swarm.peers)
    assert len(chain) == swarm.manifest.run.rounds
    assert sum(record.attempt for record in chain) <= 1
    assert_nothing_is_used_twice(watch)


@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize("stage", STAGES)
def test_any_peer_of_four_killed_at_any_stage_costs_at_most_one_attempt(stage: str, victim: int) -> None:
    swarm = swarm_of(4, rounds=3)
    watch, name = Watch(swarm), sorted(swarm.peers)[victim]
    killed = kill_at(watch, stage, lambda peer: peer == name)
    to_the_end(swarm)
    assert killed == [name]
    assert_one_hash_and_at_most_one_void(watch)


@pytest.mark.parametrize("peers", [4, 8])
@pytest.mark.parametrize("stage", STAGES[:5])
def test_the_proposer_killed_at_any_stage_costs_at_most_one_attempt(stage: str, peers: int) -> None:
    swarm = swarm_of(peers, rounds=3)
    watch = Watch(swarm)

    def proposing(peer: PeerID) -> bool:
        session = swarm.machine(peer).session
        return session is not None and session.terms.proposer == peer

    killed = kill_at(watch, stage, proposing)
    to_the_end(swarm)
    assert len(killed) == 1
    assert_one_hash_and_at_most_one_void(watch)


@pytest.mark.parametrize("stage", STAGES)
def test_two_peers_of_eight_killed_at_one_stage_cost_at_most_one_attempt(stage: str) -> None:
    swarm = swarm_of(8, rounds=3)
    watch, names = Watch(swarm), sorted(swarm.peers)[3:5]
    killed = kill_at(watch, stage, lambda peer: peer in names)
    to_the_end(swarm)
    assert killed
    assert_one_hash_and_at_most_one_void(watch)
    assert all(len(record.survivors) >= 6 for record in records_of(swarm, names[0]))


def test_what_is_said_to_a_dead_member_is_lost_and_costs_at_most_one_attempt() -> None:
    swarm = swarm_of(4, rounds=4)
    watch, dead = Watch(swarm), sorted(swarm.peers)[0]
    kill_at(watch, "mask", lambda peer: peer == dead, away=1e6)
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, set(swarm.peers) - {dead})
    assert sum(record.attempt for record in chain) <= 1
    assert all(dead not in record.survivors for record in chain[1:])
    assert any(isinstance(effect, Tell) and effect.to == dead for _, effect in watch.effects)
