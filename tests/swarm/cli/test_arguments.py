"""Sizes, run ids, addresses and manifest edits: what the user types means one thing or is refused."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.cli import addresses
from swarm.cli.common import BadArgument, parse_run, parse_size, show_size
from swarm.cli.demo_manifest import DEMO, with_key
from swarm.directory import Addresses
from swarm.manifest import parse_manifest

ENTRY = "/ip4/127.0.0.1/tcp/31337/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("1.5GB", 1_500_000_000), ("512mib", 512 << 20), ("1000", 1000), ("8 G", 8 * 10**9)],
)
def test_a_size_is_read_with_either_kind_of_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-4GiB", "4 potatoes", "1e9", "4GiBs"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadArgument, match="4GiB"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_size_is_shown_within_ten_characters(size: int) -> None:
    assert len(show_size(size)) <= 11


def test_a_run_id_is_64_hexadecimal_digits_and_says_so_otherwise() -> None:
    assert parse_run("AB" * 32) == b"\xab" * 32
    for text in ("", "ab" * 31, "zz" * 32, "ab" * 32 + "\n"):
        with pytest.raises(BadArgument, match="64 hexadecimal"):
            parse_run(text)


def test_without_listen_a_peer_listens_where_it_reaches_its_entry_node() -> None:
    assert addresses.plan(None, None, [ENTRY]) == Addresses("127.0.0.1:0")


def test_a_wildcard_is_never_announced() -> None:
    planned = addresses.plan("0.0.0.0:31400", None, [ENTRY])
    assert planned == Addresses("0.0.0.0:31400", "127.0.0.1:31400")
    assert addresses.libp2p(planned) == (["/ip4/0.0.0.0/tcp/31402"], ["/ip4/127.0.0.1/tcp/31402"])


def test_an_announced_name_becomes_a_dns_multiaddress() -> None:
    planned = addresses.plan("0.0.0.0:31400", "peer.example.org:41400", [ENTRY])
    assert addresses.libp2p(planned) == (["/ip4/0.0.0.0/tcp/31402"], ["/dns4/peer.example.org/tcp/41402"])


@pytest.mark.parametrize(
    ("listen", "announce"),
    [
        ("0.0.0.0:0", None),
        ("nonsense", None),
        ("127.0.0.1:65535", None),
        (None, "peer.example.org:31400"),
        ("127.0.0.1:31400", "peer.example.org"),
    ],
)
def test_addresses_that_cannot_work_are_refused(listen: str | None, announce: str | None) -> None:
    with pytest.raises(BadArgument):
        addresses.plan(listen, announce, [ENTRY])


def test_the_demos_manifest_is_a_run() -> None:
    assert parse_manifest(DEMO.encode()).verification.rate == 0.5


@given(
    st.sampled_from(
        ["", DEMO, "[run]", "[run]\nrounds = 3", "[work]\nslices = 2\n", "[ run ] # r\nrounds=1\n"]
    ),
    st.integers(1, 99),
)
def test_a_key_that_the_demo_sets_stands_there_once_and_the_rest_stays(text: str, value: int) -> None:
    before, after = tomllib.loads(text), tomllib.loads(with_key(text, "run", "rounds", str(value)))
    assert after["run"]["rounds"] == value
    before.setdefault("run", {})["rounds"] = value
    assert after == before
