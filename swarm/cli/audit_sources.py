"""Where `swarm-audit` reads ledgers: exported folders, a peer's own state, a peer's public port.

The promise: nothing here is believed, and nothing is written. A folder that is damaged is read as far as it
goes; a port's certificate need not be known beforehand, since all that comes from it is signed.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from swarm.rules import evidence_rules, read_terms
from verify.audit import AuditRules, Source
from verify.checkpoint import MAX_NOTE, parse_checkpoint
from verify.identity import Identity, KeyFileError
from verify.ledger import Entry, Ledger
from verify.record import Genesis
from verify.tiles import MAX_ENTRY, WIDTH, ExportedLedger, ExportUnreadable, ExportWrong, tile_path

FILES = ("genesis", "manifest.toml")
CONNECT_SECONDS = 10.0
MOST_REMOTE = 4_096
"""Large contents of a remote ledger whose size is remembered."""


class NoLedger(SwarmError):
    """What was named is no ledger, or cannot be reached."""


def audit_rules(genesis: Genesis) -> AuditRules:
    """What the manifest in a genesis says of the run. Raises ManifestRefused, TermsDiffer."""
    given = read_terms(genesis)
    return AuditRules(
        secure=given.aggregation.mode == "secure",
        own=given.data.mode == "own",
        rate=given.verification.rate,
        fraction=given.verification.chunk_fraction,
        slices=given.work.slices,
        slice_tokens=given.work.sequences_per_slice * given.data.sequence_length,
        evidence=evidence_rules(given),
        joules_per_megabyte=given.energy.joules_per_megabyte,
    )


@contextmanager
def opened(words: Sequence[str], run: bytes) -> Iterator[list[Source]]:
    """The ledgers that words of the command line name. Raises NoLedger and what reading them raises."""
    with ExitStack() as stack:
        yield [_open(stack, word, run, name) for word, name in zip(words, _names(words), strict=True)]


def _names(words: Sequence[str]) -> list[str]:
    """Short names by which the ledgers are told apart."""
    short = [Path(word).name or word for word in words]
    return [name if short.count(name) == 1 else word for name, word in zip(short, words, strict=True)]


def _open(stack: ExitStack, word: str, run: bytes, name: str) -> Source:
    path = Path(word)
    if not path.exists():
        if re.fullmatch(r".+:\d{1,5}", word):
            return stack.enter_context(_remote(word, run, name))
        raise NoLedger(f"{word} does not exist: name an exported folder, a peer's state folder or HOST:PORT")
    if (path / "checkpoint").exists():
        ledger = ExportedLedger(path)
        files = tuple((file, raw) for file in FILES if (raw := ledger.file(file)) is not None)
        return Source(name, ExportReader(ledger), ledger.checkpoint_text, None, files)
    kept = state_file(path, run)
    if kept is None:
        raise NoLedger(
            f"{word} is no ledger of run {run.hex()}: it has neither a file `checkpoint` (an export) nor "
            f"runs/{run.hex()}/ledger.sqlite (a peer's state folder)"
        )
    own = Ledger(kept, None, run, read_only=True)
    stack.callback(own.close)
    return Source(name, own, None, own.author or state_owner(path))


def state_file(path: Path, run: bytes) -> Path | None:
    """The ledger of a run in a state folder, or in the run's own folder."""
    for file in (path / "runs" / run.hex() / "ledger.sqlite", path / "ledger.sqlite"):
        if file.exists():
            return file
    return None


def state_owner(path: Path) -> PeerID | None:
    """Whose state folder it is, where this user may know."""
    try:
        return Identity.load(path / "identity.key").peer_id
    except KeyFileError:
        return None


class ExportReader:
    """An export that gives what lies there, one by one, also where it is not what its head signed."""

    def __init__(self, ledger: ExportedLedger) -> None:
        self._ledger, self.size = ledger, ledger.size
        self.head, self.large = ledger.head, ledger.large
        self.inclusion, self.consistency = ledger.inclusion, ledger.consistency
        self._raw: tuple[int, list[bytes]] = (-1, [])

    def entries(self, start: int, limit: int) -> list[bytes]:
        """See Reader."""
        try:
            return self._ledger.entries(start, limit)
        except (ExportWrong, ExportUnreadable):
            index, at = divmod(start, WIDTH)
            lying = self._bundle(index) if limit == 1 else []
            if at >= len(lying):
                raise
            return [lying[at]]

    def _bundle(self, index: int) -> list[bytes]:
        """The entries of a bundle as far as they can be told apart."""
        if self._raw[0] != index:
            width = min(WIDTH, self.size - index * WIDTH)
            raw = self._ledger.file(tile_path("entries", index, width), width * (2 + MAX_ENTRY)) or b""
            found, at = list[bytes](), 0
            while at + 2 <= len(raw) and len(found) < width:
                end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
                if end > len(raw):
                    break
                found.append(raw[at + 2 : end])
                at = end
            self._raw = (index, found)
        return self._raw[1]


# -- over the network -----------------------------------------------------------------------------------


@contextmanager
def _remote(address: str, run: bytes, name: str) -> Iterator[Source]:
    """A peer's public port. gRPC is imported here and nowhere else."""
    import asyncio

    from swarm.net.peer_record import PeerRecord
    from swarm.net.public import PublicClient

    certificate = _certificate_of(address)
    record = PeerRecord(
        run_id=run, public=address, members=address, certificate=certificate, sequence=0, agent="swarm-audit"
    )
    with asyncio.Runner() as runner:
        client = runner.run(_made(PublicClient, record))
        try:
            text = runner.run(client.ledger_head())
            genesis, manifest = runner.run(client.genesis())
            reader = RemoteReader(runner, client, text)
            yield Source(name, reader, text, None, (("genesis", genesis), ("manifest.toml", manifest)))
        finally:
            runner.run(client.close())


async def _made(kind: Any, *arguments: Any) -> Any:
    return kind(*arguments)  # gRPC's objects belong to the loop that they are made on


def _certificate_of(address: str) -> bytes:
    """The certificate that is shown at an address (DER). Whose it is does not matter to an auditor."""
    import socket
    import ssl

    from swarm.net.peer_record import split_address

    try:
        host, port = split_address(address)
    except ValueError as error:
        raise NoLedger(str(error)) from None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=None) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
    except OSError as error:
        raise NoLedger(
            f"{address} does not answer as a peer's public port ({error.strerror or error}): check that the "
            "peer runs, and that this is the public port that it printed"
        ) from None
    if shown is None:
        raise NoLedger(f"{address} shows no certificate: it is no peer's public port")
    return shown


class RemoteReader:
    """A ledger over the network, up to the head that was given at the start."""

    def __init__(self, runner: Any, client: Any, head: str) -> None:
        if len(head) > MAX_NOTE:
            raise MessageRefused(f"checkpoint: {len(head)} characters, the largest has {MAX_NOTE} bytes")
        self._runner, self._client = runner, client
        self._head = parse_checkpoint(head)
        self.size = self._head.size
        self._sizes: dict[bytes, int] = {}
        self._gone: SwarmError | None = None

    def head(self) -> tuple[int, bytes]:
        """See Reader."""
        return self.size, self._head.root

    def entries(self, start: int, limit: int) -> list[bytes]:
        """See Reader."""
        found: list[bytes] = []
        while len(found) < limit:
            more = self._ask(self._client.ledger_entries(start + len(found), limit - len(found)))
            if not more:
                break
            found += more
        for raw in found:
            self._remember(raw)
        return found

    def _remember(self, raw: bytes) -> None:
        if not raw.endswith(b"\xf6"):  # null: the content is not part of the entry
            return
        try:
            entry = Entry.parse(raw)
        except MessageRefused:
            return
        self._sizes[entry.sha256] = entry.size
        while len(self._sizes) > MOST_REMOTE:
            self._sizes.pop(next(iter(self._sizes)))

    def large(self, digest: bytes) -> bytes | None:
        """See Reader."""
        size = self._sizes.get(digest)
        return None if size is None else self._ask(self._client.large(digest, size))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """See Reader."""
        return list(self._ask(self._client.ledger_inclusion(index, size)))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """See Reader."""
        return list(self._ask(self._client.ledger_consistency(old, new)))

    def _ask(self, call: Any) -> Any:
        from swarm.net.rpc import Unreachable

        if self._gone is not None:
            call.close()
            raise self._gone
        try:
            return self._runner.run(call)
        except Unreachable as error:
            self._gone = error  # or each entry that is left would wait for its own time-out
            raise


def read_file(path: Path, most: int) -> bytes:
    """A file of the user's. Raises NoLedger."""
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise NoLedger(f"{path} cannot be read ({error.strerror})") from None
    if len(raw) > most:
        raise NoLedger(f"{path} has more than {most} bytes")
    return raw
