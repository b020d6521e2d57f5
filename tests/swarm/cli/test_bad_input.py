"""Bad input ends every command with a named error, its fix and its exit code, and never a traceback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from verify.identity import Identity

RUN = "ab" * 32
PEER_ID = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
COMMANDS = ("bootstrap", "peer", "status", "export", "generate", "demo", "carbon")


def run(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", f"swarm.cli.{command}", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def refused(command: str, *arguments: object, name: str, code: int = 2) -> str:
    """The message of the error that the command must end with."""
    done = run(command, *arguments, "--json")
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["error"] == name, last
    return str(last["message"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"Examples:\n    swarm-{command}" in done.stdout
    for option in ("--json", "--log-level", "--state-dir", "--identity", "--version"):
        assert option in done.stdout


def test_version_is_told_without_doing_anything() -> None:
    assert run("peer", "--version").stdout.startswith("edgeswarm ")


def test_an_error_for_people_is_one_text_on_standard_error(tmp_path: Path) -> None:
    done = run("peer", "--run", "abc", "--state-dir", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --run 'abc': a run id has 64 hexadecimal digits")


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run("peer", "--nwe", "run.toml").returncode == 2


def test_neither_founding_nor_joining_is_refused(tmp_path: Path) -> None:
    assert "--new FILE" in refused("peer", "--state-dir", tmp_path, name="BadArgument")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "run.toml"
    assert str(missing) in refused("peer", "--new", missing, "--state-dir", tmp_path, name="ManifestRefused")


def test_memory_that_the_machine_has_not_is_refused(tmp_path: Path) -> None:
    message = refused(
        "peer", "--run", RUN, "--memory", "60TiB", "--state-dir", tmp_path, name="MemoryRefused"
    )
    assert "--memory says 65970697666560 bytes, this machine has " in message


def test_a_demo_with_more_shards_than_peers_is_refused(tmp_path: Path) -> None:
    message = refused("demo", "--shards", 3, "--peers", 2, "--out", tmp_path / "demo", name="BadArgument")
    assert "give --peers 3 or more" in message
    assert not (tmp_path / "demo").exists()


def test_a_key_file_readable_by_others_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "identity.key"
    Identity.generate().save(key)
    key.chmod(0o644)
    message = refused("peer", "--run", RUN, "--state-dir", tmp_path, name="KeyFileExposed")
    assert f"chmod 600 {key}" in message


def test_a_wrong_key_file_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "a.key"
    key.write_bytes(os.urandom(68))
    key.chmod(0o600)
    refused("bootstrap", "--identity", key, "--state-dir", tmp_path, name="KeyFileCorrupt")


def test_a_run_that_is_not_known_here_needs_an_entry_node(tmp_path: Path) -> None:
    message = refused("peer", "--run", RUN, "--state-dir", tmp_path, name="RunNotHere")
    assert "--join MULTIADDR" in message


def test_an_entry_node_that_is_gone_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    entry = f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEER_ID}"
    message = refused(
        "status", "--join", entry, "--run", RUN, "--state-dir", tmp_path, name="BootstrapUnreachable"
    )
    assert f"nothing listens on port {port}" in message


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    refused(
        "status", "--join", "localhost:31337", "--run", RUN, "--state-dir", tmp_path, name="BadMultiaddress"
    )


def test_exporting_an_unknown_run_lists_the_known_ones_and_makes_none(tmp_path: Path) -> None:
    refused("export", "--run", RUN, "--out", tmp_path / "out", "--state-dir", tmp_path, name="RunUnknown")
    assert not (tmp_path / "runs").exists()


def test_generating_from_no_model_is_refused(tmp_path: Path) -> None:
    refused("generate", tmp_path, "--prompt", "x", "--state-dir", tmp_path, name="NoModel")


def test_the_demo_never_clears_a_folder_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "thesis.txt").write_text("mine")
    refused("demo", "--out", tmp_path, name="CannotWrite")
    assert (tmp_path / "peers" / "thesis.txt").read_text() == "mine"


def test_the_demo_refuses_a_manifest_with_the_users_own_lines(tmp_path: Path) -> None:
    manifest = tmp_path / "run.toml"
    manifest.write_text("[work]\nslice = 4\n")
    message = refused("demo", "--manifest", manifest, "--out", tmp_path / "out", name="ManifestRefused")
    assert "line 2" in message
