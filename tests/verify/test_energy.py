"""Claims of energy: what cannot be is doubted, what an honest meter says never is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.energy import EnergyClaim
from verify.energy import doubts

PARAMETERS = 125_000_000


def claim(
    tokens: int = 8_192, joules: float = 100.0, seconds: float = 10.0, **changes: object
) -> EnergyClaim:
    fields: dict[str, object] = {
        "source": "RAPL package-0",
        "uncertainty": 50,
        "spent": ("measured", round(joules * 1000), 5, 5),
        "network_bytes": 10**9,
        "tokens": tokens,
        "milliseconds": round(seconds * 1000),
        "grid": (381_000, "DEU 2023"),
        "embodied": 12,
    }
    return EnergyClaim.model_validate(fields | changes)


def test_what_a_meter_of_any_machine_says_is_not_doubted() -> None:
    first, later = claim(), claim(tokens=16_384, joules=200.0, seconds=20.0)
    assert not list(doubts(None, first, PARAMETERS))
    assert not list(doubts(first, later, PARAMETERS))
    best = 6 * PARAMETERS * 8_192 / 2.3e12  # an accelerator at its data sheet's best
    assert not list(doubts(None, claim(joules=best), PARAMETERS))
    assert not list(doubts(None, claim(tokens=0, joules=0.0), PARAMETERS))
    assert not list(doubts(None, claim(spent=None, source="no counter: /sys is empty"), PARAMETERS))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**9), st.integers(1, 10**6))
def test_counters_that_grow_are_never_doubted(mj: int, more: int, octets: int, ms: int) -> None:
    before = claim(0, mj / 1000, ms / 1000, network_bytes=octets)
    after = claim(0, (mj + more) / 1000, (ms + more) / 1000, network_bytes=octets + more)
    assert not [one for one in doubts(before, after, 0) if "backwards" in one]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spent": ("measured", 99_999, 5, 5)}, "millijoules for training went from 100000 back to 99999"),
        ({"network_bytes": 1}, "bytes went from 1000000000 back to 1"),
        ({"tokens": 8_191}, "tokens went from 8192 back"),
        ({"milliseconds": 1_000}, "milliseconds went from 10000 back"),
        ({"embodied": 11}, "embodied milligrams went"),
    ],
)
def test_a_claim_that_contradicts_its_authors_own_is_doubted(changes: dict[str, object], said: str) -> None:
    assert any(said in doubt for doubt in doubts(claim(), claim(**changes), PARAMETERS))


def test_what_was_modelled_in_part_is_not_measured_as_a_whole() -> None:
    modelled, measured = claim(spent=("modelled", 100_000, 5, 5)), claim()
    assert any("measured all along" in doubt for doubt in doubts(modelled, measured, PARAMETERS))
    assert not list(doubts(measured, modelled, PARAMETERS))  # it had to change its meter


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (claim(joules=1.0), "no processor trains with less than 1.54 J"),
        (claim(joules=0.0), "0 J for 8192 tokens"),
        (claim(joules=1e6, seconds=1.0), "more than a rack server takes"),
    ],
)
def test_a_claim_that_physics_forbids_is_doubted(made: EnergyClaim, said: str) -> None:
    assert any(said in doubt for doubt in doubts(None, made, PARAMETERS))


def test_what_is_unavailable_has_no_amount() -> None:
    nobody = claim(spent=None, source="no counter")
    assert (nobody.kind, nobody.millijoules) == ("unavailable", None)
    assert (claim().kind, claim().millijoules) == ("measured", 100_010)
