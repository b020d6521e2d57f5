"""The ring benchmark compares two runs that differ in the ring alone, and both are the demo's."""

from benchmarks.ring import manifest_of
from swarm.cli.demo_manifest import DEMO, DEMO_ROUNDS
from swarm.manifest import parse_manifest


def test_the_two_swarms_differ_in_the_ring_alone() -> None:
    narrow, _ = manifest_of(DEMO_ROUNDS, 4, ring_bits=16)
    wide, _ = manifest_of(DEMO_ROUNDS, 4, ring_bits=32)
    assert (narrow.ring.bits, wide.ring.bits) == (16, 32)
    assert narrow.ring.levels < wide.ring.levels
    ring = {"aggregation": wide.aggregation.model_copy(update={"ring_bits": 16})}
    assert wide.model_copy(update=ring) == narrow


def test_the_runs_have_the_demos_rates_and_levels() -> None:
    demo, narrow = parse_manifest(DEMO.encode()), manifest_of(DEMO_ROUNDS, 4, ring_bits=16)[0]
    assert narrow.outer == demo.outer
    assert narrow.run.rounds == demo.run.rounds
    assert narrow.ring == demo.ring
