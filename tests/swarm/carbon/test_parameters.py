"""Every input has a value in its range and a source; what is no input is refused with the fix."""

import pytest

from swarm.carbon.parameters import (
    BY_NAME,
    CLOUDS,
    EDGES,
    PARAMETERS,
    SCENARIOS,
    OutOfRange,
    UnknownParameter,
    checked,
    defaults,
    scenario_values,
    stated_values,
)
from swarm.energy.grid import grid_of


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_every_input_lies_in_its_range_and_has_a_source_and_a_basis(parameter) -> None:  # type: ignore[no-untyped-def]
    assert parameter.low <= parameter.value <= parameter.high
    assert parameter.source
    assert parameter.basis in ("paper", "source", "assumed")
    assert parameter.role in ("work", "choice", "uncertain")


def test_names_are_unique_and_every_device_has_the_same_inputs() -> None:
    assert len(BY_NAME) == len(PARAMETERS)
    for devices in (CLOUDS, EDGES):
        kinds = {
            frozenset(name.split(".")[1] for name in BY_NAME if name.startswith(f"{device}."))
            for device in devices
        }
        assert len(kinds) == 1


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_a_scenario_changes_inputs_within_their_ranges(scenario) -> None:  # type: ignore[no-untyped-def]
    for name, value in scenario.changes.items():
        assert checked(BY_NAME[name], value) == value
    assert scenario.cloud in CLOUDS


def test_the_paper_and_its_devices_are_as_the_facts_have_them() -> None:
    values = defaults()
    facts = {
        "batch": 16,
        "sequence": 512,
        "laptop.count": 4,
        "phone.count": 15,
        "edge.bandwidth": 10,
        "a5000.watts": 230,
        "a100.watts": 400,
        "h100.watts": 700,
        "h100.embodied-kg": 575,
        "cloud.lifetime-years": 3,
        "cloud.server-watts": 1200 / 8,
        "cloud.server-kg": 5700 / 8,
        "phone.embodied-kg": 52.8,
        "edge.grid": grid_of("USA").grams_per_kwh,
    }
    assert {name: values[name] for name in facts} == facts
    assert values["edge.joules-per-megabyte"] == 0.5 / 10
    assert values["laptop.embodied-kg"] == pytest.approx(243 * 0.79, abs=0.5)


def test_what_the_user_states_goes_before_a_scenario() -> None:
    stated = stated_values(["cloud.pue = 1.2", "a100.watts=300"])
    assert scenario_values(SCENARIOS["contrary"], stated)["cloud.pue"] == 1.2
    assert scenario_values(SCENARIOS["paper"], {})["cloud.pue"] == 1.0


@pytest.mark.parametrize("text", ["cloud.puee=1", "=1", "cloud.pue", "nonsense"])
def test_a_name_that_is_none_is_refused_with_what_is_near(text: str) -> None:
    with pytest.raises(UnknownParameter, match="--parameters"):
        stated_values([text])
    with pytest.raises(UnknownParameter, match=r"near: cloud\.pue"):
        stated_values(["cloud.puee=1"])


@pytest.mark.parametrize(
    "text",
    [
        "laptop.watts=-30",
        "cloud.pue=0.9",
        "edge.grid=nan",
        "edge.grid=inf",
        "cloud.pue=much",
        "laptop.count=4.5",
        "cloud.pue=",
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_range(text: str) -> None:
    with pytest.raises(OutOfRange, match=text.split("=")[0].replace(".", r"\.")):
        stated_values([text])
