"""What a peer claims of its energy: counters that never go back, and nothing that nobody knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.energy import EnergyClaim
from swarm.energy.account import EnergyAccount, EnergyReport, Part
from swarm.energy.book import NOTHING, Book, after
from swarm.energy.claims import claim_json, totals
from swarm.energy.grid import Embodied, grid_of
from swarm.energy.reading import Energy, Kind, Unavailable, unavailable
from verify.energy import doubts

MODEL = "2 threads of a processor"


def report(
    compute: float | None = 10.0,
    kind: Kind = Kind.MODELLED,
    tokens: int = 100,
    octets: int = 5,
    seconds: float = 2.0,
    source: str = MODEL,
) -> EnergyReport:
    energy = unavailable(source) if compute is None else Energy(compute, kind, source, 0.5)
    wait = unavailable(source) if compute is None else Energy(1.0, kind, source, 0.5)
    network = Energy(octets / 1e6, Kind.MODELLED, "1 J/MB", 1.0)
    parts = (Part("cpu", "compute", energy), Part("cpu", "wait", wait), Part("network", "network", network))
    grid, made = grid_of("DEU"), Embodied(100.0, 4.0, "stated by the user")
    return EnergyReport(seconds, tokens, parts, octets, 1.0, grid, made)


def test_reports_add_up() -> None:
    claim = after(after(NOTHING, report()), report(20.0))
    assert claim.spent == ("modelled", 30_000, 0, 2_000)
    assert (claim.tokens, claim.milliseconds, claim.network_bytes) == (200, 4_000, 10)
    assert (claim.source, claim.uncertainty) == (MODEL, 500)
    assert claim.grid is not None
    assert EnergyClaim.parse(claim.encode()) == claim


REPORTS = st.lists(
    st.builds(
        report,
        st.none() | st.floats(0, 1e6),
        st.sampled_from([Kind.MEASURED, Kind.MODELLED]),
        st.integers(0, 10**6),
        st.integers(0, 10**12),
        st.floats(0, 1e4),
        st.text(min_size=1, max_size=300),
    ),
    max_size=8,
)


@given(REPORTS)
def test_whatever_meters_say_counters_never_go_back(reports: list[EnergyReport]) -> None:
    before = NOTHING
    for one in reports:
        now = after(before, one)
        assert EnergyClaim.parse(now.encode()) == now
        assert not list(doubts(before, now, 0)) or now.millijoules is not None
        assert not [doubt for doubt in doubts(before, now, 0) if "backwards" in doubt or "all along" in doubt]
        before = now


def test_what_nobody_knows_is_no_zero_and_stops_no_counter() -> None:
    nobody = after(NOTHING, report(None, source="no counter here"))
    assert (nobody.spent, nobody.tokens, nobody.source) == (None, 0, "no counter here")
    claim = after(after(after(NOTHING, report()), report(None)), report())
    assert claim.spent == ("modelled", 20_000, 0, 2_000)
    assert (claim.tokens, claim.milliseconds, claim.network_bytes) == (200, 4_000, 15)


def test_measured_and_modelled_together_are_modelled() -> None:
    claim = after(after(NOTHING, report(kind=Kind.MEASURED, source="RAPL")), report())
    assert (claim.kind, claim.source) == ("modelled", f"RAPL + {MODEL}")


def test_a_claim_is_saved_before_it_is_told_and_goes_on_after_a_restart() -> None:
    saved: list[EnergyClaim] = []
    book = Book(EnergyAccount([Unavailable("no counter")], 0.05), None, saved.append)
    book.account.count(network_bytes=7)
    first = book.claim(3)
    assert saved == [first]
    again = Book(EnergyAccount([Unavailable("no counter")], 0.05), saved[-1], saved.append)
    again.account.count(network_bytes=1)
    assert again.claim(0).network_bytes == 8


def test_json_keeps_meters_and_network_apart_and_kinds_too() -> None:
    known = after(NOTHING, report(octets=2_000_000))
    nobody = after(NOTHING, report(None, octets=1_000_000))
    told = claim_json(known, 0.5)
    assert (told["joules"], told["network_joules"], told["energy_kind"]) == (11.0, 1.0, "modelled")
    assert told["gco2e"] == pytest.approx(12.0 / 3.6e6 * told["grid"]["g_per_kwh"])
    assert claim_json(nobody, 0.5)["joules"] is None
    both = totals([known, nobody, after(NOTHING, report(kind=Kind.MEASURED))], 0.5)
    assert both["joules"] == {"modelled": 11.0, "measured": 11.0}
    assert (both["unavailable"], both["gco2e"]) == (1, None)
