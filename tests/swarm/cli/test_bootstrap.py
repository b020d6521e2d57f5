"""An entry node says where it is, lets a reader in, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.cli.children import MARKER, Family

RUN = "ab" * 32


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_an_entry_node_is_found_and_leaves_cleanly(number: int, code: int, tmp_path: Path) -> None:
    family = Family()
    words = [sys.executable, "-m", "swarm.cli.bootstrap", "--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--json"]
    node = subprocess.Popen(
        [*words, "--state-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARKER: family.name},
    )
    family.leaders.append(node.pid)
    try:
        assert node.stdout is not None
        ready = json.loads(node.stdout.readline())
        assert ready["multiaddrs"][0].endswith(f"/p2p/{ready['peer_id']}")
        if number == signal.SIGTERM:
            words = [sys.executable, "-m", "swarm.cli.status", "--join", ready["multiaddrs"][0], "--run", RUN]
            done = subprocess.run(
                [*words, "--json", "--state-dir", str(tmp_path)], capture_output=True, text=True, check=False
            )
            assert json.loads(done.stdout)["error"] == "NobodyThere"
        node.send_signal(number)
        out, errors = node.communicate(timeout=30)
        assert (node.returncode, out, errors) == (code, "", "")
        assert (family.alive(), family.sockets()) == ([], [])
    finally:
        family.kill()
        node.wait()
