"""The energy benchmark judges the sampler by the costliest meters, made-up ones included."""

from pathlib import Path

from benchmarks.energy import GOALS, GPUS, Boards, _sockets, sampler_share
from swarm.energy.nvidia import Nvidia
from swarm.energy.powercap import Rapl


def test_the_made_up_machine_has_two_sockets_with_memory_and_eight_gpus(tmp_path: Path) -> None:
    assert Rapl(_sockets(tmp_path)).name == (
        "RAPL (package-0, package-1, dram of package-0, dram of package-1)"
    )
    assert Nvidia(Boards()).name.count("made up") == GPUS


def test_the_share_is_of_a_core_and_has_a_goal(tmp_path: Path) -> None:
    assert 0 < sampler_share([Rapl(_sockets(tmp_path))], 0.01) < 50
    assert GOALS["sampler_share"] == ("<=", 0.01)
