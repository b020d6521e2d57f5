"""A plan: which devices hold which shard of a model, who is chained to whom, and what a round should cost.

The promise: a plan that exists fits together: every shard has layers and holders, every chain has one holder
of each shard, nobody holds two shards, spares hold none. Its file is TOML or JSON with the same keys; its
first tables are those of a manifest, so that `manifest_fragment` can be copied into one.
"""

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from proto.errors import SwarmError
from swarm.shards.boundary import CODECS
from swarm.sizes import PRESETS
from verify.chains import Codec

Objective = Literal["time", "energy", "carbon", "weighted"]
Method = Literal["exact", "heuristic"]
MOST_FILE = 64 << 20
MOST_PLACES = 1_000_000
"""Holders of all shards and links of all chains, counted in a file: no plan has more."""


class PlanRefused(SwarmError):
    """A plan that does not fit together, or a file that holds none."""


@dataclass(frozen=True)
class Interval:
    """A forecast: with the figures' own values, and the middle 90 % of what their ranges allow."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """What a round should take and cost. `seconds`: while every device is there; `day_seconds`: on average
    over days on which devices come and go, each there for its share. `joules`: at the wall, of all holders
    and of the links. `gco2e`: of electricity and of the devices' share of having been made;
    `gco2e_marginal`: of electricity alone, for the devices exist anyway. `step_seconds`: one slice through
    the slowest chain, alone.
    """

    seconds: Interval
    day_seconds: Interval
    step_seconds: Interval
    joules: Interval
    gco2e: Interval
    gco2e_marginal: Interval


@dataclass(frozen=True)
class Plan:
    """`layers[s]`: decoder layers of shard s. `replicas[s]`: ids of the devices that hold it. `chains`: for
    each its path, one device of every shard; a fast device is in several. Devices' ids are `Device.ids()`.

    A round: every chain trains `slices` slices of `sequences_per_slice` sequences, each of
    `sequence_length` tokens. `gap`: how far at most the objective lies above the best there is (0.02: 2 %),
    None if nobody knows.
    """

    model: str
    sequence_length: int
    codec: Codec
    sequences_per_slice: int
    slices: int
    layers: tuple[int, ...]
    replicas: tuple[tuple[str, ...], ...]
    chains: tuple[tuple[str, ...], ...]
    spares: tuple[str, ...]
    objective: Objective
    method: Method
    gap: float | None
    forecast: Forecast

    def __post_init__(self) -> None:
        _check(self)

    @property
    def shards(self) -> int:
        return len(self.layers)

    @property
    def tokens(self) -> int:
        """Tokens that a round trains."""
        return len(self.chains) * self.slices * self.sequences_per_slice * self.sequence_length

    def chains_of(self, device: str) -> int:
        """In how many chains a device is."""
        return sum(device in path for path in self.chains)

    def manifest_fragment(self) -> str:
        """The tables of a run's manifest that this plan decides, TOML."""
        model = f'[model]\npreset = "{self.model}"\nshards = {self.shards}\n'
        if self.shards > 1:
            model += f"layers = {list(self.layers)}\n"
        return (
            f"{model}\n[data]\nsequence_length = {self.sequence_length}\n\n[work]\nslices = {self.slices}\n"
            f"sequences_per_slice = {self.sequences_per_slice}\n"
        )

    def to_toml(self) -> str:
        """The file: the manifest's tables, then the plan's own."""
        gap = "" if self.gap is None else f"gap = {self.gap!r}\n"
        lines = [
            f"{self.manifest_fragment()}\n[plan]\n"
            f'objective = "{self.objective}"\nmethod = "{self.method}"\n{gap}codec = "{self.codec}"\n'
            f"spares = {_strings(self.spares)}\n"
            f"replicas = {_rows(self.replicas)}\nchains = {_rows(self.chains)}\n",
            "[plan.forecast]  # of a round: value, and the middle 90 % of what the figures' ranges allow",
        ]
        for field in fields(Forecast):
            interval: Interval = getattr(self.forecast, field.name)
            lines.append(f"{field.name} = [{interval.value!r}, {interval.low!r}, {interval.high!r}]")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        own = asdict(self)
        model = {"preset": own.pop("model"), "shards": self.shards, "layers": own.pop("layers")}
        work = {name: own.pop(name) for name in ("slices", "sequences_per_slice")}
        data = {"sequence_length": own.pop("sequence_length")}
        own["forecast"] = {name: list(interval.values()) for name, interval in own["forecast"].items()}
        return {"model": model, "data": data, "work": work, "plan": own}


def read_plan(path: Path) -> Plan:
    """The plan in a file, JSON where its name ends so, else TOML. Raises PlanRefused."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_FILE + 1)
    except OSError as error:
        raise PlanRefused(
            f"{path} cannot be read ({error.strerror}): name a file that `swarm-plan --out` wrote"
        ) from None
    try:
        return parse_plan(raw, path.suffix == ".json")
    except PlanRefused as refusal:
        raise PlanRefused(f"{path}: {refusal}") from None


def parse_plan(raw: bytes, as_json: bool = False) -> Plan:
    """The plan that bytes spell. Raises PlanRefused."""
    if len(raw) > MOST_FILE:
        raise PlanRefused(f"a plan has at most {MOST_FILE} bytes")
    try:
        tables = json.loads(raw) if as_json else tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise PlanRefused(f"no {'JSON' if as_json else 'TOML'} ({error})") from None
    try:
        model, own = tables["model"], tables["plan"]
        forecast = {
            field.name: Interval(*(float(number) for number in own["forecast"][field.name]))
            for field in fields(Forecast)
        }
        gap = own.get("gap")
        layers = model.get("layers")
        if layers is None and model["shards"] == 1:
            layers = [PRESETS[model["preset"]].layers]
        return Plan(
            model=model["preset"],
            sequence_length=tables["data"]["sequence_length"],
            codec=own["codec"],
            sequences_per_slice=tables["work"]["sequences_per_slice"],
            slices=tables["work"]["slices"],
            layers=tuple(layers),
            replicas=tuple(map(tuple, own["replicas"])),
            chains=tuple(map(tuple, own["chains"])),
            spares=tuple(own["spares"]),
            objective=cast(Objective, own["objective"]),
            method=cast(Method, own["method"]),
            gap=None if gap is None else float(gap),
            forecast=Forecast(**forecast),
        )
    except KeyError as error:
        raise PlanRefused(f"no {error.args[0]!r}: write the plan with `swarm-plan --out`") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise PlanRefused(
            f"a value of the wrong kind ({error}): write the plan with `swarm-plan --out`"
        ) from None


def _check(plan: Plan) -> None:
    def refuse(text: str) -> None:
        raise PlanRefused(text)

    if plan.model not in PRESETS:
        refuse(f"model.preset = {plan.model!r}; a plan is for {', '.join(PRESETS)}")
    if plan.codec not in CODECS:
        refuse(f"plan.codec = {plan.codec!r}; there are {', '.join(CODECS)}")
    for name in ("sequence_length", "sequences_per_slice", "slices"):
        number = getattr(plan, name)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1 << 20:
            refuse(f"{name} = {number!r}; it is a whole number of at least 1")
    deep = PRESETS[plan.model].layers
    if not all(isinstance(own, int) and own >= 1 for own in plan.layers) or sum(plan.layers) != deep:
        refuse(f"layers = {list(plan.layers)}; {plan.model} has {deep}, and every shard has at least one")
    if len(plan.replicas) != plan.shards or not all(plan.replicas) or not plan.chains:
        refuse(
            f"{len(plan.replicas)} lists of replicas for {plan.shards} shards; each has holders and a chain"
        )
    places = sum(map(len, plan.replicas)) + sum(map(len, plan.chains))
    ids = [device for holders in plan.replicas for device in holders] + list(plan.spares)
    if places > MOST_PLACES or not all(isinstance(device, str) and device for device in ids):
        refuse(f"{places} places; a plan has at most {MOST_PLACES}, and devices' ids are texts")
    if len(set(ids)) < len(ids):
        twice = next(device for device in ids if ids.count(device) > 1)
        refuse(f"{twice} is named twice; a device holds one shard, or is a spare")
    holders = [set(own) for own in plan.replicas]
    for number, path in enumerate(plan.chains):
        if len(path) != plan.shards or any(who not in own for who, own in zip(path, holders, strict=True)):
            refuse(f"chain {number} is {list(path)}; a chain has one holder of each shard, in their order")
    unused = set().union(*holders) - {device for path in plan.chains for device in path}
    if unused:
        refuse(f"{min(unused)} holds a shard and is in no chain; make it a spare")
    if plan.objective not in ("time", "energy", "carbon", "weighted") or plan.method not in (
        "exact",
        "heuristic",
    ):
        refuse(
            f"objective = {plan.objective!r}, method = {plan.method!r}; they are time, energy, carbon or "
            "weighted, and exact or heuristic"
        )
    if plan.gap is not None and not (math.isfinite(plan.gap) and plan.gap >= 0):
        refuse(f"gap = {plan.gap!r}; a share of at least 0")
    for field in fields(Forecast):
        told: Interval = getattr(plan.forecast, field.name)
        numbers = (told.value, told.low, told.high)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or told.low > told.high:
            refuse(f"forecast.{field.name} = {list(numbers)}; value, low and high, none below 0")


def _strings(words: Sequence[str]) -> str:
    return json.dumps(list(words))


def _rows(rows: Sequence[Sequence[str]]) -> str:
    return "[\n" + "".join(f"    {_strings(row)},\n" for row in rows) + "]"
