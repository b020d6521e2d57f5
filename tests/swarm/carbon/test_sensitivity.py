"""One input, two inputs, all inputs: the same figures for the same seed, and crossings where they are."""

import numpy as np
import pytest

from swarm.carbon.comparison import CASES, METRICS, DoesNotFit, compare
from swarm.carbon.parameters import BY_NAME, defaults
from swarm.carbon.sensitivity import HEADLINES, draw, heat, intervals, spaced, swings

FULL, CASE = defaults(), CASES["laptops-1.3b"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_crossing_is_where_the_ratio_is_even(metric: str) -> None:
    found = swings(FULL, CASE, "a5000", metric)
    crossings = [(s.parameter.name, s.even, 1.0) for s in found] + [
        (s.parameter.name, s.reaches, HEADLINES[metric][0]) for s in found
    ]
    known = [(name, at, level) for name, at, level in crossings if at is not None]
    assert known
    for name, at, level in known:
        assert getattr(compare({**FULL, name: at}, CASE, "a5000"), metric) == pytest.approx(level, rel=1e-3)


def test_swings_are_the_ratios_at_the_ends_of_the_range_and_the_widest_come_first() -> None:
    found = swings(FULL, CASE, "a5000", "energy")
    for swing in found:
        for end, ratio in ((swing.parameter.low, swing.at_low), (swing.parameter.high, swing.at_high)):
            assert ratio == pytest.approx(
                float(compare({**FULL, swing.parameter.name: end}, CASE, "a5000").energy)
            )
    assert [s.width for s in found] == sorted((s.width for s in found), reverse=True)
    assert not {"laptop.lifetime-years", "edge.grid", "phone.watts"} & {s.parameter.name for s in found}


def test_a_heat_map_holds_the_ratio_of_both_inputs() -> None:
    across = ("cloud.grid", "edge.grid")
    ratio, x, y = heat(FULL, CASE, "a5000", "carbon_marginal", across, "cloud.utilisation", points=5)
    values = {**FULL, "cloud.grid": x[3], "edge.grid": x[3], "cloud.utilisation": y[1]}
    assert ratio[1, 3] == pytest.approx(float(compare(values, CASE, "a5000").carbon_marginal))


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    a, b, other = (draw(FULL, CASE, "a5000", 500, seed) for seed in (7, 7, 8))
    for metric in METRICS:
        assert np.array_equal(a[metric], b[metric])
        assert not np.array_equal(a[metric], other[metric])


def test_draws_stay_within_what_the_ranges_allow() -> None:
    values = draw(FULL, CASE, "a5000", 2000, 0)["energy"]
    best = {
        s.parameter.name: s.parameter.low if s.at_low > s.at_high else s.parameter.high
        for s in swings(FULL, CASE, "a5000", "energy")
    }
    assert values.max() <= compare({**FULL, **best}, CASE, "a5000").energy
    found = intervals({"energy": values})["energy"]
    assert found.low < found.median < found.high
    assert found.headline <= found.edge_better
    assert found.edge_better == pytest.approx(np.mean(values > 1))


def test_what_the_user_states_is_not_drawn() -> None:
    uncertain = [name for name, parameter in BY_NAME.items() if parameter.role == "uncertain"]
    held = draw(FULL, CASE, "a5000", 10, 0, held=uncertain)
    assert np.allclose(held["energy"], compare(FULL, CASE, "a5000").energy)


def test_wide_ranges_are_spaced_by_factors_and_others_evenly() -> None:
    price, pue = spaced(BY_NAME["edge.joules-per-megabyte"], 3), spaced(BY_NAME["cloud.pue"], 3)
    assert price[1] == pytest.approx(np.sqrt(0.05 * 17))
    assert pue.tolist() == pytest.approx([1.0, 1.3, 1.6])


def test_what_does_not_fit_is_not_drawn() -> None:
    with pytest.raises(DoesNotFit):
        draw(FULL, CASES["phone-1.3b"], "a5000", 10, 0)
