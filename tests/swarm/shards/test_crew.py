"""Crews: a microbatch counts once in every shard or in none, whoever dies; tensors come with signed lists."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from swarm.shards.chain import Activation, AskCertificate, Gradient
from swarm.shards.crew import Speak, Tensors
from tests.swarm.shards.crews import RUN, Crews
from verify.chains import EVALUATED, Counted, Place, open_certificate, two_lists, weights


def counted(crews: Crews) -> list[Counted]:
    """What everyone that is done counts; each chain is the same to all whom it names."""
    found: dict[int, Counted] = {}
    for done in crews.done.values():
        for one in done.counted:
            assert found.setdefault(one.chain, one) == one
    return list(found.values())


def weights_told(crews: Crews) -> list[int]:
    """Slices that each shard's living peers hold."""
    return [
        sum(one.slices - EVALUATED for peer in cell if peer in crews.done for one in crews.done[peer].counted)
        for cell in crews.cells
    ]


@pytest.mark.parametrize("cells", [[1, 1], [2, 2], [4, 4], [2, 3, 1], [1, 4]])
def test_all_shards_count_the_same_slices_and_every_certificate_holds(cells: list[int]) -> None:
    crews = Crews(cells)
    crews.run()
    assert set(crews.done) == set(crews.crews)
    assert weights_told(crews) == [max(cells) * crews.slices] * len(cells)
    wired = next(iter(crews.tasks.values())).wired
    for done in crews.done.values():
        for one, statements in zip(done.counted, done.certificates, strict=True):
            replicas = wired[one.chain].replicas
            place = Place(RUN, 1, 0, one.chain)
            assert open_certificate(statements, place, replicas[0][0], replicas) == one


def test_where_nothing_fails_nobody_computes_a_microbatch_twice_or_waits_for_a_tick() -> None:
    crews = Crews([2, 2, 2])
    crews.run()
    for peer, runs in crews.computed.items():
        assert max(Counter((run.chain, run.microbatch, run.backward) for run in runs).values()) == 1, peer
    assert crews.now < 1.0


@pytest.mark.parametrize("shard", [1, 2])
def test_another_peer_of_the_shard_steps_in_for_one_that_dies(shard: int) -> None:
    crews = Crews([2, 2, 2], slices=4)
    victim = crews.cells[shard][0]
    crews.at(0.2, lambda: crews.kill(victim))
    crews.run()
    living = set(crews.shard) - {victim}
    assert set(crews.done) == living
    assert weights_told(crews) == [2 * crews.slices] * 3
    assert all(victim not in one.path for one in counted(crews))


def test_a_chain_whose_leader_dies_counts_in_no_shard_and_the_others_do() -> None:
    crews = Crews([2, 2])
    victim = crews.cells[0][0]
    crews.at(0.2, lambda: crews.kill(victim))
    crews.run()
    assert weights_told(crews) == [crews.slices] * 2


def test_a_leader_that_comes_back_says_that_its_chain_counts_for_nothing_and_nobody_waits_for_it() -> None:
    crews = Crews([2, 2], slices=3)
    leader = crews.cells[0][0]
    crews.at(0.2, lambda: crews.kill(leader))
    crews.at(1.5, lambda: crews.start(leader))
    crews.run()
    assert set(crews.done) == set(crews.shard)
    assert weights_told(crews) == [crews.slices] * 2
    assert crews.done[leader].counted == ()
    assert crews.now < 9.5  # a window of 6 ticks, and one to ask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.integers(1, 3), min_size=2, max_size=3))
def test_whoever_dies_stalls_and_comes_back_each_microbatch_counts_once_in_every_shard_or_in_none(
    seed: int, cells: list[int]
) -> None:
    crews, chance = Crews(cells, seed), random.Random(seed)
    for peer in crews.shard:
        if chance.random() < 0.4:
            at = chance.uniform(0.0, 7.0)
            crews.at(at, lambda peer=peer: crews.kill(peer))  # type: ignore[misc]
            if chance.random() < 0.6:
                crews.at(at + chance.uniform(0.1, 4.0), lambda peer=peer: crews.start(peer))  # type: ignore[misc]
    dropping = chance.choice([0.0, 0.0, 0.1])
    crews.lost = lambda a, b: chance.random() < dropping
    crews.run(600.0)
    assert set(crews.done) >= set(crews.crews)
    wired = next(iter(crews.tasks.values())).wired
    told = weights(list(counted(crews)), len(cells))
    assert len({sum(one.values()) for one in told}) == 1
    for one in counted(crews):
        assert one.path[0] == wired[one.chain].path[0]


def heard(crews: Crews, at: PeerID, sender: PeerID, message: Activation | Gradient) -> None:
    crews.crews[at].heard(sender, Place(RUN, 1, 0, 0), message)


def test_a_tensor_is_refused_from_whom_the_chain_has_none_and_out_of_it() -> None:
    crews = Crews([1, 2, 1])
    first, second, last = (cell[0] for cell in crews.cells)
    for sender, message, text in (
        (last, Activation(3, b"x"), "does not hold shard 0"),
        (first, Activation(99, b"x"), "the chain has"),
        (first, Activation(-1, b"x"), "the chain has"),
        (last, Gradient(0, b"x"), "for evaluation"),
    ):
        with pytest.raises(MessageRefused, match=text):
            heard(crews, second, sender, message)
    with pytest.raises(MessageRefused, match="another run or attempt"):
        crews.crews[second].heard(first, Place(RUN, 1, 1, 0), Activation(0, b"x"))
    with pytest.raises(MessageRefused, match="another run or attempt"):
        crews.crews[second].heard(first, Place(RUN, 1, 0, 9), Activation(0, b"x"))


def lists_of(crews: Crews) -> tuple[PeerID, PeerID, list[Speak]]:
    """A leader, its successor, and what it said of tensors."""
    said: list[Speak] = []
    speak = crews._speak
    crews._speak = lambda me, one: (said.append(one), speak(me, one))[1]  # type: ignore[method-assign]
    crews.run()
    leader, successor = crews.cells[0][0], crews.cells[1][0]
    return leader, successor, [one for one in said if isinstance(one.message, Activation)]


def test_a_slices_last_tensor_is_taken_with_a_list_of_exactly_what_came() -> None:
    leader, successor, said = lists_of(Crews([1, 1]))
    tensors = {one.message.microbatch: one.message for one in said}  # type: ignore[union-attr]
    fresh = Crews([1, 1])
    signed = tensors[3].signed  # type: ignore[union-attr]
    assert signed
    assert not tensors[2].signed
    assert not tensors[0].signed
    assert not tensors[1].signed
    cases = [
        ({2: b"other"}, signed, "not of the tensors"),
        ({}, signed, "not all of slice 1"),
        ({2: tensors[2].tensor}, b"", "statement"),  # type: ignore[union-attr]
        ({2: tensors[2].tensor}, tensors[5].signed, "not over slice 1"),  # type: ignore[union-attr]
    ]
    for before, raw, text in cases:
        fresh = Crews([1, 1])
        for number, tensor in before.items():
            heard(fresh, successor, leader, Activation(number, tensor))
        with pytest.raises(MessageRefused, match=text):
            heard(fresh, successor, leader, Activation(3, tensors[3].tensor, raw))  # type: ignore[union-attr]


def test_two_lists_over_one_microbatch_convict_their_author() -> None:
    leader, successor, said = lists_of(Crews([1, 1]))
    crews = Crews([1, 1])
    crews.run()
    mine = crews.crews[leader].sent[0, "forward"].lists[1]
    theirs = crews.crews[successor].received[0, "forward", leader].lists[1]
    assert mine == theirs
    assert two_lists(mine, theirs) is None
    other = Crews([1, 1])
    other.do = lambda me, effects: None  # type: ignore[method-assign]
    other.crews[leader].sent[0, "forward"] = Tensors({2: b"other", 3: b"tensors"})
    lie = other.crews[leader]._listed(0, "forward", 1)
    evidence = two_lists(mine, lie)
    assert evidence is not None
    assert evidence.against == leader
    assert said


def test_who_asks_a_leader_after_the_window_hears_that_its_chain_goes_on() -> None:
    crews = Crews([1, 1])
    leader, other = crews.cells[0][0], crews.cells[1][0]
    effects = crews.crews[leader].heard(other, Place(RUN, 1, 0, 0), AskCertificate())
    assert [type(one.message).__name__ for one in effects if isinstance(one, Speak)] == ["Alive"]
