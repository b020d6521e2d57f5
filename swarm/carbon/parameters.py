"""Every input of the comparison: value, range, unit, source. They are in parameters.csv.

The promise: a figure is `paper` (arXiv 2507.01803 states it), `source` (another public source does) or
`assumed` (nobody was found who does; the range is then the statement). The paper's own tables of joules and
embodied carbon could not be had, and no figure here pretends to be from them. A value outside its range is
refused. No other file of the package holds a figure about the world.

>>> defaults()["laptop.count"], with_values(defaults(), ["cloud.pue=1.1"])["cloud.pue"]
(4.0, 1.1)
"""

import csv
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, cast

from proto.errors import SwarmError

Basis = Literal["paper", "source", "assumed"]
Role = Literal["work", "choice", "uncertain"]
Values = Mapping[str, float]


class UnknownParameter(SwarmError):
    """A name that no parameter has."""


class OutOfRange(SwarmError):
    """A value outside its parameter's range."""


@dataclass(frozen=True)
class Parameter:
    """`role`: what is computed; what its user chooses; what is uncertain, and drawn at random."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    basis: Basis
    role: Role
    source: str


@dataclass(frozen=True)
class Model:
    """OPT (arXiv 2205.01068). `parameters` are the paper's nominal ones."""

    name: str
    parameters: float
    hidden: int


MODELS = {"125m": Model("opt-125m", 125e6, 768), "1.3b": Model("opt-1.3b", 1.3e9, 2048)}
CLOUDS = {"a5000": "NVIDIA RTX A5000", "a100": "NVIDIA A100 SXM", "h100": "NVIDIA H100 SXM"}
EDGES = {"laptop": "MacBook Pro, M2 Pro", "phone": "Snapdragon 888 phone"}


def read_parameters(package: str) -> tuple[Parameter, ...]:
    """The inputs in a package's parameters.csv."""
    text = files(package).joinpath("parameters.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        Parameter(
            row["name"],
            float(row["value"]),
            float(row["low"]),
            float(row["high"]),
            row["unit"],
            cast(Basis, row["basis"]),
            cast(Role, row["role"]),
            row["source"],
        )
        for row in rows
    )


PARAMETERS = read_parameters("swarm.carbon")
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


@dataclass(frozen=True)
class Scenario:
    """What is counted, and how: changes to the parameters' own values, each within its range."""

    name: str
    says: str
    cloud: str
    changes: Values


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "paper",
            "what the paper's instruments see: the GPU's board (nvidia-smi) and the devices, without "
            "chargers, cooling, servers, waiting, loss or checks; A5000 in fp32",
            "a5000",
            {
                "cloud.pue": 1.0,
                "cloud.server-watts": 0.0,
                "laptop.charger": 1.0,
                "phone.charger": 1.0,
                "laptop.redo": 0.0,
                "phone.redo": 0.0,
                "edge.checks": 0.0,
                "edge.idle-charged": 0.0,
            },
        ),
        Scenario(
            "full", "everything on both sides, at the parameters' own values; A5000 in fp32", "a5000", {}
        ),
        Scenario(
            "tensor",
            "as full, and the GPU uses its tensor cores (fp16), which laptops' and phones' GPUs do not have",
            "a5000",
            {"a5000.peak-tflops": 111.1},
        ),
        Scenario(
            "contrary",
            "the evidence the other way: an A100 in fp16 in a good data centre, whose carbon is 96 % use "
            "(arXiv 2509.00093); phones at 12 times its computing energy, on chargers 2.9 times worse "
            "than a PUE of 1.1 (CACM 2024, ML on smartphones vs. the cloud)",
            "a100",
            {
                "cloud.pue": 1.1,
                "cloud.server-watts": 0.0,
                "cloud.server-kg": 0.0,
                "a100.embodied-kg": 181.0,
                "cloud.utilisation": 0.95,
                "phone.reached": 0.2,
                "phone.thermal": 0.4,
                "phone.watts": 5.3,
                "phone.charger": 3.19,
                "edge.joules-per-megabyte": 1.0,
            },
        ),
    )
}


def defaults() -> dict[str, float]:
    """The parameters' own values."""
    return {parameter.name: float(parameter.value) for parameter in PARAMETERS}


def scenario_values(scenario: Scenario, stated: Values) -> dict[str, float]:
    """A scenario's values; what the user states goes before them."""
    return {**defaults(), **scenario.changes, **stated}


def with_values(values: Values, settings: Iterable[str]) -> dict[str, float]:
    """`values` with each "name=value" in its place. Raises UnknownParameter, OutOfRange."""
    return {**values, **stated_values(settings)}


def stated_values(settings: Iterable[str]) -> dict[str, float]:
    """What "name=value" says. Raises UnknownParameter, OutOfRange."""
    found = {}
    for setting in settings:
        name, separator, text = (part.strip() for part in setting.partition("="))
        parameter = BY_NAME.get(name)
        if parameter is None or not separator:
            near = difflib.get_close_matches(name, BY_NAME, 3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise UnknownParameter(
                f"--set {setting!r}: write name=value with a name that `--parameters` lists{hint}"
            )
        try:
            number = float(text)
        except ValueError:
            raise OutOfRange(
                f"--set {setting!r}: {text!r} is no number; write it like {name}={parameter.value:g}"
            ) from None
        found[name] = checked(parameter, number)
    return found


def checked(parameter: Parameter, value: float) -> float:
    """The value, if it lies in the parameter's range. Raises OutOfRange."""
    if not (math.isfinite(value) and parameter.low <= value <= parameter.high):
        raise OutOfRange(
            f"{parameter.name} = {value:g} {parameter.unit}".rstrip()
            + f" is outside its range, {parameter.low:g} to "
            f"{parameter.high:g} ({parameter.source}): give a value within it"
        )
    if (
        parameter.role == "work"
        and parameter.name.split(".")[-1] in ("batch", "sequence", "microbatches", "count")
        and value != int(value)
    ):
        raise OutOfRange(f"{parameter.name} = {value:g}: must be a whole number")
    return value
