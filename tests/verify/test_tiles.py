"""An exported ledger: the layout other tools read, the ledger's answers, and no changed byte is believed."""

import base64
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto import merkle
from verify.checkpoint import Checkpoint, CheckpointRefused, note_body, origin_of, write_checkpoint
from verify.identity import Identity
from verify.ledger import INLINE, MOST_FINDINGS, Entry, Ledger, NotInLedger
from verify.tiles import (
    MAX_FILE,
    ExportedLedger,
    ExportFailed,
    ExportUnreadable,
    ExportWrong,
    export,
    tile_path,
)

RUN = bytes(range(32))
ALICE, BOB = (Identity.from_seed(bytes(31) + bytes([n])) for n in range(2))
BIG = b"large " * INLINE
SIZE = 600
MORE = {"genesis": b"signed genesis", "manifest.toml": b"[run]\n"}


def make_ledger(size: int) -> Ledger:
    ledger = Ledger(":memory:", ALICE.peer_id, RUN)
    ledger.append([("evidence", BIG)] * min(size, 1))
    ledger.append([("vote", b"content %d" % number) for number in range(1, size)])
    return ledger


def head_of(ledger: Ledger, size: int | None = None) -> str:
    size = ledger.size if size is None else size
    return write_checkpoint(Checkpoint(origin_of(RUN, ALICE.peer_id), size, ledger.root(size)), ALICE)


def exported(size: int, folder: Path) -> Path:
    ledger = make_ledger(size)
    export(ledger, folder, head_of(ledger), MORE)
    return folder


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return make_ledger(SIZE)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> Path:
    folder = tmp_path_factory.mktemp("export") / "clean"
    export(ledger, folder, head_of(ledger), MORE)
    return folder


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "copy")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


def flip(at: int, bit: int = 0) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


# -- the layout -------------------------------------------------------------------------------------------


def test_paths_are_those_of_the_specification() -> None:
    assert tile_path("0", 1_234_067, 256) == "tile/0/x001/x234/067"
    assert tile_path("entries", 0, 256) == "tile/entries/000"
    assert tile_path("1", 1_000, 17) == "tile/1/x001/000.p/17"
    assert tile_path("2", 999, 1) == "tile/2/999.p/1"


def test_the_folder_holds_what_the_specification_says_and_nothing_else(clean: Path) -> None:
    assert files(clean) == sorted(
        [
            "checkpoint",
            "genesis",
            f"large/{hashlib.sha256(BIG).hexdigest()}",
            "manifest.toml",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/88",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/88",
        ]
    )


def test_a_reader_written_from_the_specification_alone_finds_the_root(clean: Path, ledger: Ledger) -> None:
    origin, size, root = (clean / "checkpoint").read_text().split("\n")[:3]
    leaves = []
    for name in ("000", "001", "002.p/88"):
        raw = (clean / "tile/entries" / name).read_bytes()
        hashes = b""
        while raw:
            length = int.from_bytes(raw[:2], "big")
            leaf = hashlib.sha256(b"\0" + raw[2 : 2 + length]).digest()
            leaves.append(leaf)
            hashes, raw = hashes + leaf, raw[2 + length :]
        assert (clean / "tile/0" / name).read_bytes() == hashes
    level_1 = (clean / "tile/1/000.p/2").read_bytes()
    assert level_1 == merkle.root(leaves[:256]) + merkle.root(leaves[256:512])
    assert origin == f"edgeswarm/{RUN.hex()}/{ALICE.peer_id}"
    assert int(size) == len(leaves) == SIZE
    assert base64.b64decode(root) == merkle.root(leaves) == ledger.root(SIZE)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 700])
def test_an_export_answers_as_the_ledger_does(size: int, tmp_path: Path) -> None:
    ledger, folder = make_ledger(size), exported(size, tmp_path / "out")
    again = ExportedLedger(folder)
    assert (again.run, again.author, again.size) == (RUN, ALICE.peer_id, size)
    assert again.head() == ledger.head()
    assert again.entries(0, size + 5) == ledger.entries(0, size)
    assert again.entries(size // 2, 300) == ledger.entries(size // 2, 300)
    assert again.entries(size, 1) == again.entries(-1, 1) == again.entries(0, -1) == []
    for part in {0, 1, size // 3, size - 1, size} & set(range(size + 1)):
        assert again.root(part) == ledger.root(part)
        assert again.consistency(part, size) == ledger.consistency(part, size)
        if part:
            assert again.inclusion(part - 1, size) == ledger.inclusion(part - 1, size)
    assert again.large(hashlib.sha256(BIG).digest()) == (BIG if size else None)
    assert again.large(bytes(32)) is None
    assert again.file("genesis") == MORE["genesis"]
    assert again.file("missing") is None
    assert again.check() == []


def test_three_levels_of_tiles_with_nothing_on_the_middle_ones_edge(tmp_path: Path) -> None:
    size = 65_536 + 5
    folder = exported(size, tmp_path / "out")
    assert {"tile/0/255", "tile/0/256.p/5", "tile/1/000", "tile/2/000.p/1"} <= set(files(folder))
    assert not (folder / "tile/1/001.p").exists()
    again = ExportedLedger(folder)
    assert merkle.verify_inclusion(
        merkle.leaf_hash(again.entries(777, 1)[0]), 777, size, again.inclusion(777, size), again.head()[1]
    )
    change(folder / "tile/1/000", flip(32 * 9))
    change(folder / "tile/2/000.p/1", flip(0))
    assert again.check() == [
        f"{folder}/tile/1/000: hash 9 is not that of the entries from 2304 on",
        f"{folder}/tile/2/000.p/1: hash 0 is not that of the entries from 0 on",
    ]


def test_a_head_of_the_past_is_exported_as_it_was(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "out", head_of(ledger, 300), {})
    again = ExportedLedger(tmp_path / "out")
    assert again.head() == (300, ledger.root(300))
    assert again.entries(0, 1_000) == ledger.entries(0, 300)
    assert again.check() == []


def test_contents_that_were_forgotten_are_left_out(tmp_path: Path) -> None:
    ledger = make_ledger(3)
    ledger.forget_large(0)
    export(ledger, tmp_path / "out", head_of(ledger), {})
    again = ExportedLedger(tmp_path / "out")
    assert again.large(Entry.parse(again.entries(0, 1)[0]).sha256) is None
    assert again.check() == []


def test_indexes_that_are_not_there_are_named(clean: Path) -> None:
    again = ExportedLedger(clean)
    for call in (
        lambda: again.inclusion(SIZE, SIZE),
        lambda: again.inclusion(0, SIZE + 1),
        lambda: again.consistency(2, 1),
        lambda: again.root(-1),
        lambda: again.node(9, 1),
    ):
        with pytest.raises(NotInLedger, match=r"entries|first"):
            call()


# -- what cannot be exported ------------------------------------------------------------------------------


def test_a_head_that_is_not_the_ledgers_is_not_exported(ledger: Ledger, tmp_path: Path) -> None:
    other = make_ledger(SIZE + 1)
    elsewhere = Checkpoint(origin_of(bytes(32), ALICE.peer_id), SIZE, ledger.root(SIZE))
    others = Checkpoint(origin_of(RUN, BOB.peer_id), SIZE, ledger.root(SIZE))
    unsigned = head_of(ledger).replace("\n600\n", "\n599\n")
    for text in (
        head_of(other),
        write_checkpoint(Checkpoint(origin_of(RUN, ALICE.peer_id), SIZE, bytes(32)), ALICE),
        write_checkpoint(elsewhere, ALICE),
        write_checkpoint(others, BOB),
        unsigned,
    ):
        with pytest.raises((ExportFailed, CheckpointRefused)):
            export(ledger, tmp_path / "out", text, {})
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_no_name_leads_elsewhere(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "plain").touch()
    for folder in (tmp_path / "full", tmp_path / "plain"):
        with pytest.raises(ExportFailed, match="folder"):
            export(ledger, folder, head_of(ledger), {})
    for name in ("../genesis", "a/b", "/etc/x", "checkpoint", "tile", "large", ".", "..", ".hidden", ""):
        with pytest.raises(ValueError, match="no name"):
            export(ledger, tmp_path / "out", head_of(ledger), {name: b""})


# -- what was changed is found ----------------------------------------------------------------------------


def refused(work: Callable[[], object]) -> str:
    with pytest.raises((ExportUnreadable, ExportWrong)) as caught:
        work()
    return str(caught.value)


def test_a_changed_entry_is_named(copy: Path) -> None:
    change(copy / "tile/entries/001", flip(-9))
    name = f"{copy}/tile/entries/001: entry 511 does not have the hash"
    again = ExportedLedger(copy)
    assert again.check()[0].startswith(name)
    assert len(again.check()) == 1
    assert refused(lambda: again.entries(300, 1)).startswith(name)
    assert len(again.entries(0, 256)) == 256  # other bundles are none the worse


def test_a_changed_hash_is_named_and_nothing_under_it_is_believed(copy: Path) -> None:
    change(copy / "tile/0/001", flip(32 * 7))
    again = ExportedLedger(copy)
    assert again.check() == [f"{copy}/tile/0/001: hash 7 is not that of the entries from 263 on"]
    assert f"{copy}/tile/0/001" in refused(lambda: again.inclusion(300, SIZE))
    assert f"{copy}/tile/0/001" in refused(lambda: again.entries(300, 1))


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("tile/0/002.p/88", "tile/0/002.p/88: hash 3 is not that of the entries from 515 on"),
        ("tile/1/000.p/2", "tile/1/000.p/2: hash 1 is not that of the entries from 256 on"),
    ],
)
def test_a_changed_hash_on_the_edge_is_named(copy: Path, name: str, finding: str) -> None:
    change(copy / name, flip(32 * 3 if "88" in name else 32))
    again = ExportedLedger(copy)
    assert again.check() == [f"{copy}/{finding}"]
    assert "root in `checkpoint`" in refused(lambda: again.entries(0, 1))


def test_an_entry_changed_together_with_its_hashes_is_found(copy: Path) -> None:
    change(copy / "tile/entries/001", flip(-9))
    raw = (copy / "tile/entries/001").read_bytes()
    leaf = merkle.leaf_hash(raw[-len(Entry.of("vote", b"content 511").encode()) :])
    change(copy / "tile/0/001", lambda hashes: hashes[: 255 * 32] + leaf)
    again = ExportedLedger(copy)
    assert again.check() == [
        f"{copy}/tile/1/000.p/2: the entries from 256 on, and their tiles, do not give its hash 1"
    ]
    assert "tile/0/001" in refused(lambda: again.entries(511, 1))
    # And with every tile above it: then only the head contradicts.
    leaves = (copy / "tile/0/001").read_bytes()
    top = merkle.root([leaves[at : at + 32] for at in range(0, len(leaves), 32)])
    change(copy / "tile/1/000.p/2", lambda hashes: hashes[:32] + top)
    again = ExportedLedger(copy)
    assert again.check() == [f"{copy}/checkpoint: its root is not that of the 600 entries"]
    assert "root in `checkpoint`" in refused(lambda: again.entries(0, 1))


def test_two_entries_in_the_wrong_order_are_found(copy: Path) -> None:
    one, two = (Entry.of("vote", b"content %d" % n).encode() for n in (300, 301))
    change(
        copy / "tile/entries/001", lambda raw: raw.replace(one, b"<1>").replace(two, one).replace(b"<1>", two)
    )
    assert "entry 300" in ExportedLedger(copy).check()[0]


def test_a_root_that_its_author_signed_is_not_therefore_right(copy: Path) -> None:
    lie = write_checkpoint(Checkpoint(origin_of(RUN, ALICE.peer_id), SIZE, bytes(32)), ALICE)
    (copy / "checkpoint").write_text(lie)
    again = ExportedLedger(copy)
    assert again.check() == [f"{copy}/checkpoint: its root is not that of the 600 entries"]
    refused(lambda: again.entries(0, 1))


def test_a_head_signed_by_another_is_found(copy: Path, ledger: Ledger) -> None:
    forged = write_checkpoint(Checkpoint(origin_of(RUN, BOB.peer_id), SIZE, ledger.root(SIZE)), BOB)
    signature = forged.split("\n\n")[1]
    (copy / "checkpoint").write_text(note_body(head_of(ledger)) + "\n" + signature)
    assert "did not sign" in ExportedLedger(copy).check()[0]


@pytest.mark.parametrize("name", ["tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001"])
def test_missing_and_cut_files_are_named_and_the_rest_is_read(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole + b"\0", b""):
        (copy / name).write_bytes(content)
        again = ExportedLedger(copy)
        assert any(finding.startswith(f"{copy}/{name}") for finding in again.check())
        assert name in refused(lambda: (again.entries(300, 1), again.entries(590, 1)))  # noqa: B023
    (copy / name).unlink()
    again = ExportedLedger(copy)
    assert any(f"{name} is missing" in finding for finding in again.check())
    with pytest.raises(ExportUnreadable, match="is missing: export"):
        (again.entries(300, 1), again.entries(590, 1))
    assert ExportUnreadable.exit_code == 2


def test_what_is_missing_does_not_hide_what_is_wrong_after_it(copy: Path) -> None:
    (copy / "tile/entries/000").unlink()
    change(copy / "tile/entries/002.p/88", flip(-9))
    found = ExportedLedger(copy).check()
    assert "tile/entries/000 is missing" in found[0]
    assert "entry 599 does not" in found[1]
    (copy / "tile/0/000").unlink()
    assert "nothing from entry 0 on was checked" in ExportedLedger(copy).check()[1]


def test_a_folder_without_a_head_is_unreadable(copy: Path, tmp_path: Path) -> None:
    (copy / "checkpoint").unlink()
    for folder in (copy, tmp_path / "nowhere"):
        with pytest.raises(ExportUnreadable, match="no file `checkpoint`"):
            ExportedLedger(folder)
    for content in (b"\xff\n\n", b"", b"hello\n", bytes(1 << 20)):
        (copy / "checkpoint").write_bytes(content)
        with pytest.raises((CheckpointRefused, ExportUnreadable)):
            ExportedLedger(copy)


def test_large_contents_are_checked_by_their_name(copy: Path) -> None:
    digest = hashlib.sha256(BIG).digest()
    change(copy / "large" / digest.hex(), flip(5))
    (copy / "large" / "other").touch()
    (copy / "large" / ("z" * 64)).touch()
    again = ExportedLedger(copy)
    assert "does not have the hash" in refused(lambda: again.large(digest))
    assert [finding.split(": ")[1][:14] for finding in again.check()] == [
        "its content do",
        *["the name of a "] * 2,
    ]


def test_pipes_links_and_files_without_end_are_not_read(copy: Path, tmp_path: Path) -> None:
    digest = bytes(32)
    path = copy / "large" / digest.hex()
    os.mkfifo(path)
    assert "plain file" in refused(lambda: ExportedLedger(copy).large(digest))
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(lambda: ExportedLedger(copy).large(digest))
    path.unlink()
    path.mkdir()
    refused(lambda: ExportedLedger(copy).large(digest))
    with (copy / "genesis").open("wb") as file:
        file.truncate(1 << 40)
    assert f"more than {MAX_FILE}" in refused(lambda: ExportedLedger(copy).file("genesis"))
    with (copy / "tile/0/001").open("r+b") as file:
        file.truncate(1 << 40)
    assert "more than 8192" in refused(lambda: ExportedLedger(copy).entries(300, 1))


def test_a_head_that_claims_more_than_can_be_is_no_trouble(copy: Path) -> None:
    huge = write_checkpoint(Checkpoint(origin_of(RUN, ALICE.peer_id), (1 << 63) - 1, bytes(32)), ALICE)
    (copy / "checkpoint").write_text(huge)
    again = ExportedLedger(copy)
    refused(lambda: again.entries(1 << 62, 1 << 62))
    refused(lambda: again.inclusion(5, 1 << 62))
    found = again.check()
    assert 0 < len(found) <= MOST_FINDINGS + 1
    assert "was checked" in "".join(found)


def test_findings_are_bounded(copy: Path) -> None:
    for number in range(40):
        (copy / "large" / f"bad {number}").touch()
    found = ExportedLedger(copy).check()
    assert len(found) == MOST_FINDINGS + 1
    assert found[-1] == "and more"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 100), at=st.integers(0, 1 << 30), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found_and_never_believed(
    clean: Path, ledger: Ledger, which: int, at: int, bit: int
) -> None:
    names = [name for name in files(clean) if name not in MORE]
    path = clean / names[which % len(names)]
    whole = path.read_bytes()
    path.write_bytes(flip(at % len(whole), bit)(whole))
    try:
        try:
            again = ExportedLedger(clean)
        except (CheckpointRefused, ExportUnreadable):
            return
        found = again.check()
        assert any(str(path) in finding for finding in found)
        for start in (0, 300, 599):
            try:
                assert again.entries(start, 1) == ledger.entries(start, 1)
                assert again.inclusion(start, SIZE) == ledger.inclusion(start, SIZE)
                assert again.large(hashlib.sha256(BIG).digest()) == BIG
            except (ExportWrong, ExportUnreadable, NotInLedger):
                continue
    finally:
        path.write_bytes(whole)
