"""Whole swarms on the virtual clock: crashes, cuts and a bad network never split the model."""

import random

import pytest

from proto.canonical import PeerID
from secagg.interface import SendSum
from swarm.effects import Adopt, Apply, Effect, Meet, Phase, SaveDecided, SaveEntered, SaveVote, Train
from swarm.round import Participant
from swarm.testing import VirtualSwarm, virtual_manifest
from verify.identity import Identity
from verify.record import Decided, Goodbye, newcomers
from verify.statement import sign

both_modes = pytest.mark.parametrize("mode", ["plain", "secure"])


def swarm_of(mode: str, peers: int, rounds: int, seed: int = 0, size: int = 200) -> VirtualSwarm:
    manifest = virtual_manifest(rounds, mode, min_peers=min(peers, 4))
    return VirtualSwarm(peers, rounds, seed, manifest, size)


def records_of(swarm: VirtualSwarm) -> dict[PeerID, list[bytes]]:
    """The encoded records (not the voids) on every peer's disk, by height."""
    return {
        peer_id: [decided.body for raw in peer.disk.decided if (decided := Decided.parse(raw)).body]
        for peer_id, peer in swarm.peers.items()
    }


def assert_one_history(swarm: VirtualSwarm) -> None:
    histories = sorted(records_of(swarm).values(), key=len)
    for shorter in histories:
        assert shorter == histories[-1][: len(shorter)]


def assert_all_ended_alike(swarm: VirtualSwarm) -> None:
    assert_one_history(swarm)
    assert len({peer.final for peer in swarm.peers.values() if peer.machine is not None}) == 1
    assert None not in {peer.final for peer in swarm.peers.values() if peer.machine is not None}
    # BUG (left failing after a restart): Participant._begin_voting takes votes of another slot as this one's.
    assert not any(peer.machine.evidence for peer in swarm.peers.values() if peer.machine is not None)


@pytest.mark.parametrize(("mode", "rounds"), [("plain", 100), ("secure", 50)])
def test_many_rounds_end_on_one_snapshot_without_a_void(mode: str, rounds: int) -> None:
    swarm = swarm_of(mode, peers=4, rounds=rounds)
    swarm.run()
    assert_all_ended_alike(swarm)
    assert all(len(peer.records) == rounds and not peer.voids for peer in swarm.peers.values())
    assert all(not peer.refusals for peer in swarm.peers.values())


@pytest.mark.parametrize(
    ("mode", "peers"),
    [*(("plain", n) for n in (1, 2, 3, 5, 8)), *(("secure", n) for n in (4, 5, 6, 7, 8, 12))],
)
def test_swarms_of_every_size_agree(mode: str, peers: int) -> None:
    swarm = swarm_of(mode, peers, rounds=3)
    swarm.run()
    assert_all_ended_alike(swarm)
    assert all(not peer.voids for peer in swarm.peers.values())


PHASES: dict[str, type] = {
    "train": Train,
    "meet": Meet,
    "mask": SaveEntered,
    "apply": Apply,
    "decide": SaveVote,
    "after": SaveDecided,
    "adopt": Adopt,
}


@pytest.mark.parametrize("restart_after", [0.5, 30.0])
@pytest.mark.parametrize("phase", PHASES)
@both_modes
def test_a_peer_killed_in_any_phase_costs_at_most_that_round(
    mode: str, phase: str, restart_after: float
) -> None:
    swarm = swarm_of(mode, peers=4, rounds=6)
    victim = sorted(swarm.peers)[1]
    killed: list[float] = []

    def kill(peer_id: PeerID, effect: Effect) -> None:
        machine = swarm.peers[peer_id].machine
        if killed or peer_id != victim or not isinstance(effect, PHASES[phase]) or machine is None:
            return
        if machine.history.round >= 2:
            killed.append(swarm.now)
            swarm.kill(victim)
            swarm.at(swarm.now + restart_after, lambda: swarm.start(victim))

    swarm.on_effect = kill
    swarm.run()
    assert killed
    assert_all_ended_alike(swarm)
    for peer in swarm.peers.values():
        assert len(peer.voids) <= 1


@pytest.mark.parametrize("seed", range(6))
@both_modes
def test_random_kills_and_a_lossy_network_never_split_the_model(mode: str, seed: int) -> None:
    swarm = swarm_of(mode, peers=5, rounds=8, seed=seed)
    chance = random.Random(seed)

    def lossy(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        fate = chance.random()
        if fate < 0.08:
            return []
        if fate < 0.16:
            return [(0.0, raw), (chance.uniform(0, 3), raw)]
        return [(chance.uniform(0, 1) if fate < 0.3 else 0.0, raw)]

    swarm.filter = lossy

    def strike() -> None:
        victim = chance.choice(sorted(swarm.peers))
        if swarm.peers[victim].machine is not None and swarm.now < 400:
            swarm.kill(victim)
            swarm.at(swarm.now + chance.uniform(0.1, 20), lambda: swarm.start(victim))
        if swarm.now < 400:
            swarm.at(swarm.now + chance.uniform(5, 25), strike)

    swarm.at(7.0, strike)
    swarm.run(seconds=5_000)
    assert_all_ended_alike(swarm)


@both_modes
def test_a_minority_that_is_cut_off_never_moves_the_model_and_catches_up(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=10)
    alone = sorted(swarm.peers)[0]

    def cut() -> None:
        swarm.cut = lambda a, b: alone in (a, b)

    def heal() -> None:
        swarm.cut = lambda a, b: False

    swarm.at(8.0, cut)
    swarm.at(30.0, heal)
    swarm.run()
    assert_all_ended_alike(swarm)


@both_modes
def test_when_more_than_a_third_are_gone_the_run_pauses_and_goes_on_when_they_return(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=6)
    gone = sorted(swarm.peers)[:2]
    swarm.at(8.0, lambda: [swarm.kill(peer) for peer in gone] and None)
    swarm.run(seconds=100, until=lambda: swarm.now > 90)
    heights = {len(records) for records in records_of(swarm).values()}
    assert max(heights) < 6
    for peer in gone:
        swarm.start(peer)
    swarm.run(seconds=2_000)
    assert_all_ended_alike(swarm)


@both_modes
def test_everyone_killed_at_once_goes_on_from_disk(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=6)
    swarm.run(seconds=17.5, until=lambda: swarm.now > 17)
    for peer in list(swarm.peers):
        swarm.kill(peer)
    for peer in list(swarm.peers):
        swarm.start(peer)
    swarm.run(seconds=2_000)
    assert_all_ended_alike(swarm)


@both_modes
def test_a_newcomer_is_taken_in_by_a_record_and_ends_on_the_same_snapshot(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=8)
    newcomer = Identity.from_seed(bytes([9]) * 32)
    swarm.at(9.0, lambda: swarm.join(newcomer))
    swarm.run(seconds=500)
    assert_all_ended_alike(swarm)
    last = swarm.machine(newcomer.peer_id).history.last
    assert last is not None
    assert newcomer.peer_id in last.survivors


@both_modes
def test_a_goodbye_takes_its_peer_from_the_roster_in_the_next_record(mode: str) -> None:
    swarm = swarm_of(mode, peers=5, rounds=5)
    leaving = sorted(swarm.peers)[2]

    def leave() -> None:
        machine = swarm.machine(leaving)
        goodbye = sign(machine.identity, Goodbye(run=machine.history.run, round=machine.history.round))
        for member in machine.history.members:
            swarm._tell(leaving, member, goodbye)
        swarm.kill(leaving)

    swarm.at(8.0, leave)
    swarm.run(seconds=500)
    assert_all_ended_alike(swarm)
    others = [peer for peer in swarm.peers if peer != leaving]
    assert all(leaving not in swarm.machine(peer).history.roster for peer in others)


@pytest.mark.parametrize("stays", [True, False])
def test_who_stays_while_others_count_on_it_costs_them_no_attempt_by_its_goodbye(stays: bool) -> None:
    swarm = swarm_of("secure", peers=5, rounds=4)
    leaving = sorted(swarm.peers)[2]

    said: list[float] = []

    def on_effect(me: PeerID, effect: Effect) -> None:
        here = me == leaving and isinstance(effect, SendSum) and swarm.machine(me).history.round == 1
        if not here or said:
            return
        said.append(swarm.now)
        machine = swarm.machine(me)
        goodbye = sign(machine.identity, Goodbye(run=machine.history.run, round=machine.history.round))
        for member in machine.history.members:
            swarm._tell(me, member, goodbye)
        swarm.at(swarm.now, leave)

    def leave() -> None:
        if stays and swarm.machine(leaving).phase.shared:
            swarm.at(swarm.now + 0.1, leave)
        else:
            swarm.kill(leaving)

    swarm.on_effect = on_effect
    swarm.run(seconds=500)
    assert_all_ended_alike(swarm)
    others = [peer for name, peer in swarm.peers.items() if name != leaving]
    assert {bool(peer.voids) for peer in others} == {not stays}


@both_modes
def test_a_silent_peer_is_suspended_after_the_manifests_number_of_records(mode: str) -> None:
    swarm = swarm_of(mode, peers=5, rounds=8)
    silent = sorted(swarm.peers)[3]
    swarm.at(6.0, lambda: swarm.kill(silent))
    swarm.run(seconds=1_000)
    assert_all_ended_alike(swarm)
    survivor = next(peer for peer in swarm.peers if peer != silent)
    assert silent not in swarm.machine(survivor).history.roster


@both_modes
def test_an_owner_that_never_publishes_its_sum_delays_the_run_and_does_not_stop_it(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=5, size=400)
    hostile = sorted(swarm.peers)[1]
    honestly = swarm._transfer
    swarm._transfer = lambda me, sent: (  # type: ignore[method-assign]
        None if me == hostile and isinstance(sent, SendSum) else honestly(me, sent)
    )
    swarm.run(seconds=3_000)
    assert_all_ended_alike(swarm)
    assert any(peer.voids for peer in swarm.peers.values())


@both_modes
def test_sybils_join_no_faster_than_the_old_roster_stays_a_quorum(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=8)
    for number in range(8):
        newcomer = Identity.from_seed(bytes([100 + number]) * 32)
        swarm.at(6.0, lambda newcomer=newcomer: swarm.join(newcomer))  # type: ignore[misc]
    sizes: dict[int, int] = {}

    def watch(peer_id: PeerID, effect: Effect) -> None:
        if isinstance(effect, Adopt):
            sizes[effect.record.round] = len(swarm.machine(peer_id).history.roster)

    swarm.on_effect = watch
    swarm.run(seconds=600)
    assert_one_history(swarm)
    steps = [sizes[round_ + 1] - sizes[round_] for round_ in sorted(sizes)[:-1]]
    assert max(steps) >= 1
    assert all(step <= newcomers(size) for step, size in zip(steps, sizes.values(), strict=False))


@both_modes
def test_a_peer_restarted_after_its_update_left_never_sends_it_again(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=4)
    victim = sorted(swarm.peers)[0]
    entered: list[tuple[int, int]] = []

    def watch(peer_id: PeerID, effect: Effect) -> None:
        if peer_id != victim or not isinstance(effect, SaveEntered):
            return
        entered.append(effect.slot)
        if len(entered) == 2:
            swarm.peers[victim].disk.entered = effect.slot
            swarm.kill(victim)
            swarm.at(swarm.now + 0.2, lambda: swarm.start(victim))

    swarm.on_effect = watch
    swarm.run()
    assert_all_ended_alike(swarm)
    assert len(entered) == len(set(entered))


@both_modes
def test_a_slow_peer_counts_with_the_slices_it_did(mode: str) -> None:
    swarm = swarm_of(mode, peers=4, rounds=2)
    slow = sorted(swarm.peers)[0]
    swarm.peers[slow].speed = 1
    swarm.run()
    last = swarm.machine(slow).history.last
    assert last is not None
    assert dict(zip(last.survivors, last.weights, strict=True))[slow] == 1


def test_the_machine_knows_no_socket_clock_thread_or_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, swarm.round; "
        "bad = {'torch', 'hivemind', 'grpc', 'socket', 'threading', 'asyncio'} & "
        "{name for module in ('swarm.round', 'secagg.session', 'verify.agreement') "
        "for name in vars(sys.modules[module])}; assert not bad, bad; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Participant.__module__ == "swarm.round"
    assert Phase.TRAIN.value == "train"
