"""A plan's file: what is written is read again, and what does not fit together is refused by name."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.plan.cost import Job, World
from swarm.plan.devices import named_devices
from swarm.plan.plan import Forecast, Interval, Plan, PlanRefused, parse_plan, read_plan
from swarm.plan.solve import Ask, solve, stated_grid

ONE = Interval(1.0, 0.5, 2.0)
PLAN = Plan(
    model="opt-125m",
    sequence_length=128,
    codec="int8",
    sequences_per_slice=16,
    slices=4,
    layers=(7, 5),
    replicas=(("laptop-1", "laptop-2"), ("phone-1",)),
    chains=(("laptop-1", "phone-1"), ("laptop-2", "phone-1")),
    spares=("phone-2",),
    objective="energy",
    method="exact",
    gap=0.0,
    forecast=Forecast(ONE, ONE, ONE, ONE, ONE, ONE),
)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, gap=None, spares=(), method="heuristic")])
def test_what_is_written_is_read_again(plan: Plan) -> None:
    assert parse_plan(plan.to_toml().encode()) == plan
    assert parse_plan(json.dumps(plan.to_json()).encode(), as_json=True) == plan


@pytest.mark.parametrize(("devices", "model"), [("laptops-4", "opt-1.3b"), ("phones-3", "tiny")])
def test_a_planned_plan_is_written_and_read_again(devices: str, model: str) -> None:
    plan = solve(Ask(named_devices(devices), Job(model), World(stated_grid(300.0, "test"))), "time").plan
    assert parse_plan(plan.to_toml().encode()) == plan
    assert plan.tokens == len(plan.chains) * plan.slices * 16 * 128
    for path in plan.chains:
        for device, holders in zip(path, plan.replicas, strict=True):
            assert device in holders
    assert sum(plan.chains_of(device) for device in plan.replicas[0]) == len(plan.chains)


def test_the_manifests_part_is_toml_with_a_layer_count_for_each_shard() -> None:
    tables = tomllib.loads(PLAN.manifest_fragment())
    assert tables["model"] == {"preset": "opt-125m", "shards": 2, "layers": [7, 5]}
    assert tables["work"] == {"slices": 4, "sequences_per_slice": 16}
    whole = replace(PLAN, layers=(12,), replicas=(("a",),), chains=(("a",),), spares=())
    assert "layers" not in tomllib.loads(whole.manifest_fragment())["model"], "one shard is no cut"
    assert parse_plan(whole.to_toml().encode()) == whole


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "opt-175b"}, "a plan is for tiny"),
        ({"codec": "fp8"}, "there are fp32"),
        ({"slices": 0}, "slices = 0"),
        ({"layers": (7, 4)}, "opt-125m has 12"),
        ({"layers": (12, 0)}, "every shard has at least one"),
        ({"replicas": (("laptop-1", "laptop-2"),)}, "lists of replicas for 2 shards"),
        ({"replicas": (("laptop-1", "laptop-2"), ())}, "each has holders"),
        ({"spares": ("laptop-1",)}, "laptop-1 is named twice"),
        ({"chains": (("laptop-1", "phone-9"),)}, "one holder of each shard"),
        ({"chains": (("laptop-1",),)}, "one holder of each shard"),
        ({"chains": (("laptop-1", "phone-1"),)}, "laptop-2 holds a shard and is in no chain"),
        ({"objective": "money"}, "time, energy, carbon"),
        ({"gap": -0.1}, "gap = -0.1"),
        ({"forecast": replace(PLAN.forecast, joules=Interval(-1.0, 0.0, 1.0))}, "forecast.joules"),
        ({"forecast": replace(PLAN.forecast, joules=Interval(1.0, 2.0, 1.0))}, "forecast.joules"),
    ],
)
def test_a_plan_that_does_not_fit_together_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(PlanRefused, match=told):
        replace(PLAN, **change)  # type: ignore[arg-type]


@given(st.data())
def test_a_damaged_file_is_a_plan_or_a_named_refusal(data: st.DataObject) -> None:
    raw = bytearray(PLAN.to_toml().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.sampled_from(b'0-"[]=,.x\n'))
    try:
        parse_plan(bytes(raw))
    except PlanRefused:
        return


def test_a_file_that_is_none_says_what_to_do() -> None:
    for raw, told in ((b"", "no 'model'"), (b"[model]\npreset = 3\n", "no 'plan'"), (b"\xff", "no TOML")):
        with pytest.raises(PlanRefused, match=told):
            parse_plan(raw)
    with pytest.raises(PlanRefused, match="swarm-plan --out"):
        read_plan(Path("/nowhere/plan.toml"))
