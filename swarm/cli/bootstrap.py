"""`swarm-bootstrap`: an entry node of the DHT. It holds no data and has no power over a run."""

import json as json_
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from swarm.cli import common
from swarm.cli.common import DEFAULT_STATE_DIR, Json, LogLevel, StateDir, Version
from verify.identity import Identity

EXAMPLES = """
swarm-bootstrap --port 31337
swarm-bootstrap --port 31337 --announce /dns4/swarm.example.org/tcp/31337
swarm-bootstrap --host-maddrs /ip4/0.0.0.0/tcp/31337 --host-maddrs /ip6/::/tcp/31337 --json
"""


def bootstrap(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port to listen on; 0 takes a free one.")
    ] = 31337,
    host_maddrs: Annotated[
        list[str] | None,
        typer.Option(metavar="MULTIADDR", help="Listen here instead of /ip4/0.0.0.0/tcp/PORT. Repeatable."),
    ] = None,
    announce: Annotated[
        list[str] | None,
        typer.Option(metavar="MULTIADDR", help="Tell others this address, e.g. behind a router. Repeatable."),
    ] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The key file, not a peer's; made if there is none. [STATE_DIR/bootstrap.key]",
        ),
    ] = None,
    version: Version = False,
) -> None:
    """Run an entry node, by which the peers of any run find each other, until Ctrl-C.

    It prints the addresses to hand out. Keep the key file: the address holds its PeerID.
    """
    common.start_log(state_dir, "swarm-bootstrap", log_level)
    key_file = identity or state_dir / "bootstrap.key"
    peer_id = Identity.load_or_create(key_file).peer_id

    from swarm.net.dht import DhtFailed, start_dht

    common.quiet_hivemind()
    dht = start_dht(key_file, [], host_maddrs or [f"/ip4/0.0.0.0/tcp/{port}"], announce or [])
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        addresses = dht.multiaddresses()
        if json:
            ready = {"event": "ready", "multiaddrs": addresses, "peer_id": peer_id}
            print(json_.dumps(ready), flush=True)
        else:
            print("The entry node runs; Ctrl-C stops it. Peers enter by one of these addresses:")
            for address in addresses:
                print(f"  --join {address}", flush=True)
        while dht.is_alive():
            dht.join(1.0)
        raise DhtFailed("the DHT process ended by itself: start the entry node again")
    finally:
        with common.ending_at_once():
            dht.shutdown()


main = common.main_of(bootstrap, "swarm-bootstrap", EXAMPLES)

if __name__ == "__main__":
    main()
