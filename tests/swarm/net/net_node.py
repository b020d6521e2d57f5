"""A DHT node and matchmaker in a process of its own (hivemind forks, so the tests' must not).

It speaks JSON lines: first who and where it is, then an answer to each [method, *arguments] of the input.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from net_peers import RUN_ID, peer_record

from proto.errors import SwarmError
from swarm.net.dht import start_dht
from swarm.net.matchmaking import Matchmaker
from swarm.net.peer_record import open_peer_record
from verify.identity import Identity, certificate_der, make_certificate
from verify.statement import sign


def main(seed: int, key_file: Path, *joins: str) -> None:
    identity = Identity.from_seed(bytes([seed]) * 32)
    identity.save(key_file)
    leaf = certificate_der(make_certificate(identity).certificate_pem)
    try:
        dht = start_dht(key_file, joins)
    except SwarmError as error:
        return say(type(error).__name__, str(error))
    matchmaker = Matchmaker(dht, RUN_ID)
    say(identity.peer_id, dht.multiaddresses(), str(dht.sockets))
    for line in sys.stdin:
        match json.loads(line):
            case ["publish"]:
                record = open_peer_record(sign(identity, peer_record(leaf)))
                say(asyncio.run(dht.publish(record)))
            case ["lookup"]:
                say(sorted(asyncio.run(dht.lookup(RUN_ID))))
            case ["meet", key, roster, minimum, seconds]:
                advert = f"advert {seed}".encode()
                deadline = time.time() + seconds
                group: Any = asyncio.run(
                    matchmaker.meet(bytes.fromhex(key), roster, minimum, advert, deadline)
                )
                say(group and {peer: text.decode() for peer, text in group.items()}, matchmaker.refused)
    matchmaker.shutdown()
    dht.shutdown()


def say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
