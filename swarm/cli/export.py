"""`swarm-export`: the last agreed snapshot as a folder that `transformers` loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from proto.errors import SwarmError
from swarm.cli import common
from swarm.cli.common import (
    DEFAULT_STATE_DIR,
    CannotWrite,
    IdentityFile,
    Json,
    LogLevel,
    RunId,
    StateDir,
    Version,
)
from swarm.store import RunUnknown, Store, known_runs

EXAMPLES = """
swarm-export --run RUN_ID --out my-model
swarm-export --run RUN_ID --out my-model --state-dir DIR
"""


class NothingToExport(SwarmError):
    """The run has no whole snapshot here."""


@dataclass(frozen=True)
class Exported:
    """What was written: the round and hash of the snapshot."""

    round: int
    snapshot: bytes


def export_run(state_dir: Path, run: bytes, directory: Path) -> Exported:
    """Write the last snapshot of a run that is kept in `state_dir`.

    Raises RunUnknown, NothingToExport, CannotWrite.
    """
    if run.hex() not in known_runs(state_dir):
        known = "\n".join(f"  {name}" for name in known_runs(state_dir)) or "  (none)"
        raise RunUnknown(f"run {run.hex()} is not in {state_dir}; pass --state-dir DIR. Runs there:\n{known}")
    from transformers.utils import logging as transformers_logging

    from swarm.data import load_tokenizer
    from swarm.manifest import parse_manifest
    from swarm.model import export
    from swarm.snapshot import path_of, read

    store = Store(state_dir, run, alone=False)
    try:
        history, _ = store.history(run)
    finally:
        store.close()
    path = path_of(store.snapshots, history.snapshot)
    if not path.exists():
        raise NothingToExport(
            f"the snapshot of round {history.round} is not here yet: let the peer catch up "
            f"(`swarm-peer --run {run.hex()}`), then export again"
        )
    transformers_logging.disable_progress_bar()
    manifest = parse_manifest(history.genesis.manifest)
    snapshot = read(path, history.snapshot)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        export(manifest.model, load_tokenizer(manifest.data, manifest.model), snapshot.params, directory)
    except OSError as error:
        raise CannotWrite(
            f"{directory} cannot be written ({error}): choose another folder with --out DIR"
        ) from None
    return Exported(history.round, history.snapshot)


def export_command(
    run: RunId,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder to write; made if there is none.")
    ],
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Write the last agreed model and its tokenizer for `OPTForCausalLM.from_pretrained`.

    It reads what a peer keeps on this machine, also while that peer runs.
    """
    run_id = common.parse_run(run)
    common.start_log(state_dir, "swarm-export", log_level)
    done = export_run(state_dir, run_id, out)
    if json:
        common.say_json(round=done.round, snapshot_hash=done.snapshot.hex(), out=str(out))
    else:
        print(f"round {done.round}, snapshot {done.snapshot.hex()}: written to {out}")
        print(f"try it: swarm-generate {out} --prompt TEXT")


main = common.main_of(export_command, "swarm-export", EXAMPLES)

if __name__ == "__main__":
    main()
