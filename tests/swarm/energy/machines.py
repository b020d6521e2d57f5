"""Made-up machines for the meters' tests: sysfs trees, a clock that is set by hand, and a GPU without a
driver."""

import os
from pathlib import Path

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9354 32-Core Processor
stepping\t: 1

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9354 32-Core Processor
stepping\t: 1
"""


class Clock:
    """Seconds, by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def zone(root: Path, folder: str, name: str, microjoules: int, wraps_at: int = 262_143_328_850) -> Path:
    """A zone of powercap; the file that counts."""
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def add(counter: Path, microjoules: int) -> None:
    """Let a counter move on."""
    counter.write_text(str(int(counter.read_text()) + microjoules))


def supply(root: Path, folder: str, /, **values: object) -> Path:
    """A folder of power_supply (or hwmon) with these files."""
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    for key, value in values.items():
        (path / key).write_text(f"{value}\n")
    return path


class Boards:
    """NVML as the meter asks for it. `joules` None: a GPU without a counter."""

    def __init__(self, *joules: float | None, watts: float = 100.0) -> None:
        self.joules, self.watts = list(joules), watts

    def devices(self) -> list[str]:
        return [f"Card {index}" for index in range(len(self.joules))]

    def millijoules(self, index: int) -> int | None:
        joules = self.joules[index]
        return None if joules is None else int(joules * 1000)

    def milliwatts(self, index: int) -> int:
        return int(self.watts * 1000)


def readable_by_root_only(path: Path) -> bool:
    """Take the permission away; False where that does not help, because root reads everything."""
    path.chmod(0o000)
    return not os.access(path, os.R_OK)
