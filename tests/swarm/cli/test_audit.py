"""`swarm-audit` as a stranger runs it: tables that fit, JSON, exit codes, and the first wrong thing named."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.merkle import leaf_hash, verify_inclusion
from swarm.cli import audit as cli
from swarm.cli.audit_sources import audit_rules
from swarm.net.public import PublicServer
from swarm.net.tls import TrustStore
from swarm.rules import TermsDiffer
from tests.verify.audited_runs import Run, ledger_of, virtual_run
from tests.verify.sharded_runs import SLICES, sharded_run
from verify.case import PortableEvidence
from verify.checkpoint import Checkpoint, origin_of, read_checkpoint, write_checkpoint
from verify.identity import make_certificate
from verify.ledger import Ledger
from verify.record import Genesis, Vote
from verify.statement import open_signed, sign
from verify.tiles import export


@dataclass(frozen=True)
class Place:
    """A run's ledgers on disk: exports `a` and `b`, and the state folder of the first peer."""

    run: Run
    folder: Path

    @property
    def id(self) -> str:
        return self.run.run.hex()


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return value


def genesis_of(run: Run) -> bytes:
    return run.entries[run.peers[0]][0][1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    run, folder = virtual_run(5, 4, liar=1), tmp_path_factory.mktemp("audit")
    manifest = open_signed(genesis_of(run), Genesis).message.manifest
    for name, peer in (("a", run.peers[0]), ("b", run.peers[2])):
        ledger = ledger_of(run.run, peer, run.entries[peer])
        text = run.source_of(peer, ledger).checkpoint
        assert text is not None
        export(ledger, folder / name, text, {"genesis": genesis_of(run), "manifest.toml": manifest})
    state = folder / "state" / "runs" / run.run.hex()
    state.mkdir(parents=True)
    own = Ledger(state / "ledger.sqlite", None, run.run)
    own.append(run.entries[run.peers[0]])
    own.close()
    run.identities[run.peers[0]].save(folder / "state" / "identity.key")
    return Place(run, folder)


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a command in this process."""

    def command(*words: object, log: bool = True) -> Done:
        more = ["--state-dir", str(tmp_path)] if log and "--state-dir" not in words else []
        monkeypatch.setattr(sys, "argv", ["swarm-audit", *map(str, words), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return command


@pytest.fixture
def copy(place: Place, tmp_path: Path) -> Path:
    """An export that a test may damage."""
    return Path(shutil.copytree(place.folder / "a", tmp_path / "copy"))


def bundle(folder: Path) -> Path:
    return next((folder / "tile" / "entries").glob("*.p/*"))


# -- verify -----------------------------------------------------------------------------------------------


def test_two_exports_of_a_clean_run_are_clean_and_the_table_fits(place: Place, audit: Any) -> None:
    done = audit("verify", place.folder / "a", place.folder / "b", "--run", place.id)
    assert done.code == 0
    assert "clean: nothing wrong was found" in done.out
    assert "update, its evidence: re-execution needed" in " ".join(done.out.split())
    assert max(map(len, done.out.splitlines())) <= 80


def test_json_has_the_verdict_the_bans_and_the_count(place: Place, audit: Any) -> None:
    done = audit("verify", place.folder / "a", "--run", place.id, "--json")
    said = done.json
    assert (done.code, said["ok"], said["records"], said["findings"]) == (0, True, 4, [])
    assert said["statements"] > 100
    assert said["ledgers"][0]["signed"]
    (ban,) = said["bans"]
    assert (ban["peer_id"], ban["reason"]) == (list(place.run.identities)[1], "update")


def test_a_state_folder_is_audited_beside_the_peer_that_writes_it(place: Place, audit: Any) -> None:
    for word in (place.folder / "state", place.folder / "state" / "runs" / place.id):
        done = audit("verify", word, "--run", place.id, "--json")
        assert (done.code, done.json["records"]) == (0, 4)
    done = audit("verify", "--run", place.id, "--json", "--state-dir", place.folder / "state")
    assert done.json["ledgers"][0]["author"] == place.run.peers[0]


def test_a_flipped_byte_is_wrong_and_named_with_its_entry(place: Place, audit: Any, copy: Path) -> None:
    path = bundle(copy)
    raw, at = bytearray(path.read_bytes()), 0
    for _ in range(3):  # into entry 3
        at += 2 + int.from_bytes(raw[at : at + 2], "big")
    raw[at + 200] ^= 1
    path.write_bytes(raw)
    done = audit("verify", copy, "--run", place.id, "--json")
    assert done.code == 1
    first = next(one for one in done.json["findings"] if "does not have the hash" in one["what"])
    assert first["index"] == 3
    text = audit("verify", copy, "--run", place.id).out
    assert "WRONG copy entry 3" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_truncated_file_is_unreadable_and_what_is_before_it_is_audited(
    place: Place, audit: Any, copy: Path
) -> None:
    path = bundle(copy)
    path.write_bytes(path.read_bytes()[:-100])
    done = audit("verify", copy, "--run", place.id, "--json")
    assert done.code == 2
    assert done.json["records"] == 3
    assert "it ends within entry" in done.json["findings"][0]["what"]


def test_a_missing_file_is_unreadable(place: Place, audit: Any, copy: Path) -> None:
    bundle(copy).unlink()
    done = audit("verify", copy, "--run", place.id, "--json")
    assert done.code == 2
    assert "is missing" in done.json["findings"][0]["what"]


def test_another_manifest_beside_the_ledger_is_wrong(place: Place, audit: Any, copy: Path) -> None:
    (copy / "manifest.toml").write_text("[run]\nrounds = 9\n")
    done = audit("verify", copy, "--run", place.id)
    assert done.code == 1
    assert "manifest.toml is not the manifest" in done.out


def test_a_wrong_run_id_is_wrong(place: Place, audit: Any) -> None:
    done = audit("verify", place.folder / "a", "--run", "ab" * 32)
    assert done.code == 1
    assert "its genesis is that of run" in " ".join(done.out.split())


def test_what_is_no_ledger_cannot_be_audited(place: Place, audit: Any, tmp_path: Path) -> None:
    for word, why in ((tmp_path / "nothing", "does not exist"), (tmp_path, "is no ledger of run")):
        done = audit("verify", word, "--run", place.id, "--json")
        assert (done.code, done.json["error"]) == (2, "NoLedger")
        assert why in done.json["message"]


def test_genesis_that_promises_other_terms_than_its_manifest_is_wrong() -> None:
    run = virtual_run(4, 1, rate=0.0)
    genesis = open_signed(genesis_of(run), Genesis)
    other = sign(run.identities[genesis.signer], genesis.message.model_copy(update={"strikes": 9}))
    with pytest.raises(TermsDiffer, match="genesis says strikes = 9, its manifest says 3"):
        audit_rules(open_signed(other, Genesis).message)


@given(st.data())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_flipped_byte_in_any_file_of_an_export_is_clean_or_crashes(
    place: Place, audit: Any, copy: Path, data: st.DataObject
) -> None:
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    path.write_bytes(before[:at] + bytes([before[at] ^ 1 << data.draw(st.integers(0, 7))]) + before[at + 1 :])
    try:
        assert audit("verify", copy, "--run", place.id, "--json").code in (1, 2)
    finally:
        path.write_bytes(before)


def test_a_peer_is_audited_over_its_public_port(place: Place, tmp_path: Path) -> None:
    peer = place.run.peers[0]
    ledger = ledger_of(place.run.run, peer, place.run.entries[peer])

    class Shelf:
        async def genesis(self) -> tuple[bytes, bytes]:
            return genesis_of(place.run), open_signed(genesis_of(place.run), Genesis).message.manifest

        async def ledger_head(self) -> str:
            head = Checkpoint(origin_of(place.run.run, peer), *ledger.head())
            return write_checkpoint(head, place.run.identities[peer])

        async def ledger_entries(self, start: int, limit: int) -> list[bytes]:
            return ledger.entries(start, min(limit, 7))

        async def ledger_inclusion(self, index: int, size: int) -> list[bytes]:
            return ledger.inclusion(index, size)

        async def large_piece(self, digest: bytes, index: int) -> bytes:
            return ledger.large_piece(digest, index)

    async def scene() -> None:
        server = PublicServer(TrustStore(make_certificate(place.run.identities[peer])), Shelf())
        address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
        out = tmp_path / "out"
        try:
            told = await ended("verify", address, "--run", place.id, "--json")
            assert (told.code, told.json["ok"], told.json["records"]) == (0, True, 4), told
            assert told.json["ledgers"][0]["author"] == peer
            assert (await ended("export", address, "--run", place.id, "--out", out)).code == 0
        finally:
            await server.stop()
        assert bundle(out).read_bytes() == bundle(place.folder / "a").read_bytes()
        gone = await ended("verify", address, "--run", place.id, "--json")
        assert (gone.code, gone.json["error"]) == (2, "NoLedger")

    async def ended(*words: object) -> Done:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "swarm.cli.audit", *map(str, words), "--state-dir", str(tmp_path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return Done(process.returncode or 0, out.decode(), err.decode())

    asyncio.run(scene())


# -- the other commands -------------------------------------------------------------------------------------


def test_a_round_is_shown_with_its_survivors_votes_and_verdicts(place: Place, audit: Any) -> None:
    done = audit("show", "2", place.folder / "a", "--run", place.id)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    said = audit("show", "2", place.folder / "a", "--run", place.id, "--json").json
    assert (said["round"], len(said["record"]["survivors"])) == (2, 5)
    assert said["sessions"][0]["beacon"] == said["record"]["beacon"]
    assert any(": wrong" in text for text in said["record"]["statements"])
    missing = audit("show", "9", place.folder / "a", "--run", place.id, "--json")
    assert (missing.code, missing.json["error"]) == (2, "NotShown")


def test_a_peers_contribution_is_shown(place: Place, audit: Any) -> None:
    liar, honest = list(place.run.identities)[1], place.run.peers[0]
    out = audit("peer", liar, place.folder / "a", "--run", place.id).out
    assert "banned since record 2, for update" in out
    said = audit("peer", honest, place.folder / "a", "--run", place.id, "--json").json
    assert (said["member"], said["rounds"], said["weight"], said["ban"]) == (True, 4, 16, None)
    assert said["checks_made"] > 0
    assert said["passed"] == said["checked"] > 0
    assert audit("peer", "12D3", place.folder / "a", "--run", place.id).code == 1


def test_evidence_says_what_it_proves_or_what_it_needs(place: Place, audit: Any, tmp_path: Path) -> None:
    one, run = place.run.peers[0], place.run.run
    key = place.run.identities[one]
    votes = tuple(
        sign(key, Vote(run=run, round=1, attempt=0, view=0, step=1, value=value))
        for value in (None, bytes(32))
    )
    case = PortableEvidence(run=run, kind="two votes", against=one, adverts=(), statements=votes)
    file = tmp_path / "evidence"
    file.write_bytes(case.encode())
    done = audit("evidence", file, place.folder / "a")
    assert done.code == 0
    assert f"HOLDS: {one} signed two precommits" in " ".join(done.out.split())
    file.write_bytes(case.model_copy(update={"statements": (votes[0], votes[0])}).encode())
    done = audit("evidence", file, "--json")
    assert (done.code, done.json["holds"]) == (1, "does not hold")
    update = next(raw for kind, raw in place.run.entries[one] if kind == "evidence")
    file.write_bytes(update)
    done = audit("evidence", file, place.folder / "a", "--json")
    assert (done.code, done.json["holds"], done.json["kind"]) == (2, "re-execution needed", "update")
    assert "snapshot and torch" in done.json["text"]
    name = PortableEvidence.parse(update).digest().hex()
    done = audit("evidence", name, place.folder / "a", "--run", place.id, "--json")
    assert (done.code, done.json["evidence"]) == (2, name)
    assert audit("evidence", "ab" * 32, place.folder / "a", "--run", place.id).code == 2
    file.write_bytes(PortableEvidence.parse(update).model_copy(update={"statements": ()}).encode())
    assert audit("evidence", file, place.folder / "a", "--json").json["holds"] == "does not hold"
    file.write_bytes(b"nothing")
    assert audit("evidence", file, "--json").json["error"] == "NoLedger"


def test_an_order_that_the_beacon_did_not_draw_is_judged_from_the_records(audit: Any, tmp_path: Path) -> None:
    run = virtual_run(5, 4, liar=1, lie="order")
    peer, liar = run.peers[0], list(run.identities)[1]
    ledger = ledger_of(run.run, peer, run.entries[peer])
    text = run.source_of(peer, ledger).checkpoint
    assert text is not None
    export(ledger, tmp_path / "a", text, {})
    said = audit("verify", tmp_path / "a", "--run", run.run.hex(), "--json").json
    (ban,) = said["bans"]
    assert (said["ok"], ban["peer_id"], ban["reason"], ban["holds"]) == (True, liar, "order", "holds")
    done = audit("evidence", ban["evidence"], tmp_path / "a", "--run", run.run.hex(), "--json")
    assert (done.code, done.json["holds"]) == (0, "holds")


def test_a_state_folder_is_exported_signed_and_verifies(place: Place, audit: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert audit("export", place.folder / "state", "--run", place.id, "--out", out).code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint",
        "genesis",
        "large",
        "manifest.toml",
        "tile",
    ]
    done = audit("verify", out, "--run", place.id, "--json")
    assert (done.code, done.json["ledgers"][0]["signed"]) == (0, True)
    assert audit("export", place.folder / "state", "--run", place.id, "--out", out).code == 2


def test_a_proof_is_text_that_a_third_partys_tool_can_check(place: Place, audit: Any) -> None:
    run, peer = place.run, place.run.peers[0]
    done = audit("proof", place.folder / "a", "7", "--run", place.id)
    assert done.code == 0
    head, note = done.out.split("\n\n", 1)
    first, index, *hashes = head.split("\n")
    assert (first, index) == ("c2sp.org/tlog-proof@v1", "index 7")
    checkpoint = read_checkpoint(note, peer)
    raw = ledger_of(run.run, peer, run.entries[peer]).entries(7, 1)[0]
    proof = [base64.b64decode(line) for line in hashes]
    assert verify_inclusion(leaf_hash(raw), 7, checkpoint.size, proof, checkpoint.root)
    assert audit("proof", place.folder / "a", "9999", "--run", place.id).code == 2


def test_replay_says_what_is_missing_here_and_runs_what_is_not(
    place: Place, audit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = audit("replay", "3", place.folder / "a", "--run", place.id, "--json")
    assert done.code == 2
    assert len(done.json["orders"]) == 4
    assert any("the snapshot before the round" in what for what in done.json["missing"])
    shown = audit("show", "2", place.folder / "a", "--run", place.id, "--json").json
    kept = tmp_path / "runs" / place.id / "snapshots" / f"{shown['record']['snapshot']}.snapshot"
    kept.parent.mkdir(parents=True)
    kept.touch()
    three = audit("show", "3", place.folder / "a", "--run", place.id, "--json").json["record"]["snapshot"]
    for follows, code in ((bytes.fromhex(three), 0), (bytes(32), 2)):
        monkeypatch.setattr(cli, "_follows", lambda replays, data, follows=follows: follows)
        done = audit("replay", "3", place.folder / "a", "--run", place.id, "--json")
        assert (done.code, done.json["missing"], done.json["agreed"]) == (code, [], code == 0)


def test_a_run_in_shards_is_shown_by_cells_and_its_orders_are_drawn(audit: Any, tmp_path: Path) -> None:
    run, ledgers = sharded_run(4, 2), []
    for peer in run.peers[:2]:
        ledger = ledger_of(run.run, peer, run.entries[peer])
        text = run.source_of(peer, ledger).checkpoint
        assert text is not None
        export(ledger, tmp_path / peer[-4:], text, {})
        ledgers.append(tmp_path / peer[-4:])
    done = audit("verify", *ledgers, "--run", run.run.hex(), "--json").json
    assert (done["ok"], done["notes"], done["sessions"]) == (True, [], 4)
    shown = audit("show", "2", *ledgers, "--run", run.run.hex())
    assert max(map(len, shown.out.splitlines())) <= 80
    assert all(f"shard {shard}\n  snapshot" in shown.out for shard in (0, 1))
    assert shown.out.count(f": {SLICES} slices") == 4
    said = audit("show", "2", *ledgers, "--run", run.run.hex(), "--json").json
    assert [cell["session"] for cell in said["record"]["cells"]] == [
        one["session"] for one in sorted(said["sessions"], key=lambda one: one["shard"])
    ]
    one = audit("peer", run.peers[1], *ledgers, "--run", run.run.hex())
    assert "in the roster, holds shard 1" in one.out
    replayed = audit("replay", "2", *ledgers, "--run", run.run.hex(), "--json")
    assert (replayed.code, replayed.json["agreed"], len(replayed.json["orders"])) == (2, False, 4)
    assert "chains are not computed again here" in replayed.json["missing"][0]
    alone = audit("replay", "2", ledgers[1], "--run", run.run.hex(), "--json").json
    assert [order["peer_id"] for order in alone["orders"]] == run.peers[1::2]
    assert any("no ledger here shows the round's session of shard 0" in what for what in alone["missing"])


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_every_help_shows_examples(audit: Any, command: str) -> None:
    done = audit(*filter(None, [command]), "--help", log=False)
    assert done.code == 0
    assert f"Examples:\n    swarm-audit {command}".rstrip() in done.out


def test_the_auditor_needs_neither_torch_nor_hivemind_nor_grpc() -> None:
    heavy = {"torch", "hivemind", "grpc", "transformers", "asyncio"}
    code = f"import sys, swarm.cli.audit; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
