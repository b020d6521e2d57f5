"""What `swarm-steward` signs holds for the run and the peer it names, and for nothing else."""

import json
import subprocess
import sys
from pathlib import Path

from verify.identity import Identity
from verify.record import Invitation
from verify.statement import open_signed

RUN = "ab" * 32


def steward(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "swarm.cli.steward", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_an_invitation_is_signed_by_the_stewards_key_for_one_run_and_peer(tmp_path: Path) -> None:
    key = Identity.load_or_create(tmp_path / "identity.key")
    guest, out = Identity.generate().peer_id, tmp_path / "invitation.bin"
    done = steward("invite", "--run", RUN, "--peer", guest, "--out", out, "--state-dir", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == str(out)
    signed = open_signed(out.read_bytes(), Invitation)
    assert signed.signer == key.peer_id
    assert signed.message == Invitation(run=bytes.fromhex(RUN), peer=guest)


def test_without_a_key_nothing_is_signed_and_none_is_made(tmp_path: Path) -> None:
    out = tmp_path / "invitation.bin"
    guest = Identity.generate().peer_id
    done = steward("invite", "--run", RUN, "--peer", guest, "--out", out, "--state-dir", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert not out.exists()
    assert not (tmp_path / "identity.key").exists()


def test_a_peer_id_that_is_none_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "x"
    done = steward("invite", "--run", RUN, "--peer", "nobody", "--out", out, "--state-dir", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
