"""Promises of a chain: 1F1B, bounded, and every microbatch counted once in every shard or in none."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.errors import MessageRefused
from swarm.shards.chain import (
    Activation,
    Alive,
    AskCertificate,
    AskConfirm,
    Backward,
    Certificate,
    Chain,
    ChainEffect,
    ChainRefused,
    ChainSpeech,
    Confirmations,
    Ended,
    Forward,
    Gradient,
    Post,
    Probe,
    Replaced,
    Send,
    Starved,
)
from tests.swarm.shards.chain_network import (
    COMPUTE,
    TICK,
    ChainNetwork,
    Key,
    backward_value,
    forward_value,
)
from tests.verify.chain import KEYS, PEERS
from verify.chains import Place, open_certificate, weights
from verify.statement import sign

A, B, C, D, E = PEERS[:5]
TWO = ((A,), (B, C))


def post(shard: int, replicas: tuple[tuple[str, ...], ...] = TWO, in_flight: int = 2) -> Post:
    return Post(Place(bytes(32), 1, 0, 0), shard, replicas, microbatches=2, slices=2, in_flight=in_flight)


def machine(me: str, shard: int, replicas: tuple[tuple[str, ...], ...] = TWO, in_flight: int = 2) -> Chain:
    return Chain(me, post(shard, replicas, in_flight), lambda message: sign(KEYS[me], message))


# ---- the rules that every run must keep


def check_counting(network: ChainNetwork) -> None:
    """Whatever happened: what counts was added once, in order, from the right values, in every shard."""
    shards = len(network.holders)
    for key, worker in network.workers.items():
        assert worker.added == list(range(len(worker.added))), "one order of addition, nothing twice"
        forwards = [microbatch for name, microbatch in worker.ran if name == "forward"]
        assert forwards == list(range(len(forwards)))
        assert worker.most_in_flight <= network.posts[key].in_flight
        check_values(worker.chain, shards)
        assert all(microbatch >= worker.chain.done for microbatch in worker.chain._gradients)
    for key in network.leaders():
        said = [effect for at, effect in network.effects if at == key and isinstance(effect, Ended)]
        assert len(said) <= 1, "an end is told once"
    certificates = {}
    for (number, peer), ended in network.ended().items():
        leader = network.posts[number, peer].leader
        first = network.posts[number, peer]
        counted = open_certificate(ended.statements, first.place, leader, first.replicas)
        assert certificates.setdefault(number, counted) == counted, "a chain is closed in one way"
        if ended.holds:
            added = network.workers[number, peer].added
            assert len(added) >= counted.slices * first.microbatches
    # A chain stands where all of its path do; the others count nowhere.
    standing = [
        counted
        for number, counted in certificates.items()
        if all(
            (number, peer) in network.ended() and network.ended()[number, peer].holds for peer in counted.path
        )
    ]
    assert len({sum(of.values()) for of in weights(standing, shards)}) == 1


def check_values(chain: Chain, shards: int) -> None:
    shard = chain.post.shard
    for microbatch, value in enumerate(chain._outputs):
        assert value == forward_value(shard, microbatch)
    for microbatch, value in enumerate(chain._answers):
        assert value == backward_value(shard, shards, microbatch)


# ---- without faults


@pytest.mark.parametrize(("shards", "in_flight"), [(2, 1), (2, 3), (4, 4), (5, 2)])
def test_a_chain_counts_all_of_its_slices_in_every_shard(shards: int, in_flight: int) -> None:
    network = ChainNetwork(shards=shards, replicas=1, in_flight=in_flight)
    network.run()
    check_counting(network)
    assert len(network.ended()) == shards
    for worker in network.workers.values():
        assert worker.added == list(range(9))
        assert worker.chain.ended is not None
        assert (worker.chain.ended.counted.slices, worker.chain.ended.holds) == (3, True)
    assert not network.said(Replaced)


def test_one_forward_one_backward_in_the_steady_state() -> None:
    network = ChainNetwork(shards=2, replicas=1, in_flight=2, delay=0.0)
    network.run()
    first, last = (network.workers[0, holders[0]] for holders in network.holders)
    assert first.ran[:4] == [("forward", 0), ("forward", 1), ("backward", 0), ("forward", 2)]
    assert last.ran == [("backward", at) for at in range(9)]  # forward, loss and backward in one
    assert network.now < (2 + 9) * 2 * COMPUTE + TICK  # both stages work at the same time


@pytest.mark.parametrize(("done", "slices"), [(0, 1), (2, 1), (3, 1), (5, 1), (6, 2), (8, 2)])
def test_the_end_of_the_window_leaves_whole_slices_and_at_least_one(done: int, slices: int) -> None:
    network = ChainNetwork(shards=2, replicas=1, in_flight=2)
    key = network.leaders()[0]
    while network.workers[key].chain.done < done:
        network.run_one()
    close(network, key)
    network.run()
    check_counting(network)
    assert {ended.counted.slices for ended in network.ended().values()} == {slices}


def test_two_chains_share_their_peers_and_count_separately() -> None:
    network = ChainNetwork(chains=2, shards=3, replicas=2)
    network.run()
    check_counting(network)
    counted = [network.ended()[key].counted for key in network.leaders()]
    found = weights(counted, 3)
    assert [sum(of.values()) for of in found] == [6, 6, 6]
    assert [dict(of) for of in found] == [dict.fromkeys(holders, 3) for holders in network.holders]


# ---- faults


@pytest.mark.parametrize("noticed", [True, False])
@pytest.mark.parametrize("shard", [1, 2, 3])
@pytest.mark.parametrize("when", [4.5, 9.5, 17.5])
def test_a_dead_peers_microbatches_go_through_another_replica(shard: int, when: float, noticed: bool) -> None:
    network = ChainNetwork(shards=4, replicas=2)
    was, now = network.holders[shard]
    network.at(when, lambda: network.kill(was, noticed))
    network.run()
    check_counting(network)
    (leader,) = network.leaders()
    counted = network.ended()[leader].counted
    assert counted.slices == 3
    assert counted.path[shard] == now
    assert Replaced(shard, was, now) in network.said(Replaced)
    for other in set(range(4)) - {shard}:
        assert network.workers[0, network.holders[other][0]].added == list(range(9)), (
            "nobody else computes twice"
        )


def test_a_peer_that_hangs_is_replaced_and_its_chain_waits_no_longer_than_patience() -> None:
    network = ChainNetwork(shards=3, replicas=2)
    was, now = network.holders[1]
    network.at(5.0, lambda: network.stall(was, 10_000.0))
    network.run(until=9_000.0)
    check_counting(network)
    assert network.now < 150.0
    assert network.said(Replaced) == [Replaced(1, was, now)]


def test_a_computation_that_hangs_makes_its_peer_silent() -> None:
    chain = machine(B, 1)
    chain.begin()
    assert chain.heard(A, Activation(0, b"x")) == [Backward(0, b"x")]
    assert chain.heard(A, Probe()) == [Send(A, Alive(0))]
    chain.tick()
    chain.tick()
    assert chain.heard(A, Probe()) == []
    assert chain.computed(b"g") == [Send(A, Gradient(0, b"g"))]
    assert chain.heard(A, Probe()) == [Send(A, Alive(1))]


def test_a_peer_that_waits_for_another_is_not_replaced() -> None:
    """The last peer hangs: the one before it replaces it; nobody loses patience with those that wait."""
    network = ChainNetwork(shards=4, replicas=2)
    was, now = network.holders[3]
    network.at(3.0, lambda: network.stall(was, 10_000.0))
    network.run(until=9_000.0)
    check_counting(network)
    assert network.said(Replaced) == [Replaced(3, was, now)]


def test_without_a_replica_the_chain_pauses_says_which_shard_and_goes_on_when_one_comes() -> None:
    network = ChainNetwork(shards=3, replicas=1)
    (only,) = network.holders[2]
    network.at(5.0, lambda: network.kill(only))
    network.at(200.0, lambda: network.restart(only))
    network.run(until=190.0)
    assert Starved(2) in network.said(Starved)
    assert not network.ended()
    network.run()
    check_counting(network)
    assert network.ended()[network.leaders()[0]].counted.slices == 3


def test_a_peer_that_restarts_before_anyone_notices_gets_everything_again() -> None:
    network = ChainNetwork(shards=3, replicas=1)
    (peer,) = network.holders[1]
    network.at(9.5, lambda: network.start((0, peer)))
    network.run(until=5_000.0)
    check_counting(network)
    assert network.finished()
    assert network.workers[0, peer].added == list(range(9))
    assert network.workers[0, network.holders[2][0]].added == list(range(9))


def test_a_stage_that_cannot_go_on_is_silent_so_that_another_is_tried() -> None:
    chain = machine(B, 1, ((A,), (B,), (C,)))
    chain.begin()
    assert chain.heard(A, Activation(0, b"x")) == [Forward(0, b"x")]
    assert chain.lost(C) == []
    assert chain.computed(b"h") == [Starved(2)]
    assert chain.heard(A, Probe()) == []
    assert chain.came(C) == [Send(C, Probe())]
    assert chain.heard(A, Probe()) == [Send(A, Alive(0))]


def test_a_chain_whose_leader_dies_counts_nowhere() -> None:
    network = ChainNetwork(chains=2, shards=2, replicas=2)
    network.at(5.0, lambda: network.kill(network.leaders()[0][1]))
    network.run()
    network.run(until=network.now + 200.0)
    check_counting(network)
    assert {number for number, _ in network.ended()} == {1}


def test_a_peer_that_restarts_after_it_confirmed_says_that_it_holds_nothing() -> None:
    network = ChainNetwork(shards=2, replicas=1)
    (peer,) = network.holders[1]
    leader = network.workers[network.leaders()[0]].chain
    stage = network.workers[0, peer].chain
    while leader.ended is None:
        network.run_one()
    assert stage.ended is None  # the certificate is on its way
    network.start((0, peer))
    assert stage is not network.workers[0, peer].chain
    (ended,) = network.workers[0, peer].chain.heard(leader.me, Certificate(leader.ended.statements))
    assert isinstance(ended, Ended)
    assert not ended.holds


def test_a_peer_that_was_replaced_and_lives_learns_that_it_is_not_counted() -> None:
    network = ChainNetwork(shards=3, replicas=2)
    was = network.holders[1][0]
    network.at(5.0, lambda: network.stall(was, 100.0))
    network.run()
    while network._queue and network.now < 400.0:  # on until the peer is awake again
        network.run_one()
    check_counting(network)
    ended = network.workers[0, was].chain.ended
    assert ended is not None
    assert not ended.holds


FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["kill", "silent kill", "stall", "restart", "close"]),
        st.floats(0.0, 120.0),
        st.integers(0, 7),
        st.integers(0, 1),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 30),
    chains=st.integers(1, 2),
    shards=st.integers(2, 4),
    in_flight=st.integers(1, 5),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    doubles=st.sampled_from([0.0, 0.3]),
    delay=st.sampled_from([0.0, 3.0, 30.0]),
    faults=FAULTS,
)
def test_a_microbatch_is_counted_once_in_every_shard_or_in_none(
    seed: int,
    chains: int,
    shards: int,
    in_flight: int,
    loss: float,
    doubles: float,
    delay: float,
    faults: list[tuple[str, float, int, int]],
) -> None:
    """Messages are lost, late, doubled, reordered; peers die, stall and come back with nothing."""
    network = ChainNetwork(
        chains, shards, 2, in_flight=in_flight, seed=seed, loss=loss, doubles=doubles, delay=delay
    )
    for kind, when, shard, replica in faults:
        peer = network.holders[shard % shards][replica]
        actions = {
            "kill": lambda peer=peer: network.kill(peer),
            "silent kill": lambda peer=peer: network.kill(peer, noticed=False),
            "stall": lambda peer=peer: network.stall(peer, 60.0),
            "restart": lambda peer=peer: network.restart(peer) if peer in network.dead else None,
            "close": lambda: [close(network, key) for key in network.leaders()],
        }
        network.at(when, actions[kind])  # type: ignore[arg-type]
    # In the end everybody is there but for leaders: what can be finished must be.
    for holders in network.holders[1:]:
        for peer in holders:
            network.at(130.0, lambda peer=peer: network.restart(peer) if peer in network.dead else None)  # type: ignore[misc]
    network.run(until=130.0)
    check_counting(network)
    network.loss = min(network.loss, 0.1)
    network.run(until=20_000.0)
    check_counting(network)
    assert network.finished(), "a living leader's chain is closed, and its path knows"


def close(network: ChainNetwork, key: Key) -> None:
    network._do(key, network.workers[key], network.workers[key].chain.close())


# ---- what comes from outside


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        (D, Activation(0, b"")),
        (A, Gradient(0, b"")),
        (D, Gradient(0, b"")),
        (A, Activation(4, b"")),
        (A, Activation(-1, b"")),
        (C, Gradient(4, b"")),
        (A, AskConfirm(0)),
        (A, AskConfirm(3)),
        (C, Alive(5)),
        (A, Alive(0)),
        (C, Probe()),
        (C, AskConfirm(1)),
        (A, Confirmations(())),
        (E, AskCertificate()),
        (E, Certificate(())),
    ],
)
def test_what_no_neighbour_may_say_is_refused_and_changes_nothing(sender: str, message: ChainSpeech) -> None:
    chain = machine(B, 1, ((A,), (B,), (C,)))
    chain.begin()
    before = repr({name: value for name, value in vars(chain).items() if name != "_sign"})
    with pytest.raises(ChainRefused):
        chain.heard(sender, message)
    assert repr({name: value for name, value in vars(chain).items() if name != "_sign"}) == before


def test_more_than_may_be_in_flight_is_not_kept() -> None:
    chain = machine(B, 1)
    chain.begin()
    assert isinstance(chain.heard(A, Activation(0, b"x"))[0], Backward)
    chain.heard(A, Activation(1, b"x"))
    assert chain.heard(A, Activation(2, b"x")) == [Send(A, Alive(0))]
    assert chain.heard(A, Activation(3, b"x")) == [Send(A, Alive(0))]
    assert sorted(chain._inputs) == [1]


def test_a_microbatch_that_comes_again_is_answered_and_not_computed_again() -> None:
    chain = machine(B, 1)
    chain.begin()
    chain.heard(A, Activation(0, b"x"))
    assert chain.heard(A, Activation(0, b"y")) == [Send(A, Alive(0))]
    chain.computed(b"g")
    assert chain.heard(A, Activation(0, b"y")) == [Send(A, Gradient(0, b"g"))]
    assert chain.done == 1


def test_what_a_replaced_peer_says_comes_too_late() -> None:
    chain = machine(A, 0)
    chain.begin()
    assert chain.computed(b"h0") == [Send(B, Probe()), Forward(1, None)]
    assert chain.heard(B, Alive(0)) == [Send(B, Activation(0, b"h0"))]
    assert chain.lost(B) == [Replaced(1, B, C), Send(C, Probe())]
    assert chain.heard(B, Gradient(0, b"g")) == []
    assert chain.heard(C, Alive(0)) == [Send(C, Activation(0, b"h0"))]
    assert chain.computed(b"h1") == [Send(C, Activation(1, b"h1"))]
    assert chain.heard(C, Gradient(0, b"g")) == [Backward(0, b"g")]


def test_a_replica_that_steps_in_gets_no_more_at_a_time_than_may_be_in_flight() -> None:
    chain = machine(A, 0)
    chain.begin()
    chain.computed(b"h0")
    chain.heard(B, Alive(0))
    chain.computed(b"h1")
    chain.heard(B, Gradient(0, b"g"))
    chain.computed()
    chain.computed(b"h2")
    assert chain.done == 1
    chain.lost(B)
    assert chain.heard(C, Alive(0)) == [Send(C, Activation(0, b"h0")), Send(C, Activation(1, b"h1"))]
    assert chain.heard(C, Gradient(0, b"g")) == [Send(C, Activation(2, b"h2"))]
    assert chain.done == 1  # its gradient of 0 was there already


def confirming(me: str, slices: int = 2) -> Chain:
    """A last stage that holds so many slices."""
    chain = machine(me, 1)
    chain.begin()
    for at in range(2 * slices):
        chain.heard(A, Activation(at, b"x"))
        chain.computed(b"g")
    return chain


def confirmed(chain: Chain, slices: int) -> tuple[bytes, ...]:
    """What a stage confirms when its predecessor asks."""
    said = chain.heard(A, AskConfirm(slices))
    found = [e.message for e in said if isinstance(e, Send) and isinstance(e.message, Confirmations)]
    return found[0].statements


def test_confirmations_that_do_not_hold_are_refused_or_passed_over() -> None:
    chain = machine(A, 0)
    chain.begin()
    chain.close()
    chain.computed(b"h")
    chain.heard(B, Alive(0))
    (raw,) = confirmed(confirming(B), 1)
    other_attempt = Chain(C, replace(post(1), place=Place(bytes(32), 1, 1, 0)), lambda m: sign(KEYS[C], m))
    for forged in (
        (raw[:-1] + bytes([raw[-1] ^ 1]),),
        (),
        (other_attempt._confirm(1),),
        confirmed(confirming(C), 1),  # another's
    ):
        with pytest.raises(MessageRefused):
            chain.heard(B, Confirmations(forged))
    chain.heard(B, Confirmations(confirmed(confirming(B), 2)))
    chain.computed(b"h1")
    for at in range(2):
        chain.heard(B, Gradient(at, b"g"))
        chain.computed()
    assert chain.done == 2
    assert chain.ended is None  # two slices were confirmed, one was asked
    assert isinstance(chain.heard(B, Confirmations((raw,)))[-1], Ended)


def test_a_peer_that_the_certificate_does_not_name_holds_nothing_that_counts() -> None:
    """Also if it has done all of it: its microbatches are counted at the peer that took over."""
    replaced = confirming(B, 2)
    leader = machine(A, 0)
    (later,) = confirmed(confirming(C), 2)
    leader._later = (later,)
    statements = (leader._confirm(2), later)
    (ended,) = replaced.heard(A, Certificate(statements))
    assert isinstance(ended, Ended)
    assert ended.counted.path == (A, C)
    assert not ended.holds


@pytest.mark.parametrize("running", [True, False])
def test_a_chain_is_closed_once_whatever_is_computed_later(running: bool) -> None:
    chain = machine(A, 0, in_flight=4)
    chain.begin()
    for _ in range(4):
        chain.computed(b"h")
    chain.heard(B, Alive(0))
    for at in range(4):
        assert chain.heard(B, Gradient(at, b"g")) == [Backward(at, b"g")]
        if at == 2:
            chain.close()  # two microbatches are done: one slice
        if at < 3 or not running:
            chain.computed()
    chain.close()
    (ended,) = chain.heard(B, Confirmations(confirmed(confirming(B), 1)))[-1:]
    assert isinstance(ended, Ended)
    assert ended.counted.slices == 1
    assert not running or chain.computed() == []
    assert chain.close() == []


NUMBERS = st.integers(-2, 6)
STATEMENTS = st.lists(st.binary(max_size=8), max_size=3).map(tuple)
SPEECH = st.one_of(
    st.builds(Activation, NUMBERS, st.binary(max_size=3)),
    st.builds(Gradient, NUMBERS, st.binary(max_size=3)),
    st.builds(Alive, NUMBERS),
    st.builds(AskConfirm, NUMBERS),
    st.builds(Confirmations, STATEMENTS),
    st.builds(Certificate, STATEMENTS),
    st.sampled_from([Probe(), AskCertificate()]),
)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2), st.lists(st.tuples(st.sampled_from(PEERS[:5]), SPEECH | st.none()), max_size=40))
def test_hostile_neighbours_are_refused_by_name_and_what_is_kept_stays_bounded(
    shard: int, script: list[tuple[str, ChainSpeech | None]]
) -> None:
    """None stands for a tick and a computation that is through."""
    replicas = ((A,), (B, D), (C, E))
    chain = machine(replicas[shard][0], shard, replicas)
    running = [e for e in chain.begin() if isinstance(e, Forward | Backward)]
    backs: list[int] = []
    for sender, message in script:
        effects: list[ChainEffect] = []
        if message is None:
            effects += chain.tick()
            if running:
                running.pop()
                effects += chain.computed(b"value")
        else:
            with contextlib.suppress(MessageRefused):
                effects += chain.heard(sender, message)
        running += [e for e in effects if isinstance(e, Forward | Backward)]
        backs += [e.microbatch for e in effects if isinstance(e, Backward)]
        assert len(running) <= 1
        assert backs == list(range(len(backs)))
        assert 0 <= chain.in_flight <= chain.post.in_flight
        assert len(chain._inputs) <= chain.post.in_flight
        assert len(chain._gradients) <= chain.post.in_flight
        assert chain.ended is None


def test_only_the_leader_closes_and_only_holders_take_part() -> None:
    with pytest.raises(ValueError, match="only the leader"):
        machine(B, 1).close()
    with pytest.raises(ValueError, match="does not hold shard 1"):
        machine(D, 1)
    with pytest.raises(ValueError, match="nothing is being computed"):
        machine(B, 1).computed()
