"""The phase times against the real round machine on its virtual clock, at sizes it was not fitted to."""

import pytest

from swarm.simulation.fitting import lose_one
from swarm.simulation.machine import Link, measure
from swarm.simulation.phases import EXCHANGE, Cell, exchange_seconds, phase_times


@pytest.mark.parametrize(
    ("members", "link"), [(5, Link(0.02, 3.0)), (7, Link(0.04, 0.5)), (10, Link(0.05, 0.1))]
)
def test_phases_take_what_the_round_machine_takes(members: int, link: Link) -> None:
    real = measure(members, link, rounds=3, seed=3)
    fitted = {name: row.seconds(members, link.latency, link.vector) for name, row in phase_times().items()}
    assert sum(fitted.values()) == pytest.approx(sum(real.values()), rel=0.1)
    for phase in EXCHANGE:
        assert fitted[phase] == pytest.approx(real[phase], rel=0.1, abs=link.latency)


@pytest.mark.parametrize("phase", ["meet", "mask", "unmask"])
def test_a_lost_member_costs_what_the_table_says(phase: str) -> None:
    """At another size. The table is a mean over whose turn it is to propose; one draw lies near it."""
    row = phase_times()[phase]
    lost, voids = lose_one(6, phase, seed=1)
    assert bool(voids) == row.void
    assert lost == pytest.approx(row.lost, abs=0.15)


def test_every_phase_of_a_round_has_a_row() -> None:
    assert set(phase_times()) == {"train", *EXCHANGE}


def test_processors_and_meeting_are_added_and_a_cell_of_one_sums_nothing() -> None:
    cell = Cell(
        members=8, parameters=10_000_000, latency=0.0, vector=0.0, fixed=5.0, masking=0.002, outer=0.1
    )
    found = exchange_seconds(cell)
    assert (found["meet"], found["mask"], found["apply"]) == (5.0, pytest.approx(0.14), pytest.approx(1.0))
    alone = exchange_seconds(Cell(1, 10_000_000, 0.01, 3.0, 5.0, 0.002, 0.1))
    assert {phase for phase, seconds in alone.items() if seconds} == {"meet", "apply"}
