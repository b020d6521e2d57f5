"""What a chain member has computed from is what its neighbours signed for, or it leaves the chain."""

import pytest

from swarm.shards.chain import Activation
from swarm.shards.crew import Crew, CrewEffect, Run, Tensors
from tests.swarm.shards.crews import RUN, Crews
from tests.verify.chain import KEYS
from verify.chains import EVALUATED, Place
from verify.opened import Post, read_opening
from verify.statement import sign

SESSION = bytes([4]) * 32


def test_all_that_counts_can_be_opened_with_the_lists_of_both_neighbours() -> None:
    crews = Crews([2, 3, 1])
    crews.run()
    looked = 0
    for peer, done in crews.done.items():
        task = crews.tasks[peer]
        for one in done.counted:
            for index in range(one.slices - EVALUATED):
                passed = crews.crews[peer].passed(one.chain, index)
                replicas = task.wired[one.chain].replicas
                place = Place(RUN, 1, 0, one.chain)
                post = Post(peer, place, task.shard, index, replicas, task.codec)
                found = read_opening(sign(KEYS[peer], passed.opening(SESSION, 0)), SESSION, post)
                found.check(passed.tensors)
                assert set(passed.tensors) == {*found.keys(sent=False), *found.keys(sent=True)}
                looked += 1
    assert looked == 3 * crews.slices * len(crews.cells)


@pytest.mark.parametrize("alike", [False, True])
def test_who_computed_from_what_nobody_signs_for_leaves_the_chain(alike: bool) -> None:
    """A neighbour that forges and dies leaves a peer with nothing to show for what it did."""
    crews = Crews([1, 2, 1])
    middle, forger = crews.cells[1], crews.cells[0][0]
    chain = next(one for one in crews.tasks[forger].wired if one.replicas[1][0] == middle[0])
    task = crews.tasks[middle[0]]
    me = KEYS[middle[0]]
    crew = Crew(middle[0], task, lambda one: sign(me, one), lambda raw: None, (), lambda a, b: alike)
    crew.begin()
    place, first = Place(RUN, 1, 0, chain.chain), 2 * EVALUATED

    def hear(at: int, tensor: bytes, signed: bytes = b"") -> list[CrewEffect]:
        return crew.heard(forger, place, Activation(at, tensor, signed))

    def run(effects: list[CrewEffect]) -> list[Run]:
        return [effect for effect in effects if isinstance(effect, Run)]

    ran = [run(hear(at, b"evaluated")) for at in range(2)]
    assert ran[0]
    assert run(crew.computed(chain.chain, b"out"))
    crew.computed(chain.chain, b"out")
    assert run(hear(first, b"unsigned"))[0].tensor == b"unsigned"
    crew.computed(chain.chain, b"out")
    hear(first, b"signed")
    theirs = Crew(forger, crews.tasks[forger], lambda message: sign(KEYS[forger], message), lambda raw: None)
    theirs.sent[chain.chain, "forward"] = Tensors({first: b"signed", first + 1: b"second"})
    signed = theirs._listed(chain.chain, "forward", EVALUATED)
    after = run(hear(first + 1, b"second", signed))
    assert bool(after) is alike
