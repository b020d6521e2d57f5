"""The comparison's arithmetic: the paper's own numbers, units, and what must move which way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.carbon.comparison import CASES, METRICS, DoesNotFit, UnknownCase, case_of, check_fit, compare
from swarm.carbon.parameters import BY_NAME, CLOUDS, SCENARIOS, defaults, scenario_values
from swarm.energy.grid import Embodied, grid_of

FULL = defaults()
EVERY = st.sampled_from(list(CASES.values()))
SHARDED = st.sampled_from([case for case in CASES.values() if case.sharded])
GPU = st.sampled_from(list(CLOUDS))


def test_the_papers_set_up_gives_the_papers_numbers() -> None:
    """6 N x 8192 tokens; fp16 activations at a shard boundary; hops at 10 MB/s."""
    small, large = (compare(FULL, CASES[f"laptops-{size}"], "a5000") for size in ("125m", "1.3b"))
    assert (round(small.tflop, 1), round(large.tflop, 0)) == (6.1, 64)
    assert (round(small.boundary_megabytes, 1), round(large.boundary_megabytes, 1)) == (12.6, 33.6)
    assert (round(small.hop_seconds, 1), round(large.hop_seconds, 1)) == (1.3, 3.4)


def test_a_sharded_step_moves_activations_and_gradients_over_each_link_and_pays_both_ends() -> None:
    values = scenario_values(SCENARIOS["paper"], {})
    four = compare(values, CASES["laptops-1.3b"], "a5000").edge
    assert four.network == pytest.approx(2 * 3 * 33.554432 * 2 * 0.05)
    assert compare(values, CASES["laptop-125m"], "a5000").edge.network == 0


def test_seconds_joules_and_grams_fit_each_other() -> None:
    values = scenario_values(SCENARIOS["paper"], {})
    done = compare(values, CASES["laptop-125m"], "a5000")
    assert done.cloud.joules == pytest.approx(done.cloud.seconds * 230)
    assert done.cloud.seconds * 27.8 * 0.4 == pytest.approx(done.tflop)
    assert done.edge.joules == pytest.approx(done.edge.seconds * 30)
    assert done.edge.operational == pytest.approx(grid_of("USA").grams(done.edge.joules))
    used = 4 * (0.3 + 0.33)
    assert done.edge.amortised == pytest.approx(Embodied(192, used, "x").amortised_grams(done.edge.seconds))


def test_every_loss_of_the_full_scenario_is_paid_for() -> None:
    """Work done again and checked, chargers, waiting, cooling and servers, over the same step without
    them."""
    case, values = CASES["phones-1.3b"], FULL
    bare = compare(scenario_values(SCENARIOS["paper"], {}), case, "a5000")
    done = compare(values, case, "a5000")
    charger = values["phone.charger"]
    work = (1 + values["phone.redo"]) * (1 + values["edge.checks"])
    assert done.edge.compute == pytest.approx(bare.edge.compute * work * charger)
    assert done.edge.network == pytest.approx(bare.edge.network * (1 + values["phone.redo"]) * charger)
    busy = done.edge.compute / charger / values["phone.watts"]
    idle = 15 * done.edge.seconds - busy
    assert done.edge.wait == pytest.approx(idle * values["phone.idle-watts"] * charger)
    half = compare({**values, "edge.idle-charged": 0.5}, case, "a5000")
    assert half.edge.wait == pytest.approx(done.edge.wait / 2)
    assert done.cloud.joules == pytest.approx(bare.cloud.joules * (230 + 150) / 230 * 1.56)
    used = 3 * values["cloud.utilisation"]
    assert done.cloud.amortised == pytest.approx(
        Embodied(250 + 712.5, used, "x").amortised_grams(done.cloud.seconds)
    )


def test_a_device_is_not_used_for_more_than_the_whole_day() -> None:
    whole = {**FULL, "laptop.own-use": 0.5, "laptop.availability": 0.5}
    more = {**whole, "laptop.availability": 0.9}
    one, other = (compare(values, CASES["laptop-125m"], "a5000").edge for values in (whole, more))
    assert one.amortised == other.amortised


def test_a_pipeline_is_as_fast_as_its_slowest_link_or_stage() -> None:
    """With endless bandwidth and one microbatch there is no overlap; with many, nearly all of it."""
    values = {**FULL, "edge.bandwidth": 1e9}
    alone = compare(values, CASES["laptop-1.3b"], "a5000").edge.seconds
    one = compare({**values, "microbatches": 1.0}, CASES["laptops-1.3b"], "a5000").edge.seconds
    many = compare({**values, "microbatches": 1e6}, CASES["laptops-1.3b"], "a5000").edge.seconds
    assert one == pytest.approx(alone, rel=1e-6)
    assert many == pytest.approx(alone / 4, rel=1e-3)


def test_in_the_contrary_scenario_use_is_96_percent_and_a_phone_computes_at_12_times_the_energy() -> None:
    """arXiv 2509.00093 and CACM 2024: the scenario's inputs give the evidence's own ratios."""
    values = scenario_values(SCENARIOS["contrary"], {})
    done = compare({**values, "phone.redo": 0.0, "edge.checks": 0.0}, CASES["phone-125m"], "a100")
    use = done.cloud.operational / (done.cloud.operational + done.cloud.amortised)
    assert use == pytest.approx(0.96, abs=0.005)
    board = done.cloud.joules / values["cloud.pue"]
    assert done.edge.compute / values["phone.charger"] / board == pytest.approx(12, rel=0.01)


def test_the_papers_scenario_lies_at_its_energy_headline_and_the_contrary_one_far_below() -> None:
    """1.5 to 4 times; single devices, as the paper measured them."""
    for name in ("laptop-125m", "phone-125m"):
        assert 1.5 <= compare(scenario_values(SCENARIOS["paper"], {}), CASES[name], "a5000").energy <= 4
        assert compare(scenario_values(SCENARIOS["contrary"], {}), CASES[name], "a100").energy < 0.5


MORE = {
    "lifetime-years": (1, ("carbon_amortised",)),
    "availability": (1, ("carbon_amortised",)),
    "own-use": (1, ("carbon_amortised",)),
    "embodied-kg": (-1, ("carbon_amortised",)),
    "watts": (-1, METRICS),
    "idle-watts": (-1, METRICS),
    "charger": (-1, METRICS),
    "redo": (-1, METRICS),
    "reached": (1, METRICS),
    "thermal": (1, METRICS),
}


@pytest.mark.parametrize(("key", "moves"), MORE.items(), ids=list(MORE))
@given(case=EVERY, gpu=GPU, ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_each_input_of_the_edge_moves_the_ratios_one_way(key, moves, case, gpu, ends) -> None:  # type: ignore[no-untyped-def]
    parameter = BY_NAME[f"{case.edge}.{key}"]
    low, high = (parameter.low + (parameter.high - parameter.low) * end for end in sorted(ends))
    less, more = (compare({**FULL, parameter.name: value}, case, gpu) for value in (low, high))
    sign, metrics = moves
    for metric in METRICS:
        change = float(getattr(more, metric) - getattr(less, metric)) * sign
        assert change >= -1e-9 * getattr(less, metric) if metric in metrics else abs(change) < 1e-9


@given(SHARDED, GPU, st.floats(0.05, 17), st.floats(0.05, 17))
def test_a_dearer_network_never_helps_the_edge(case, gpu, a, b) -> None:  # type: ignore[no-untyped-def]
    cheap, dear = (
        compare({**FULL, "edge.joules-per-megabyte": price}, case, gpu) for price in sorted((a, b))
    )
    assert dear.energy <= cheap.energy * (1 + 1e-12)


@given(EVERY, GPU)
def test_marginal_is_never_worse_for_the_edge_than_amortised(case, gpu) -> None:  # type: ignore[no-untyped-def]
    done = compare(FULL, case, gpu)
    assert done.carbon_marginal > done.carbon_amortised


@given(EVERY, GPU, st.floats(20, 900))
def test_on_one_grid_the_marginal_ratio_is_energy_and_the_clouds_embodied_share(case, gpu, grams) -> None:  # type: ignore[no-untyped-def]
    done = compare({**FULL, "cloud.grid": grams, "edge.grid": grams}, case, gpu)
    share = done.cloud.amortised / done.cloud.operational
    assert done.carbon_marginal == pytest.approx(done.energy * (1 + share))


@given(EVERY, GPU, st.lists(st.floats(1.0, 1.6), min_size=1, max_size=5))
def test_arrays_give_what_numbers_give(case, gpu, pues) -> None:  # type: ignore[no-untyped-def]
    together = compare({**FULL, "cloud.pue": np.array(pues)}, case, gpu)
    for metric in METRICS:
        alone = [float(getattr(compare({**FULL, "cloud.pue": pue}, case, gpu), metric)) for pue in pues]
        assert np.allclose(getattr(together, metric), alone, rtol=1e-12)


def test_a_model_that_does_not_fit_is_refused_with_what_would_help() -> None:
    with pytest.raises(DoesNotFit, match=r"needs 20\.8 GB .* laptop\.count or laptop\.memory-gb"):
        check_fit(FULL, CASES["laptop-1.3b"])
    check_fit({**FULL, "laptop.memory-gb": 32.0}, CASES["laptop-1.3b"])


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(UnknownCase, match=r"laptops-1\.3b"):
        case_of("desktops-7b")
