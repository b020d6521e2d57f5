"""Devices as plain data: what each can do, draws and cost to make, every figure with its source.

The promise: a figure is a value with a range, a basis (`paper`, `source`, `assumed`; `stated`: by the user)
and its source. A profile's figures are swarm-carbon's own inputs, and swarm/plan/parameters.csv for what that
has not. What nobody published (how fast an M2 Pro or a Snapdragon 888 trains) is `assumed` over a wide range
and says so. A device file has the unit in each key; a key without one, or an unknown one, is refused with
the fix.

>>> [(device.name, device.count) for device in named_devices("laptops-4")]
[('laptop', 4)]
>>> named_devices("phones-15")[0].watts_busy.value
4.0
"""

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from proto.errors import SwarmError
from swarm.carbon import parameters as carbon
from swarm.carbon.parameters import Parameter
from swarm.energy.grid import SECONDS_PER_YEAR

Basis = Literal["paper", "source", "assumed", "stated"]
STRONGEST_FIRST: tuple[Basis, ...] = ("stated", "paper", "source", "assumed")
MOST_FILE = 1 << 20
MOST_DEVICES = 100_000
MEGA, GIGA, TERA = 1e6, 1e9, 1e12

OWN = carbon.read_parameters("swarm.plan")
PARAMETERS: Mapping[str, Parameter] = {**carbon.BY_NAME, **{p.name: p for p in OWN}}
"""swarm-carbon's inputs, and those of swarm/plan/parameters.csv."""


class DevicesRefused(SwarmError):
    """Devices that cannot be: an unknown name or key, a missing unit, a figure out of bounds, no figure."""


@dataclass(frozen=True)
class Figure:
    """A number about the world, in SI units: its value, the range it may lie in, and how it is known."""

    value: float
    low: float
    high: float
    basis: Basis
    source: str

    def times(self, other: "Figure", source: str | None = None) -> "Figure":
        """The product: as well known as the weaker of both."""
        weaker = max(self.basis, other.basis, key=STRONGEST_FIRST.index)
        return Figure(
            self.value * other.value,
            self.low * other.low,
            self.high * other.high,
            weaker,
            source or f"{self.source}; {other.source}",
        )

    def scaled(self, factor: float) -> "Figure":
        """The same in another unit."""
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True)
class Device:
    """`count` devices of one kind. All figures are of one device.

    `memory`: bytes that a run may take. `speed`: FLOP/s sustained in training, before `thermal`, the share of
    it kept under lasting load. `watts_*`: what the device draws; `wall`: joules at the wall for each of them.
    `up`, `down`: bytes a second; `latency`: seconds a hop; `joules_per_byte`: sent or received, before
    `wall`. `availability`: share of the day it is there; `redo`: share of its work that is done again for
    those who went.
    `embodied_kg`: CO2e of making it, `lifespan`: seconds it lives, `used`: share of them it does anything.
    """

    name: str
    count: int
    memory: Figure
    speed: Figure
    thermal: Figure
    watts_busy: Figure
    watts_idle: Figure
    wall: Figure
    up: Figure
    down: Figure
    latency: Figure
    joules_per_byte: Figure
    availability: Figure
    redo: Figure
    embodied_kg: Figure
    lifespan: Figure
    used: Figure

    def ids(self) -> tuple[str, ...]:
        """A name for each: laptop-1, laptop-2, ..."""
        return tuple(f"{self.name}-{number}" for number in range(1, self.count + 1))

    def figures(self) -> dict[str, Figure]:
        """Every figure by its field."""
        return {name: getattr(self, name) for name in FIGURES}


FIGURES = tuple(field.name for field in fields(Device) if field.type is Figure)


@dataclass(frozen=True)
class Key:
    """A key of a device file: the field it gives, the factor to SI, and its bounds in the file's own unit."""

    field: str
    unit: str
    factor: float
    low: float
    high: float


KEYS = {
    "memory_gb": Key("memory", "GB", GIGA, 0.1, 1e5),
    "train_tflops": Key("speed", "TFLOP/s sustained in training", TERA, 1e-6, 1e5),
    "thermal_share": Key("thermal", "of the speed, kept under lasting load", 1.0, 0.01, 1.0),
    "watts_busy": Key("watts_busy", "W", 1.0, 0.0, 1e5),
    "watts_idle": Key("watts_idle", "W", 1.0, 0.0, 1e5),
    "wall_joules_per_joule": Key("wall", "J at the wall per J of the device", 1.0, 1.0, 10.0),
    "up_megabytes_per_second": Key("up", "MB/s", MEGA, 1e-4, 1e6),
    "down_megabytes_per_second": Key("down", "MB/s", MEGA, 1e-4, 1e6),
    "latency_ms": Key("latency", "ms", 1e-3, 0.0, 1e5),
    "joules_per_megabyte": Key("joules_per_byte", "J/MB sent or received", 1 / MEGA, 0.0, 1e3),
    "redo_share": Key("redo", "of its work, done again for devices that went", 1.0, 0.0, 10.0),
    "availability_share": Key("availability", "of the day", 1.0, 0.001, 1.0),
    "embodied_kg": Key("embodied_kg", "kg CO2e", 1.0, 0.0, 1e6),
    "lifespan_years": Key("lifespan", "years", SECONDS_PER_YEAR, 0.1, 100.0),
    "used_share": Key("used", "of its lifespan, doing anything", 1.0, 0.001, 1.0),
}
"""What a device file may say of a device, besides name, count and profile."""


@dataclass(frozen=True)
class Profile:
    """A shipped kind of device: the name in plans, and the prefix of its parameters."""

    name: str
    says: str
    prefix: str
    cloud: bool


PROFILES = {
    "a5000": Profile("a5000", carbon.CLOUDS["a5000"], "a5000", True),
    "a100": Profile("a100", carbon.CLOUDS["a100"], "a100", True),
    "h100": Profile("h100", carbon.CLOUDS["h100"], "h100", True),
    "m2-pro": Profile("laptop", carbon.EDGES["laptop"], "laptop", False),
    "snapdragon-888": Profile("phone", carbon.EDGES["phone"], "phone", False),
}
FLEETS = {
    "laptops": "m2-pro",
    "phones": "snapdragon-888",
    "a5000s": "a5000",
    "a100s": "a100",
    "h100s": "h100",
}
"""What `--devices NAME-COUNT` may name; the paper's are laptops-4 and phones-15."""


def parameter_figure(name: str) -> Figure:
    """An input by its name, in the unit of its file. What is a choice, and not uncertain, has no range."""
    p = PARAMETERS[name]
    low, high = (p.low, p.high) if p.role == "uncertain" else (p.value, p.value)
    return Figure(p.value, low, high, p.basis, f"{p.source} [{name}]")


@cache
def profile_device(profile: str, count: int) -> Device:
    """`count` devices of a shipped profile. Raises DevicesRefused."""
    if profile not in PROFILES:
        near = difflib.get_close_matches(profile, PROFILES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DevicesRefused(f"profile {profile!r}: there are {', '.join(PROFILES)}{hint}")
    kind = PROFILES[profile]
    side = "cloud" if kind.cloud else kind.prefix

    def own(key: str) -> Figure:
        return parameter_figure(f"{kind.prefix}.{key}")

    def shared(key: str) -> Figure:
        return parameter_figure(f"{side}.{key}")

    link = parameter_figure("cloud.bandwidth" if kind.cloud else "edge.bandwidth").scaled(MEGA)
    latency = parameter_figure("cloud.latency-ms" if kind.cloud else "edge.latency-ms").scaled(1e-3)
    server = parameter_figure("cloud.server-watts")
    return Device(
        name=kind.name,
        count=count,
        memory=own("memory-gb").scaled(GIGA),
        speed=own("peak-tflops").times(own("reached")).scaled(TERA),
        thermal=shared("thermal"),
        watts_busy=_sum(own("watts"), server) if kind.cloud else own("watts"),
        watts_idle=_sum(own("idle-watts"), server)
        if kind.cloud
        else own("idle-watts").times(parameter_figure("edge.idle-charged")),
        wall=parameter_figure("cloud.pue") if kind.cloud else own("charger"),
        up=link,
        down=link,
        latency=latency,
        joules_per_byte=parameter_figure(
            "cloud.joules-per-megabyte" if kind.cloud else "edge.joules-per-megabyte"
        ).scaled(1 / MEGA),
        availability=shared("availability"),
        redo=shared("redo"),
        embodied_kg=_sum(own("embodied-kg"), parameter_figure("cloud.server-kg"))
        if kind.cloud
        else own("embodied-kg"),
        lifespan=shared("lifetime-years").scaled(KEYS["lifespan_years"].factor),
        used=parameter_figure("cloud.utilisation")
        if kind.cloud
        else _capped(_sum(own("own-use"), own("availability"))),
    )


def named_devices(text: str) -> tuple[Device, ...]:
    """Devices by a name such as laptops-4, phones-15, or several joined by `+`; else those of a file.

    Raises DevicesRefused.
    """
    found: list[Device] = []
    for part in text.split("+"):
        match = re.fullmatch(r"([a-z0-9]+)-(\d{1,6})", part.strip())
        if match is None or match[1] not in FLEETS:
            if Path(text).suffix == ".toml" or Path(text).exists():
                return read_devices(Path(text))
            names = ", ".join(f"{name}-COUNT" for name in FLEETS)
            raise DevicesRefused(f"--devices {text!r}: give {names}, several joined by +, or a TOML file")
        found.append(profile_device(FLEETS[match[1]], _count(int(match[2]), part)))
    return _checked(found)


def read_devices(path: Path) -> tuple[Device, ...]:
    """The devices of a TOML file. Raises DevicesRefused."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_FILE + 1)
    except OSError as error:
        raise DevicesRefused(
            f"{path} cannot be read ({error.strerror}): name an existing TOML file of devices"
        ) from None
    try:
        return parse_devices(raw)
    except DevicesRefused as refusal:
        raise DevicesRefused(f"{path}: {refusal}") from None


def parse_devices(raw: bytes) -> tuple[Device, ...]:
    """The devices that the bytes of a TOML file spell: a `[[device]]` table for each kind.

    Keys: `name`, `count`, `profile` (whose figures hold where the table says nothing), and KEYS, each a
    number or {value, low, high, source}. Raises DevicesRefused.
    """
    if len(raw) > MOST_FILE:
        raise DevicesRefused(f"a device file has at most {MOST_FILE} bytes; shorten it")
    try:
        tables = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DevicesRefused(f"no TOML ({error}); write a [[device]] table for each kind") from None
    extra = [key for key in tables if key != "device"]
    entries = tables.get("device")
    if extra or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        what = f"unknown {extra[0]!r}" if extra else "no [[device]] table"
        raise DevicesRefused(f"{what}; a device file has a [[device]] table for each kind, and nothing else")
    return _checked([_device(entry, number) for number, entry in enumerate(entries, 1)])


def _device(entry: Mapping[str, Any], number: int) -> Device:
    entry = dict(entry)
    name, profile = entry.pop("name", None), entry.pop("profile", None)
    where = f"device {number}" + (f" ({name})" if isinstance(name, str) else "")
    if profile is not None and not isinstance(profile, str):
        raise DevicesRefused(f"{where}: profile = {profile!r}; name one of {', '.join(PROFILES)}")
    if "count" not in entry:
        raise DevicesRefused(f"{where}: count is missing; say how many there are, as in `count = 4`")
    count = _count(entry.pop("count"), where)
    if name is None and profile is not None:
        name = profile_device(profile, count).name
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
        raise DevicesRefused(
            f"{where}: name = {name!r}; a name has a to z, digits, _ and -, starts with a letter and has at "
            "most 32 characters"
        )
    stated: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in KEYS:
            raise DevicesRefused(f"{where}: {_unknown(key)}")
        stated[KEYS[key].field] = _figure(value, KEYS[key], key, where)
    if profile is not None:
        return replace(profile_device(profile, count), name=name, **stated)
    missing = [key for key, known in KEYS.items() if known.field not in stated]
    if missing:
        raise DevicesRefused(
            f"{where}: no {', '.join(missing)}; state them ({missing[0]} in {KEYS[missing[0]].unit}), or "
            f"name a profile whose figures hold instead ({', '.join(PROFILES)}). Nothing is guessed"
        )
    return Device(name=name, count=count, **stated)


def _unknown(key: str) -> str:
    """What is wrong with a key that a device has not, and which was meant."""
    stem = key.split("_")[0]
    meant = [known for known in KEYS if known.startswith(stem)]
    if meant and key in (known.rsplit("_", at)[0] for known in KEYS for at in (1, 2, 3)):
        return f"{key} has no unit: write {' or '.join(meant)} (in {KEYS[meant[0]].unit})"
    near = difflib.get_close_matches(key, KEYS, 1) or meant[:1]
    hint = f"; did you mean {near[0]} (in {KEYS[near[0]].unit})?" if near else ""
    return f"unknown key {key}{hint}; there are name, count, profile, {', '.join(KEYS)}"


def _figure(value: Any, key: Key, name: str, where: str) -> Figure:
    source = "stated by the user"
    low = high = value
    if isinstance(value, dict):
        unknown = [word for word in value if word not in ("value", "low", "high", "source")]
        if unknown or "value" not in value:
            raise DevicesRefused(
                f"{where}: {name} = {value!r}; write a number, or {{ value = 3, low = 2, high = 5, "
                'source = "..." }'
            )
        value, low, high, source = (
            value["value"],
            value.get("low", value["value"]),
            value.get("high", value["value"]),
            value.get("source", source),
        )
    for number in (value, low, high):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise DevicesRefused(
                f"{where}: {name} = {number!r}; it is a number, in {key.unit}, as in `{name} = 3`"
            )
        if not key.low <= number <= key.high:
            raise DevicesRefused(
                f"{where}: {name} = {number:g} {key.unit}; it lies between {key.low:g} and {key.high:g}: "
                "correct it, or check its unit"
            )
    if not low <= value <= high or not isinstance(source, str):
        raise DevicesRefused(
            f"{where}: {name}: value {value:g} must lie in its range, {low:g} to {high:g}; a source is text"
        )
    return Figure(
        float(value) * key.factor, float(low) * key.factor, float(high) * key.factor, "stated", source
    )


def _count(count: Any, where: str) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_DEVICES:
        raise DevicesRefused(f"{where}: count = {count!r}; it is a whole number from 1 to {MOST_DEVICES}")
    return count


def _checked(devices: list[Device]) -> tuple[Device, ...]:
    names = [device.name for device in devices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DevicesRefused(f"two kinds of devices are named {twice!r}: give each a name of its own")
    if not devices or sum(device.count for device in devices) > MOST_DEVICES:
        raise DevicesRefused(
            f"{sum(device.count for device in devices)} devices; give 1 to {MOST_DEVICES} of them"
        )
    return tuple(devices)


def _sum(a: Figure, b: Figure) -> Figure:
    weaker = max(a.basis, b.basis, key=STRONGEST_FIRST.index)
    return Figure(a.value + b.value, a.low + b.low, a.high + b.high, weaker, f"{a.source}; {b.source}")


def _capped(figure: Figure) -> Figure:
    """A share: at most 1."""
    return replace(figure, value=min(1.0, figure.value), low=min(1.0, figure.low), high=min(1.0, figure.high))
