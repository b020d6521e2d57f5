"""From the user's HOST:PORT to the three ports of a peer.

`--listen HOST:PORT` means: the public port is PORT, the members port PORT + 1, libp2p's PORT + 2; port 0
takes any free ones. Without it a peer listens on the address by which it reaches its entry nodes.
"""

import ipaddress
import socket
from collections.abc import Sequence

from swarm.cli.common import BadArgument
from swarm.directory import Addresses
from swarm.net.peer_record import split_address

LIBP2P_PORT = 2
"""libp2p's port is so far above the public one."""
_WILDCARDS = ("0.0.0.0", "::")
_ANYWHERE = "192.0.2.1"  # RFC 5737: never reached, no packet is sent; it stands for "outside"


def plan(listen: str | None, announce: str | None, joins: Sequence[str]) -> Addresses:
    """Where to listen and what to announce. Raises BadArgument."""
    if listen is None and announce is None:
        return Addresses(f"{own_host(joins)}:0")
    host, port = _split("--listen", listen or "0.0.0.0:0")
    if announce is not None:
        told = _split("--announce", announce)[1]
        if port == 0 or told == 0:
            raise BadArgument(
                f"--announce {announce}: others need fixed ports; pass both with one, for example "
                "`--listen 0.0.0.0:31400 --announce peer.example.org:31400`"
            )
        return Addresses(str(listen), announce)
    if host not in _WILDCARDS:
        return Addresses(str(listen))
    if port == 0:
        raise BadArgument(f"--listen {listen}: give a port, for example `--listen {_join(host, 31400)}`")
    return Addresses(str(listen), f"{own_host(joins)}:{port}")


def libp2p(addresses: Addresses) -> tuple[list[str], list[str]]:
    """The multiaddresses of the DHT node: to listen on, and to announce (none: those listened on)."""
    listening = _multiaddress(addresses.listen)
    return [listening], [_multiaddress(addresses.announce)] if addresses.announce else []


def own_host(joins: Sequence[str]) -> str:
    """This machine's address on the way to the first entry node that has a route, else to the outside."""
    for host in [*(address.split("/")[2] for address in joins if address.count("/") > 2), _ANYWHERE]:
        try:
            found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
            with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
                probe.connect(found[0][4])
                own = str(probe.getsockname()[0])
        except OSError:
            continue
        return f"[{own}]" if ":" in own else own
    return "127.0.0.1"


def _multiaddress(address: str) -> str:
    host, port = split_address(address)
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns4"
    return f"/{kind}/{host}/tcp/{port + LIBP2P_PORT if port else 0}"


def _split(option: str, address: str) -> tuple[str, int]:
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise BadArgument(f"{option}: {error}") from None
    if port + LIBP2P_PORT > 65535:
        raise BadArgument(f"{option} {address}: the two ports above it are used as well; choose a lower one")
    return host, port


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
