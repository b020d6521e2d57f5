"""`swarm-export`: the last agreed snapshot as a folder that `transformers` loads; shards are joined."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

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
from swarm.cli.shard_sources import ATTEMPTS, Fetch, NothingToExport, fetching, found_shards
from swarm.manifest import Manifest
from swarm.rules import read_terms
from swarm.snapshot import SnapshotCorrupt, read
from swarm.store import RunUnknown, Store, known_runs
from verify.record import History

EXAMPLES = """
swarm-export --run RUN_ID --out my-model
swarm-export --run RUN_ID --out my-model --state-dir DIR
swarm-export --run RUN_ID --out my-model --join MULTIADDR     (fetches the shards that are not here)
swarm-export --run RUN_ID --out my-model --from OTHER_STATE_DIR
"""


@dataclass(frozen=True)
class Exported:
    """What was written: the round and hash of the snapshot, and how many shards it was joined from."""

    round: int
    snapshot: bytes
    shards: int


def export_run(
    state_dir: Path,
    run: bytes,
    directory: Path,
    others: Sequence[Path] = (),
    fetch: Fetch | None = None,
) -> Exported:
    """Write the model after the last record that `state_dir` has of a run; shards are joined.

    What is not in `state_dir` is looked for in `others`, peers' state folders, and then asked of `fetch`.
    Raises RunUnknown, NothingToExport, CannotWrite, SnapshotCorrupt.
    """
    for _ in range(ATTEMPTS - 1):
        history, own = _history(state_dir, run)
        try:
            return _export(history, own, directory, others, fetch)
        except (NothingToExport, SnapshotCorrupt):
            # Peers keep few snapshots: those of this record may have gone while the run moved on.
            if fetch is None or _history(state_dir, run)[0].round == history.round:
                raise
    return _export(*_history(state_dir, run), directory, others, fetch)


def _export(
    history: History, own: Path, directory: Path, others: Sequence[Path], fetch: Fetch | None
) -> Exported:
    manifest = read_terms(history.genesis)
    with found_shards(history, manifest, own, others, fetch) as files:
        names = history.shards or (history.snapshot,)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _write(manifest, list(zip(files, names, strict=True)), directory)
        except OSError as error:
            raise CannotWrite(
                f"{directory} cannot be written ({error}): choose another folder with --out DIR"
            ) from None
    return Exported(history.round, history.snapshot, len(names))


def _history(state_dir: Path, run: bytes) -> tuple[History, Path]:
    """The run's history as it is kept in a state folder, and the run's own folder there."""
    if run.hex() not in known_runs(state_dir):
        known = "\n".join(f"  {name}" for name in known_runs(state_dir)) or "  (none)"
        raise RunUnknown(f"run {run.hex()} is not in {state_dir}; pass --state-dir DIR. Runs there:\n{known}")
    store = Store(state_dir, run, alone=False)
    try:
        return store.history(run)[0], store.directory
    finally:
        store.close()


def _write(manifest: Manifest, files: list[tuple[Path, bytes]], directory: Path) -> None:
    """Imports torch, which a fork by then must not."""
    from transformers.utils import logging as transformers_logging

    from swarm.data import load_tokenizer
    from swarm.model import export
    from swarm.shards.slicing import export_joined

    transformers_logging.disable_progress_bar()
    tokenizer = load_tokenizer(manifest.data, manifest.model)
    vectors = [read(file, name).params for file, name in files]
    if len(vectors) == 1:
        export(manifest.model, tokenizer, vectors[0], directory)
    else:
        export_joined(manifest.model, tokenizer, vectors, directory)


def export_command(
    run: RunId,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder to write; made if there is none.")
    ],
    others: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="DIR", help="Another peer's state folder. Repeatable."),
    ] = None,
    join: Annotated[
        list[str] | None,
        typer.Option(
            "--join", metavar="MULTIADDR", help="An entry node, to fetch shards from peers. Repeatable."
        ),
    ] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Write the last agreed model and its tokenizer for `OPTForCausalLM.from_pretrained`.

    It reads what a peer keeps on this machine, also while that peer runs. Of a model in shards a peer
    keeps its own: the others come from --from, or from the peers that --join leads to.
    """
    run_id = common.parse_run(run)
    common.start_log(state_dir, "swarm-export", log_level)
    with fetching(join or (), run_id) as fetch:
        done = export_run(state_dir, run_id, out, others or (), fetch)
    if json:
        common.say_json(round=done.round, snapshot_hash=done.snapshot.hex(), shards=done.shards, out=str(out))
    else:
        joined = f", joined from {done.shards} shards" if done.shards > 1 else ""
        print(f"round {done.round}, snapshot {done.snapshot.hex()}{joined}: written to {out}")
        print(f"try it: swarm-generate {out} --prompt TEXT")


main = common.main_of(export_command, "swarm-export", EXAMPLES)

if __name__ == "__main__":
    main()
