"""`swarm-steward`: what a run's stewards sign: invitations, and the record that restarts a paused run.

A recovery record takes the place of the next round record and changes the roster only. Each steward
runs `recover` with the same peers to keep; whoever holds enough signatures sends it to the peers, which
take it only while they themselves see the run paused. Two recoveries of one steward at one height are
evidence against that steward.
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from proto.errors import MessageRefused, SwarmError
from swarm.cli import common
from swarm.cli.common import DEFAULT_STATE_DIR, IdentityFile, Json, LogLevel, RunId, StateDir, Version
from verify.identity import Identity, public_key_bytes
from verify.record import Decided, History, Invitation, Recovery
from verify.statement import open_signed, sign

EXAMPLES = """
swarm-steward invite --run RUN_ID --peer 12D3KooW... --out invitation.bin
swarm-peer --join MULTIADDR --run RUN_ID --invitation invitation.bin
swarm-steward recover --join MULTIADDR --run RUN_ID --keep 12D3KooWa... --keep 12D3KooWb...
swarm-steward recover ... --out mine.bin        (a first steward of several)
swarm-steward recover ... --with mine.bin       (the last one: sends it)
"""


class NotSteward(SwarmError):
    """The key is not that of a steward of the run."""


class RecoveryNotTaken(SwarmError):
    """No peer took the recovery record."""

    exit_code = 1


def invite(
    run: RunId,
    peer: Annotated[str, typer.Option("--peer", metavar="PEERID", help="Who may join.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the invitation.")],
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Sign that a peer may join a run with admission = "invited"."""
    common.start_log(state_dir, "swarm-steward", log_level)
    public_key_bytes(peer)
    signer = Identity.load(identity or state_dir / "identity.key")
    _write(out, sign(signer, Invitation(run=common.parse_run(run), peer=peer)))
    _say(json, f"{out}: give it to {peer}, for `swarm-peer --invitation {out.name}`", file=str(out))


def recover(
    join: Annotated[
        list[str], typer.Option("--join", metavar="MULTIADDR", help="An entry node. Repeatable.")
    ],
    run: RunId,
    keep: Annotated[
        list[str], typer.Option("--keep", metavar="PEERID", help="A peer of the new roster. Repeatable.")
    ],
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="Another steward's signature. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write this signature for the others.")
    ] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Restart a paused run with the peers that are left: once enough stewards signed, it is sent."""
    from swarm.net.dht import start_dht

    run_id = common.parse_run(run)
    common.start_log(state_dir, "swarm-steward", log_level)
    for peer in keep:
        public_key_bytes(peer)
    signer = Identity.load(identity or state_dir / "identity.key")
    signatures = [_read(path) for path in others or []]
    common.quiet_hivemind()
    dht = start_dht(None, join)
    try:
        said = asyncio.run(_recover(dht, run_id, tuple(sorted(set(keep))), signer, signatures, out))
    finally:
        with common.ending_at_once():
            dht.shutdown()
    _say(json, said, members=sorted(set(keep)))


async def _recover(
    dht: Any, run: bytes, keep: tuple[str, ...], signer: Identity, signatures: list[bytes], out: Path | None
) -> str:
    from swarm.manifest import SECURE_PEERS, parse_manifest
    from swarm.net.public import PublicClient
    from swarm.net.rpc import Refused, Unreachable

    records = await dht.lookup(run)
    history: History | None = None
    for record in records.values():
        try:
            async with PublicClient(record) as client:
                seen = History.begin((await client.genesis())[0], run)
                while served := await client.records(seen.round + 1):
                    before = seen.round
                    for raw in served:
                        decided = Decided.parse(raw)
                        seen = seen.extend(raw) if decided.body else seen
                    if seen.round == before:
                        break
        except (Unreachable, Refused, MessageRefused):
            continue
        history = seen if history is None or seen.round > history.round else history
    if history is None:
        raise RecoveryNotTaken(
            f"no peer of run {run.hex()} answers: at least one must be up to take a recovery"
        )
    genesis = history.genesis
    if signer.peer_id not in genesis.stewards:
        raise NotSteward(f"{signer.peer_id} is not a steward of this run ({', '.join(genesis.stewards)} are)")
    secure = parse_manifest(genesis.manifest).aggregation.mode == "secure"
    if secure and len(set(keep)) < SECURE_PEERS:
        raise common.BadArgument(
            f"--keep names {len(set(keep))} peers: this run masks its updates and needs {SECURE_PEERS}; wait "
            "until more are back"
        )
    shards = tuple(history.shard_of(peer) for peer in keep) if history.shards else ()
    recovery = Recovery(run=run, round=history.round + 1, previous=history.head, members=keep, shards=shards)
    mine = sign(signer, recovery)
    if out is not None:
        _write(out, mine)
    votes = {mine, *signatures}
    signers = {s.signer for s in (open_signed(raw, Recovery) for raw in votes) if s.message == recovery}
    if len(signers) < genesis.recovery_threshold:
        return (
            f"{len(signers)} of {genesis.recovery_threshold} stewards signed recovery {recovery.round}: the "
            "others run the same command with `--with FILE` and this signature (write it with `--out FILE`)"
        )
    decided = Decided(
        round=recovery.round, attempt=0, recovery=True, body=recovery.encode(), votes=tuple(sorted(votes))
    )
    history.extend(decided.encode())
    taken, answers = 0, []
    for record in records.values():
        try:
            async with PublicClient(record) as client:
                await client.join(sign(signer, decided))
                taken += 1
        except (Unreachable, Refused) as error:
            answers.append(str(error))
    if not taken:
        raise RecoveryNotTaken("no peer took it:\n  " + "\n  ".join(answers))
    return f"recovery {recovery.round} taken by {taken} peers: the roster is {', '.join(keep)}"


def _say(as_json: bool, text: str, **values: Any) -> None:
    if as_json:
        common.say_json(done=text, **values)
    else:
        print(text)


def _write(path: Path, raw: bytes) -> None:
    try:
        path.write_bytes(raw)
    except OSError as error:
        raise common.CannotWrite(f"{path}: {error.strerror}; name a file in a folder you can write") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise common.BadArgument(
            f"--with {path}: {error.strerror}; name the file a steward gave you"
        ) from None


def main() -> None:
    """The entry point."""
    common.main_of({"invite": invite, "recover": recover}, "swarm-steward", EXAMPLES)()


if __name__ == "__main__":
    main()
