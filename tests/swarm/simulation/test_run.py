"""Simulated runs: the same seed, the same result; nothing gained from nothing; what each fault costs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from swarm.plan.cost import Job, World
from swarm.plan.devices import named_devices
from swarm.plan.solve import Ask as PlanAsk
from swarm.plan.solve import solve, stated_grid
from swarm.simulation.crowd import CrowdRefused
from swarm.simulation.outcome import Outcome
from swarm.simulation.paper import paper_steps
from swarm.simulation.phases import phase_times
from swarm.simulation.report import (
    Ask,
    AskRefused,
    Simulated,
    against_plan,
    carry_out,
    figures,
    parameter_values,
    summary,
)
from swarm.simulation.traces import Stretch

WORLD = World(stated_grid(369.0, "USA"))
HOUR = 3600.0


def ask(fleet: str = "laptops-30", hours: float = 3.0, **changes: Any) -> Ask:
    values = parameter_values(changes.pop("values", {}))
    job = Job(changes.pop("model", "opt-125m"), 128)
    given: dict[str, Any] = {"seed": 1, "rate": 0.2, "attackers": 0.0, "always": True, **changes}
    return Ask(named_devices(fleet), WORLD, job, hours / 24, values=values, **given)


def there(ids: Sequence[str], hours: float, **changed: list[Stretch]) -> dict[str, list[Stretch]]:
    """All are there all the time, but those whose stretches are given (by name, _ for -)."""
    own = {name.replace("_", "-"): trace for name, trace in changed.items()}
    return {name: own.get(name, [Stretch(0.0, hours * HOUR, False)]) for name in ids}


def run(asked: Ask) -> Outcome:
    return carry_out(asked).outcome


CALM = {"crashes-per-day": 0.0}


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    asked = ask("laptops-60+phones-40", 6.0, always=False, attackers=0.1, values={"night-zones-hours": 24.0})
    first, second = summary(carry_out(asked)), summary(carry_out(asked))
    assert first == second
    assert first["tokens"] > 0
    assert summary(carry_out(replace(asked, seed=2))) != first


def test_devices_that_are_always_there_lose_nothing() -> None:
    out = run(ask())
    assert (dict(out.voids), out.paused, out.attempts) == ({}, 0.0, out.records)
    assert out.tokens == sum(row.tokens for row in out.rows)
    assert out.busy["again"] == out.busy["trials"] == 0.0
    assert out.joules["lost"] < 0.35 * out.joules["compute"]  # slices that a window's end cuts off
    assert all(row.members == 30 for row in out.rows)


def test_joules_are_watts_times_seconds_and_bytes() -> None:
    """Of one device alone: it is held for the whole run, works or idles, and talks to nobody."""
    out = run(ask("laptops-1", 1.0))
    busy, idle = 30 * 1.15, 5 * 1.15
    working = sum(out.busy.values())
    assert out.total_joules == pytest.approx(working * busy + (out.seconds - working) * idle)
    assert out.joules["network"] == 0.0
    assert out.grams == pytest.approx(out.total_joules / 3.6e6 * 369)
    assert out.made == pytest.approx(192_000 * out.seconds / (4 * 365.25 * 86400 * 0.63))
    assert all(value >= 0 for value in out.joules.values())


def test_a_crowd_has_full_cells_and_spares() -> None:
    done = carry_out(ask("laptops-300", 1.0, model="opt-1.3b"))
    assert done.terms.shards == 4
    assert {row.members for row in done.outcome.rows} == {128}
    assert {row.spares for row in done.outcome.rows} == {172}


def test_a_device_that_gets_warm_trains_slower() -> None:
    warm = run(ask("phones-8", 4.0))
    cool = run(ask("phones-8", 4.0, values={"heat-seconds": 1200.0}))
    assert warm.tokens <= cool.tokens


def laptops(count: int) -> list[str]:
    return [f"laptop-{number}" for number in range(1, count + 1)]


def test_without_a_device_for_a_shard_the_run_pauses_until_it_returns() -> None:
    away = [Stretch(0.0, HOUR, True), Stretch(2 * HOUR, 3 * HOUR, False)]
    traces = there(laptops(4), 3.0, laptop_2=away)
    done = carry_out(ask("laptops-4", 3.0, model="opt-1.3b", always=False, traces=traces, values=CALM))
    assert done.terms.shards == 4
    out = done.outcome
    assert out.paused == pytest.approx(HOUR, rel=0.2)
    assert not [row for row in out.rows if 1.4 * HOUR < row.at < 2 * HOUR]
    assert [row for row in out.rows if row.at > 2.2 * HOUR]


def test_a_spare_takes_the_place_of_who_left() -> None:
    traces = there(laptops(40), 4.0, laptop_2=[Stretch(0.0, HOUR, False)])
    out = run(ask("laptops-40", 4.0, always=False, traces=traces, values=CALM))
    assert out.rows[0].members == 32
    assert out.rows[-1].members == 32
    left = out.goodbyes  # who left may have been a spare
    assert out.joins == left
    assert left <= 1


def loss(fleet: str, at: float, crash: bool, **values: float) -> Outcome:
    """One member of a single cell goes at a time and does not come back."""
    count = int(fleet.split("-")[1])
    traces = there(laptops(count), 2.0, laptop_3=[Stretch(0.0, at, False)])
    if crash:
        traces["laptop-3"] = [Stretch(0.0, at, True)]
    return run(ask(fleet, 2.0, always=False, traces=traces, values=CALM | values))


def phase_middles(fleet: str) -> dict[str, float]:
    """When, in the second round, the window and the unmasking are half over."""
    done = carry_out(ask(fleet, 2.0))
    spent = {name: seconds / done.outcome.attempts for name, seconds in done.outcome.phases.items()}
    second = done.outcome.rows[0].at
    window = done.terms.window
    before = sum(spent[phase] for phase in ("meet", "share", "mask", "agree"))
    return {"train": second + window / 2, "unmask": second + window + before + spent["unmask"] / 2}


def test_a_member_lost_while_unmasking_costs_the_attempt_and_one_lost_in_training_does_not() -> None:
    middles = phase_middles("laptops-8")
    assert dict(loss("laptops-8", middles["train"], True).voids) == {}
    assert dict(loss("laptops-8", middles["unmask"], True).voids) == {"lost while unmasking": 1}


def test_a_goodbye_that_waits_for_its_record_costs_nothing() -> None:
    at = phase_middles("laptops-8")["unmask"]
    assert dict(loss("laptops-8", at, False, **{"goodbye-waits": 0.0}).voids) == {"lost while unmasking": 1}
    assert dict(loss("laptops-8", at, False).voids) == {}


def test_who_is_missing_holds_the_meeting_up_until_it_is_suspended() -> None:
    out = loss("laptops-8", phase_middles("laptops-8")["train"], True)
    usual, *slow, after = [row.seconds for row in out.rows[:5]]
    assert out.suspensions == 1
    wait = phase_times()["train"].lost * carry_out(ask("laptops-8", 0.5)).terms.timeout
    assert [seconds - usual for seconds in slow] == pytest.approx([wait] * 3, rel=0.15)
    assert after < usual + 1


def test_liars_are_banned_at_the_odds_of_the_lottery() -> None:
    asked = ask("laptops-32", 10.0, attackers=0.2)
    out = run(asked)
    assert out.attackers == 6
    assert len(out.caught_after) == 6
    assert out.poisoned > 0
    # Caught with a chance of 0.2 a round: in 5 rounds on average, and banned two records later.
    assert np.mean(out.caught_after) == pytest.approx(7, abs=5)
    never = run(replace(asked, rate=0.0))
    assert never.caught_after == []
    assert never.poisoned > out.poisoned
    assert never.joules["checks"] == 0.0 < out.joules["checks"]


def test_a_plan_is_kept_to_while_all_are_there() -> None:
    devices = named_devices("laptops-4")
    planned = solve(PlanAsk(devices, Job("opt-1.3b", 512, 16), WORLD), "time").plan
    job = Job(planned.model, 512, 16, planned.slices, planned.codec)
    done = carry_out(
        Ask(devices, WORLD, job, 0.1, 1, 0.2, 0.0, parameter_values({}), always=True, plan=planned)
    )
    assert done.terms.layers == planned.layers
    told = {one.name: one for one in against_plan(done)}
    assert told["seconds"].simulated / told["seconds"].forecast.value == pytest.approx(1.0, abs=0.3)
    assert told["joules"].simulated / told["joules"].forecast.value == pytest.approx(1.0, abs=0.3)
    others = replace(done.ask, devices=named_devices("phones-4"))
    with pytest.raises(CrowdRefused, match="the plan names laptop-1"):
        carry_out(others)


def test_figures_drawn_from_their_ranges_give_an_interval() -> None:
    done: Simulated = carry_out(ask("laptops-4", 0.5), draws=5)
    assert set(done.drawn) == {name for name, value in figures(done.outcome).items() if value is not None}
    assert all(one.low <= one.high for one in done.drawn.values())
    assert done.drawn["tokens_per_second"].low < done.drawn["tokens_per_second"].high


def test_the_papers_set_ups_have_intervals_and_the_papers_sizes() -> None:
    steps = {(step.fleet, step.model): step for step in paper_steps(WORLD, draws=20)}
    assert len(steps) == 4
    assert steps["phones-15", "opt-125m"].used == 12
    for step in steps.values():
        assert step.seconds.low < step.seconds.high
        assert step.grams.value > step.marginal.value > 0
    # 64 TFLOP on four laptops at 2.7 TFLOP/s take 5.9 s at least.
    assert 5.9 < steps["laptops-4", "opt-1.3b"].seconds.value < 15


@pytest.mark.parametrize(
    ("name", "value"), [("attackers", 1.5), ("rate", -0.1), ("days", 0.0), ("days", 400.0)]
)
def test_what_cannot_be_simulated_is_refused(name: str, value: float) -> None:
    with pytest.raises(AskRefused):
        replace(ask(), **{name: value})
