"""Devices: every figure has a range and a source, and a file that is not meant is refused with the fix."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.carbon.parameters import BY_NAME
from swarm.plan.devices import (
    FIGURES,
    KEYS,
    OWN,
    PROFILES,
    Device,
    DevicesRefused,
    named_devices,
    parse_devices,
    profile_device,
)

OWN_FILE = b"""
[[device]]
name = "box"
count = 3
memory_gb = 12
train_tflops = { value = 2.5, low = 2, high = 3, source = "my own run" }
thermal_share = 0.9
watts_busy = 60
watts_idle = 10
wall_joules_per_joule = 1.1
up_megabytes_per_second = 2
down_megabytes_per_second = 12
latency_ms = 20
joules_per_megabyte = 0.1
availability_share = 0.5
redo_share = 0.05
embodied_kg = 200
lifespan_years = 4
used_share = 0.6
"""


@pytest.mark.parametrize("profile", PROFILES)
def test_every_figure_of_a_profile_lies_in_its_range_and_names_its_source(profile: str) -> None:
    for name, figure in profile_device(profile, 1).figures().items():
        assert figure.low <= figure.value <= figure.high, name
        assert figure.source.endswith("]"), "it ends with the parameter's name"


def test_profiles_repeat_no_figure_of_swarm_carbon() -> None:
    assert not {parameter.name for parameter in OWN} & set(BY_NAME)
    laptop = named_devices("laptops-4")[0]
    assert laptop.speed.value == BY_NAME["laptop.peak-tflops"].value * BY_NAME["laptop.reached"].value * 1e12
    assert laptop.watts_busy.value == BY_NAME["laptop.watts"].value
    assert laptop.up.value == 10e6


def test_speeds_that_nobody_published_are_assumed_over_a_wide_range() -> None:
    for profile in ("m2-pro", "snapdragon-888"):
        speed = profile_device(profile, 1).speed
        assert speed.basis == "assumed"
        assert speed.high >= 2.9 * speed.low


def test_several_kinds_are_joined_and_counted() -> None:
    laptops, phones = named_devices("laptops-2+phones-3")
    assert laptops.ids() == ("laptop-1", "laptop-2")
    assert phones.ids()[-1] == "phone-3"


def test_a_file_states_its_own_figures_in_the_units_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(OWN_FILE)
    box = named_devices(str(path))[0]
    assert (box.count, box.memory.value, box.latency.value) == (3, 12e9, 0.02)
    assert (box.speed.low, box.speed.value, box.speed.high) == (2e12, 2.5e12, 3e12)
    assert box.speed.source == "my own run"
    assert {figure.basis for figure in box.figures().values()} == {"stated"}
    assert len(box.figures()) == len(FIGURES) == len(KEYS)


def test_a_profile_holds_where_a_file_says_nothing() -> None:
    text = b'[[device]]\nprofile = "m2-pro"\ncount = 2\nmemory_gb = 32\n'
    own = parse_devices(text)[0]
    assert (own.name, own.memory.value) == ("laptop", 32e9)
    assert own.watts_busy == profile_device("m2-pro", 2).watts_busy


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("memory = 16", "memory has no unit: write memory_gb"),
        ("watts = 30", "watts has no unit: write watts_busy or watts_idle (in W)"),
        ("wattage_busy = 30", "unknown key wattage_busy; did you mean watts_busy (in W)?"),
        ("up_megabytes = 3", "up_megabytes has no unit: write up_megabytes_per_second"),
        ("latency = 3", "latency has no unit: write latency_ms"),
        ("colour = 3", "unknown key colour"),
        ("watts_busy = -5", "-5 W; it lies between 0"),
        ("watts_busy = nan", "nan; it is a number, in W"),
        ('watts_busy = "30"', "'30'; it is a number, in W"),
        ("watts_busy = true", "True; it is a number"),
        ("availability_share = 1.5", "it lies between 0.001 and 1"),
        ("watts_busy = { value = 3, low = 4 }", "must lie in its range"),
        ("watts_busy = { low = 4 }", "write a number, or"),
        ("count = 0", "a whole number from 1"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_with_the_fix(line: str, told: str) -> None:
    count = "" if line.startswith("count") else "count = 1\n"
    with pytest.raises(DevicesRefused) as refused:
        parse_devices(f'[[device]]\nprofile = "m2-pro"\n{count}{line}\n'.encode())
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "no [[device]] table"),
        (b"device = 3", "no [[device]] table"),
        (b"[machine]\ncount = 1", "unknown 'machine'"),
        (b"[[device", "no TOML"),
        (b'[[device]]\nname = "a"\ncount = 1\n', "Nothing is guessed"),
        (b'[[device]]\nname = "a"\n', "count is missing"),
        (b'[[device]]\nprofile = "m3-pro"\ncount = 1\n', "did you mean 'm2-pro'?"),
        (b'[[device]]\nname = "A b"\nprofile = "m2-pro"\ncount = 1\n', "a name has a to z"),
        (b'[[device]]\nprofile = "m2-pro"\ncount = 1\n' * 2, "two kinds of devices are named 'laptop'"),
    ],
)
def test_a_file_that_holds_no_devices_is_refused_with_the_fix(text: bytes, told: str) -> None:
    with pytest.raises(DevicesRefused) as refused:
        parse_devices(text)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["", "laptops", "laptops-0", "tablets-3", "laptops-4+", "laptops-200000"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(DevicesRefused):
        named_devices(name)


VALUES = st.one_of(st.integers(-5, 10**7), st.floats(), st.sampled_from(["", "m2-pro", "a"]), st.booleans())


@given(st.dictionaries(st.sampled_from([*KEYS, "name", "profile", "count", "watts"]), VALUES, max_size=16))
def test_a_file_gives_devices_within_bounds_or_a_named_refusal(table: dict[str, object]) -> None:
    words = [
        f"{key} = {str(value).lower() if isinstance(value, bool | float) else value!r}"
        for key, value in table.items()
    ]
    try:
        found = parse_devices(("[[device]]\ncount = 2\n" + "\n".join(words)).encode("utf-8", "replace"))
    except DevicesRefused:
        return
    for device in found:
        assert isinstance(device, Device)
        for figure in device.figures().values():
            assert 0 <= figure.low <= figure.value <= figure.high < 1e30
