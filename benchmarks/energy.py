"""What metering costs, and what the model says of this machine under three loads.

`sampler_share`: processor time of `keep_sampling` at its own pace over wall time, with this machine's meters
and with the most a machine has (two sockets with memory in files, eight GPUs); the larger one. The model's
joules are set against CPU time; whether they are right nobody can tell where there is no counter.
"""

import asyncio
import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Report, Row, command_line, progress
from swarm.energy.account import SAMPLE_SECONDS, EnergyAccount, keep_sampling
from swarm.energy.choose import choose
from swarm.energy.cpu_model import (
    CpuModel,
    machine_busy_seconds,
    process_busy_seconds,
    read_processor,
    table_watts,
)
from swarm.energy.nvidia import Nvidia
from swarm.energy.powercap import Rapl
from swarm.energy.reading import Kind, Meter, MeterFailed, between

GOALS = {"sampler_share": ("<=", 0.01)}
GPUS = 8


class Boards:
    """Eight GPUs whose driver answers at once."""

    def devices(self) -> list[str]:
        return ["made up"] * GPUS

    def millijoules(self, index: int) -> int:
        return int(time.monotonic() * 300_000)

    def milliwatts(self, index: int) -> int:
        return 300_000


def measure(quick: bool) -> Report:
    """The sampler, then the model."""
    seconds, times = (10.0, 1) if quick else (30.0, 3)
    choice = choose()
    own, most = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        largest: tuple[Meter, ...] = (Rapl(_sockets(Path(folder))), Nvidia(Boards()))
        for _ in range(times):
            progress(f"sampling for twice {seconds:g} s")
            own.append(sampler_share(choice.meters, seconds))
            most.append(sampler_share(largest, seconds))
        reads = [_read_seconds(meter) for meter in (*choice.meters, *largest)]
    rows = [
        Row("sampler, this machine's meters", "of a core", tuple(own)),
        Row("sampler, 2 sockets and 8 GPUs", "of a core", tuple(most)),
        Row("one reading, slowest meter", "us", (max(reads) * 1e6,)),
    ]
    figures = {
        "sampler_share": max(own + most),
        "measured": float(all(meter.kind is Kind.MEASURED for meter in choice.meters)),
    }
    notes = [
        f"Sampled every {SAMPLE_SECONDS:g} s. Meters of this machine: "
        + "; ".join(f"{meter.name} ({meter.kind})" for meter in choice.meters)
    ]
    found, said = modelled(5.0 if quick else 20.0)
    return Report("energy", figures | found, GOALS, (*rows, *said), (*notes, *NOTES))


NOTES = (
    "model_watts: of the whole machine by the table, between its idle and busy ends, while 0, half and "
    "all of its processors compute, as if nothing else ran; `with all others` counts every program, as a "
    "counter does.",
    "joules_per_cpu_second: what the model charges a process; model_processes_over_machine: the computing "
    "processes' sum over the machine's while all processors compute. No counter here can confirm either.",
)


def sampler_share(meters: Sequence[Meter], seconds: float) -> float:
    """Processor time of sampling these meters, over wall time."""

    async def sample() -> None:
        account = EnergyAccount(meters, joules_per_megabyte=0.05)
        task = asyncio.create_task(keep_sampling(account))
        await asyncio.sleep(seconds)
        task.cancel()

    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(sample())
    return (time.process_time() - cpu) / (time.perf_counter() - began)


def modelled(seconds: float) -> tuple[dict[str, float], list[Row]]:
    """The model's watts and joules a CPU second under three loads; nothing if the processor is not in the
    table."""
    try:
        processor = read_processor()
        watts = table_watts(processor)
        machine_busy_seconds()
    except MeterFailed as error:
        progress(f"no model here: {error}")
        return {}, []
    figures, rows = {"joules_per_cpu_second": watts.busy / processor.threads}, []
    for share in (0.0, 0.5, 1.0):
        workers = math.ceil(processor.threads * share)
        progress(f"{workers} of {processor.threads} processors compute for {seconds:g} s")
        children = [multiprocessing.Process(target=_compute, args=(seconds,)) for _ in range(workers)]
        everybody = CpuModel(watts, processor.threads)
        alone = CpuModel(watts, processor.threads, busy_seconds=process_busy_seconds)
        process = CpuModel(watts, processor.threads, "process")
        meters = (everybody, alone, process)
        before, cpu = [meter.read() for meter in meters], process_busy_seconds()
        for child in children:
            child.start()
        time.sleep(seconds)
        for child in children:
            child.join()
        after, cpu = [meter.read() for meter in meters], process_busy_seconds() - cpu
        wall = after[0].seconds - before[0].seconds
        machine, own, charged = (between(a, b).joules or 0.0 for a, b in zip(before, after, strict=True))
        said = f"{workers} computing, {cpu:.1f} CPU s in {wall:.1f} s"
        rows.append(Row(f"{said}: these alone", "W", (own / wall,)))
        rows.append(Row(f"{said}: with all others", "W", (machine / wall,)))
        figures[f"model_watts_{workers}_of_{processor.threads}"] = own / wall
        if share == 1.0:
            figures["model_processes_over_machine"] = charged / machine
    return figures, rows


def _compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))


def _sockets(root: Path) -> Path:
    """Two sockets with memory, as powercap shows them; the counters stand still."""
    for socket in range(2):
        for folder, name in (
            (f"intel-rapl:{socket}", f"package-{socket}"),
            (f"intel-rapl:{socket}:0", "dram"),
        ):
            path = root / folder
            path.mkdir()
            (path / "name").write_text(name)
            (path / "max_energy_range_uj").write_text("262143328850")
            (path / "energy_uj").write_text("1000000")
    return root


def _read_seconds(meter: Meter, times: int = 200) -> float:
    began = time.process_time()
    for _ in range(times):
        meter.read()
    return (time.process_time() - began) / times


def main() -> None:
    """`python -m benchmarks.energy`."""
    command_line("energy", measure, __doc__ or "")


if __name__ == "__main__":
    main()
