"""DHT and matchmaking between real processes: signed records only, the roster only, nothing left behind."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from net_peers import RUN_ID

from swarm.net.dht import BadMultiaddress, start_dht

HERE = Path(__file__).parent
PACKAGES = {"PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), str(HERE)])}
FORGER = """
import sys
from hivemind import DHT
from hivemind.utils import get_dht_time
from net_peers import RUN_ID, peer_record
from swarm.net.dht import peers_key
from verify.identity import Identity, certificate_der, make_certificate
from verify.statement import sign
victim, forger = Identity.generate(), Identity.generate()
leaf = certificate_der(make_certificate(forger).certificate_pem)
unsigned, signed = peer_record(leaf).encode(), sign(forger, peer_record(leaf))
dht = DHT(sys.argv[1:], start=True)  # hivemind's own: it lets anything out
sys.stdin.readline()
for subkey, value in [(victim.peer_id, signed), (forger.peer_id, unsigned), ("x", 1), (None, b"all of it")]:
    dht.store(peers_key(RUN_ID), value, get_dht_time() + 60, subkey=subkey)
print(dht.get(peers_key(RUN_ID)), flush=True)
sys.stdin.read()
dht.shutdown()
"""


class Process:
    """A Python process that hears and answers lines."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | PACKAGES,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def hear(self) -> list[Any]:
        words: list[Any] = json.loads(self.line())
        return words

    def ask(self, *words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.communicate(timeout=30)


Starter = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts net_node.py, or the code given, with these nodes to enter by."""
    running: list[Process] = []

    def start(*joins: str, code: str | None = None) -> Process:
        seed = len(running) + 1
        node = [str(HERE / "net_node.py"), str(seed), str(tmp_path / f"{seed}.key")]
        running.append(Process(*(["-c", code] if code else node), *joins))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.communicate()


def processes_with(text: str) -> list[str]:
    """The command lines of running processes that hold `text`."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if text in line]


def test_peers_find_each_other_meet_by_roster_and_leave_nothing_behind(start: Starter) -> None:
    a = start()
    a_id, addresses, a_sockets = a.hear()
    b, stranger, forger = start(*addresses), start(*addresses), start(*addresses, code=FORGER)
    b_id, _, b_sockets = b.hear()
    stranger_id, _, stranger_sockets = stranger.hear()

    for node in (a, b):
        node.ask("publish")
        assert node.hear() == [True]
    forger.ask("go")
    assert "'x'" in forger.line()  # it believes itself
    for node in (a, b):
        node.ask("lookup")
        assert node.hear() == [sorted([a_id, b_id])]

    key = RUN_ID.hex()
    stranger.ask("meet", key, [a_id, b_id, stranger_id], 2, 4.0)
    a.ask("meet", key, [a_id, b_id], 2, 2.5)
    assert a.hear()[0] is None
    alone, _ = stranger.hear()
    assert alone is None
    a.ask("meet", key, [a_id, b_id], 2, 30.0)
    stranger.ask("meet", key, [a_id, b_id, stranger_id], 2, 3.0)
    b.ask("meet", key, [a_id, b_id], 2, 30.0)
    (a_group, a_refused), (b_group, b_refused) = a.hear(), b.hear()
    assert a_group == b_group == {a_id: "advert 1", b_id: "advert 2"}
    assert a_refused + b_refused >= 1
    assert stranger.hear()[0] is None

    forger.end()
    b.end()
    a.process.kill()
    stranger.process.kill()
    deadline = time.monotonic() + 15
    folders = [a_sockets, b_sockets, stranger_sockets]
    while time.monotonic() < deadline and any(processes_with(f) or Path(f).exists() for f in folders):
        time.sleep(0.1)
    assert not [line for folder in folders for line in processes_with(folder)]
    assert not any(Path(folder).exists() for folder in folders)


def test_what_keeps_a_node_out_is_named_with_the_fix(start: Starter) -> None:
    nobody = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    with socket.socket() as bound, socket.socket() as listening:
        bound.bind(("127.0.0.1", 0))  # nobody listens
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        closed = f"/ip4/127.0.0.1/tcp/{bound.getsockname()[1]}/p2p/{nobody}"
        unnamed = f"/dns4/nowhere.invalid/tcp/31337/p2p/{nobody}"
        name, text = start(closed, unnamed).hear()
        assert name == "BootstrapUnreachable"
        assert f"{closed}: nothing listens" in text
        assert "nowhere.invalid cannot be resolved" in text


@pytest.mark.parametrize(
    "address",
    [
        "",
        "31337",
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/99999/p2p/Qm",
        "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWabc",
    ],
)
def test_an_address_that_names_no_node_is_refused_before_anything_starts(address: str) -> None:
    with pytest.raises(BadMultiaddress):
        start_dht(None, [address])
