"""The secure aggregation benchmark compares what it says it compares."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import in_process, secagg
from benchmarks.cell import Cell
from benchmarks.docs import growth, page, plot_growth
from benchmarks.in_process import InProcess, RoundFailed, Stopwatch, advert_of, fresh_secrets, identity_of
from benchmarks.report import Report, machine
from secagg.masks import Mask
from secagg.messages import Advert
from secagg.ring import CHUNK
from verify.identity import verify
from verify.statement import BadSignature, open_signed, sign

SIZE = 3 * CHUNK + 100


@pytest.mark.parametrize(
    ("members", "secure", "dropped", "bits"),
    [(4, True, 0, 16), (4, False, 0, 16), (4, True, 0, 32), (8, True, 2, 16)],
)
def test_a_round_in_process_gives_every_survivor_the_exact_sum(
    members: int, secure: bool, dropped: int, bits: int
) -> None:
    done = InProcess(members, SIZE, secure=secure, dropped=dropped, bits=bits).round()
    assert len(done.completed) == members - dropped
    assert {len(one.survivors) for one in done.completed.values()} == {members - dropped}


def test_a_wrong_sum_is_not_taken_for_a_round() -> None:
    cell = InProcess(4, CHUNK)
    done = cell.run()
    done.completed[cell.peers[2]].total[5] += 1
    with pytest.raises(RoundFailed, match=cell.peers[2]):
        cell.check(done)


def test_a_drop_out_sends_no_part_but_its_secrets_were_dealt() -> None:
    cell = InProcess(8, SIZE, dropped=2)
    done = cell.round()
    for peer in cell.dropped:
        assert set(done.traffic[peer].up) == {"share-list", "ready"}


def test_no_member_profits_from_a_signature_that_another_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def counting(*statement: object) -> bool:
        checked.append(statement)
        return verify(*statement)  # type: ignore[arg-type]

    monkeypatch.setattr(in_process, "verify", counting)
    raw = sign(identity_of(0), advert_of(fresh_secrets(), 1, secure=True))
    one, other = in_process.own_check(Stopwatch()), in_process.own_check(Stopwatch())
    assert one(raw, Advert) == one(raw, Advert) == other(raw, Advert)
    assert one(raw, Advert)[1] == open_signed(raw, Advert).message
    assert len(checked) == 2
    with pytest.raises(BadSignature):
        one(raw[:-1] + bytes([raw[-1] ^ 1]), Advert)


def test_time_inside_something_else_counts_once() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    with watch.measure("outer"):
        now[0] += 1
        with watch.measure("inner"):
            now[0] += 10
        now[0] += 100
    assert watch.seconds == {"outer": 101.0, "inner": 10.0}


def test_the_bare_keystreams_are_those_that_masking_adds() -> None:
    masks: list[Mask] = [(b"a" * 32, 1), (b"b" * 32, -1), (b"c" * 32, 1)]
    masked = np.zeros(2 * CHUNK, np.int16)
    secagg.add_masks(masked, masks)
    streams: list[np.ndarray] = []
    secagg.aes(
        secagg.keys_of(len(masked), masks), lambda stream: streams.append(np.frombuffer(stream, "<i2").copy())
    )
    total = np.zeros((2, CHUNK), np.int16)
    for place, stream in enumerate(streams):
        total[place // 3] += stream * np.int16(masks[place % 3][1])
    assert len(streams) == 6
    assert np.array_equal(total.reshape(-1), masked)


def test_a_member_sends_and_gets_what_the_protocol_says() -> None:
    members, size = 4, 4 * CHUNK
    for bits in (16, 32):
        done = InProcess(members, size, bits=bits).round()
        up, down = (
            {
                kind: sum(getattr(one, way)[kind] for one in done.traffic.values())
                for kind in ("part", "part-sum", "release")
            }
            for way in ("up", "down")
        )
        assert up == down
        for kind in ("part", "part-sum"):  # three quarters of the vector each, and a header for each transfer
            headers = up[kind] - (members - 1) * size * bits // 8
            assert 0 < headers < 400 * members * (members - 1)


def test_a_secure_cell_over_tls_gives_every_member_the_mean() -> None:
    with Cell(4, CHUNK, secure=True) as cell:
        assert cell.round() > 0
        assert cell.round() > 0


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        ({"mask_over_aes": 1.2}, 0),
        ({"mask_over_aes": 1.4}, 1),
        ({"mask_over_aes": 1.2, "cpu_seconds_n8_d125M": 9.0}, 0),
    ],
)
def test_the_exit_status_is_that_of_the_starred_goals(
    monkeypatch: pytest.MonkeyPatch, figures: dict[str, float], status: int
) -> None:
    monkeypatch.setattr(secagg, "measure", lambda quick: Report("secagg", figures, secagg.GOALS))
    monkeypatch.setattr(sys, "argv", ["secagg", "--quick"])
    assert secagg.main() == status


def test_every_point_against_flower_has_its_goal() -> None:
    names = [name for name in secagg.GOALS if name.startswith("cpu_ratio_flower")]
    assert len(names) == 11
    assert {"cpu_ratio_flower_n4_d100k", "cpu_ratio_flower_n16_d1M_dropped4"} <= set(names)
    assert set(secagg.STARRED) <= set(secagg.GOALS)


def test_the_page_shows_the_growth_that_was_measured(tmp_path: Path) -> None:
    points = {"n4_d1M": 0.01, "n8_d1M": 0.02, "n8_d10M": 0.1, "n8_d125M": 1.2}
    figures = {f"growth_cpu_seconds_{where}": value for where, value in points.items()}
    figures |= {f"growth_megabytes_{where}": 10 * value for where, value in points.items()}
    report = Report("secagg", figures, secagg.GOALS, command="python -m benchmarks.secagg", machine=machine())
    assert growth(report, "cpu_seconds")[8, 125_000_000] == 1.2
    plot_growth(report, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert "images/secagg-growth.png" in page([report])
