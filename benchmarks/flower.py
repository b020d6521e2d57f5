"""Flower's SecAgg+ as a baseline: its own environment, and its rounds as a subprocess (flower_round.py).

Flower's dependencies and ours exclude each other, so it gets a virtual environment of its own, made on
first use by pip from the user's configured index: flwr as pinned here, numpy in our version.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

FLOWER = "1.41.0"
SCRIPT = Path(__file__).with_name("flower_round.py")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""One thread a process for numpy's libraries, on both sides: for our processes too. (Flower's Shamir sharing
runs in a thread pool of its own; processor time counts all threads.)"""


class FlowerUnavailable(Exception):
    """Flower's environment could not be made."""


class FlowerFailed(Exception):
    """A round of Flower's halted, or decoded something else than the mean."""


@dataclass(frozen=True)
class FlowerRound:
    """One whole SecAgg+ round: all clients and the server."""

    cpu_seconds: float
    wall_seconds: float
    survivors: int


class FlowerEnvironment:
    """The virtual environment with flwr in it, in the user's cache; nothing is done before `python`."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where it is, or is to be made."""
        self.packages = (f"flwr=={FLOWER}", f"numpy=={version('numpy')}")
        """What pip is asked for."""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        name = "-".join(("flower", FLOWER, "numpy", version("numpy"), "python", python))
        self.folder = folder or user_cache_path("edgeswarm") / name

    def python(self) -> Path:
        """Its interpreter. The first call makes it (under a minute). Raises FlowerUnavailable."""
        interpreter = self.folder / "bin" / "python"
        if not interpreter.exists():
            self._make()
        return interpreter

    def _make(self) -> None:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.", dir=self.folder.parent))
        except OSError as error:
            raise FlowerUnavailable(f"no folder for Flower's environment: {error}") from error
        try:
            self._run([sys.executable, "-m", "venv", str(made)])
            pip = [str(made / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            self._run([*pip, "--disable-pip-version-check", *self.packages])
            # Renamed when whole: an interrupted start leaves nothing behind that looks ready.
            # The interpreter does not mind; scripts such as bin/pip would, and nobody calls them.
            try:
                made.rename(self.folder)
            except OSError:
                if not (self.folder / "bin" / "python").exists():  # else another process was faster
                    raise
        except OSError as error:
            raise FlowerUnavailable(f"Flower's environment cannot be made: {error}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FlowerUnavailable(
                f"Flower ({' '.join(self.packages)}) cannot be installed in {self.folder}; it needs pip's "
                f"configured index. `{' '.join(command)}` said:\n{_end(done.stderr or done.stdout)}"
            )


def flower_round(
    members: int,
    size: int,
    dropped: int = 0,
    repeat: int = 1,
    environment: FlowerEnvironment | None = None,
) -> list[FlowerRound]:
    """`repeat` SecAgg+ rounds of `members` clients over `size` float32, after one that does not count.

    `dropped` of them leave once they have shared their keys. See flower_round.py for what is measured and
    Flower's settings. Raises FlowerUnavailable, FlowerFailed.
    """
    python = (environment or FlowerEnvironment()).python()
    given = {"members": members, "size": size, "dropped": dropped, "repeat": repeat}
    arguments = [f"--{name}={value}" for name, value in given.items()]
    done = subprocess.run(
        # -I: nothing of ours, and nothing of the user's, is importable there.
        [str(python), "-I", str(SCRIPT), *arguments],
        env={**os.environ, **ONE_THREAD, "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FlowerFailed(f"flower_round.py {' '.join(arguments)}:\n{_end(done.stderr)}")
    return [FlowerRound(**json.loads(line)) for line in done.stdout.splitlines()]


def _end(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-8:])
