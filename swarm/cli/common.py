"""What every command shares: its common options, its log file, and how it ends.

The promise: a refusal is one plain text on standard error (with `--json` an object on standard output)
and the exit code of its class, never a traceback. 0 done, 1 wrong, 2 cannot, 130 interrupted.
"""

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, Never

import platformdirs
import typer

import swarm
from proto.errors import SwarmError
from swarm.shards.placement import check_memory

LOG_BYTES = 4 << 20
LOG_FILES_KEPT = 20
"""Log files of one command, the newest; the others go at the next start."""
DEFAULT_STATE_DIR = Path(platformdirs.user_data_dir("edgeswarm"))

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a container may take, where it is limited."""

Level = Literal["debug", "info", "warning", "error"]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"edgeswarm {swarm.__version__}")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Write JSON objects, one a line, for programs.")]
LogLevel = Annotated[Level, typer.Option("--log-level", help="How much the log file tells.")]
StateDir = Annotated[
    Path,
    typer.Option("--state-dir", metavar="DIR", help="Where keys, runs, caches and logs are kept."),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option(
        "--identity", metavar="FILE", help="The key file; made if there is none. [STATE_DIR/identity.key]"
    ),
]
Version = Annotated[
    bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
]
RunId = Annotated[str, typer.Option("--run", metavar="RUN_ID", help="The run: 64 hexadecimal digits.")]


class BadArgument(SwarmError):
    """An argument that cannot be meant."""


class CannotWrite(SwarmError):
    """A folder or file of the user's that cannot be written."""


def main_of(
    command: Callable[..., None] | Mapping[str, Callable[..., None]], name: str, examples: str
) -> Callable[[], None]:
    """The entry point of a command, or of several under one name. `examples` ends its help, a line each."""

    def main() -> None:
        epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines())
        app = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, epilog=epilog
        )
        if isinstance(command, Mapping):
            for word, part in command.items():
                app.command(word)(part)
        else:
            app.command(name, epilog=epilog)(command)
        # A script's background job starts with SIGINT ignored, gRPC writes to standard error by itself.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        try:
            app(prog_name=name)
        except SwarmError as error:
            fail(error)

    return main


def fail(error: SwarmError) -> Never:
    """Say what was refused, and leave with the error's exit code."""
    logging.getLogger("swarm").info("%s: %s", type(error).__name__, error)
    if "--json" in sys.argv[1:]:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
    else:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def say_json(**values: Any) -> None:
    """One object on standard output."""
    print(json.dumps(values), flush=True)


def say_lines(lines: Iterable[str]) -> None:
    """A table or text on standard output, without blanks at the ends of lines."""
    for line in lines:
        print(line.rstrip())


def parse_run(text: str) -> bytes:
    """The 32 bytes of a run id. Raises BadArgument."""
    if not re.fullmatch("[0-9a-f]{64}", text.lower()):
        raise BadArgument(
            f"--run {text!r}: a run id has 64 hexadecimal digits, this has {len(text)} characters; copy it "
            "from the line that the founder's `swarm-peer --new` printed"
        )
    return bytes.fromhex(text)


def parse_size(text: str) -> int:
    """Bytes of a size such as 512MiB, 4GiB, 1.5GB or 1000000. Raises BadArgument."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?\s*", text.lower())
    if match is None:
        raise BadArgument(f"{text!r} is no size; write it like 4GiB or 512MiB")
    power = "kmgt".index(match[2]) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def physical_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process is in."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return machine  # no container, or one without a limit ("max")


def memory_of(stated: int | None) -> int:
    """What the user allows, else all that is there. Raises MemoryRefused for more than that."""
    physical = physical_memory()
    if stated is not None:
        check_memory("this peer", stated, physical)
    return physical if stated is None else stated


def show_size(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def start_log(state_dir: Path, command: str, level: Level, stderr: bool = True) -> Path:
    """Log to a rotating file of this process, warnings also to standard error; the file's path.

    Raises CannotWrite.
    """
    folder = state_dir / "logs"
    path = folder / f"{command}-{os.getpid()}.log"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = sorted(folder.glob(f"{command}-*.log*"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in old[LOG_FILES_KEPT - 1 :]:
            file.unlink(missing_ok=True)
        keep = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    except OSError as error:
        raise CannotWrite(
            f"{folder} cannot be written ({error.strerror}): make the folder writable, or pass "
            "`--state-dir DIR`"
        ) from None
    keep.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.WARNING if level == "info" else level.upper())
    for ours in ("swarm", "verify", "secagg"):
        logging.getLogger(ours).setLevel(level.upper())
    root.addHandler(keep)
    if stderr:
        show = logging.StreamHandler()
        show.setLevel(logging.WARNING)
        show.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        root.addHandler(show)
    return path


def quiet_hivemind() -> None:
    """Send hivemind's log where ours goes. Call it before its processes start."""
    from hivemind.utils.logging import use_hivemind_log_handler

    use_hivemind_log_handler("nowhere")


@contextmanager
def ending_at_once() -> Iterator[None]:
    """While we clean up, another Ctrl-C ends us at once; our child processes end with us."""

    def end(number: int, _frame: FrameType | None) -> None:
        os._exit(128 + number)

    before: dict[int, Any] = {
        number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
