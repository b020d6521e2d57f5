"""What a manifest promises: one that was read can be run, and one that was refused says where and why."""

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swarm.genesis import check_openings
from swarm.manifest import MAX_MANIFEST, Manifest, ManifestRefused, load_manifest, parse_manifest
from swarm.model import build_layout

ALICE = "12D3KooW" + "A" * 44
BOB = "12D3KooW" + "B" * 44

# The complete example of every key.
COMPLETE = b"""\
[run]
name = "demo"
rounds = 200                 # a run ends here, or at heldout_loss
heldout_loss = 0.0           # 0 = no target
min_peers = 4                # training starts when the roster has so many
admission = "open"           # or "invited"
stewards = []                # PeerIDs; empty = the founder
recovery_threshold = 1       # k of the stewards
founding_peers = []

[model]
preset = "tiny"              # tiny | opt-125m | opt-1.3b, or `source = "PATH or hub name"`
shards = 1
layers = []                  # decoder layers of each shard; empty = cut to be fast
boundary = "fp16"            # tensors between shards: fp32 | fp16 | bf16 | int8
dtype = "float32"

[data]
mode = "shared"              # or "own"
source = "mmlu"              # mmlu | path (text, JSONL, Parquet) | hub name
tokenizer = "gpt2"           # from the package; or the model's own
sequence_length = 128
heldout_fraction = 0.05

[work]
slices = 4                   # G
sequences_per_slice = 16     # B
window_seconds = 20.0

[outer]
optimizer = "adamw"
learning_rate = 1e-3
warmup_rounds = 10
schedule = "cosine"
betas = [0.9, 0.95]
eps = 1e-8
weight_decay = 0.01
clip = 8.0                   # elementwise, in units of the agreed block RMS

[aggregation]
mode = "secure"              # or "plain": updates are seen by the owners of their parts
ring_bits = 16
levels = 0                   # Q; 0 = the largest that fits
largest_cell = 16            # at most 32
sanity_rms = 4.0
initial_scale = 1e-3         # until the agreed state has one

[verification]
rate = 0.2                   # q: chance a peer is checked in a round
chunk_fraction = 0.02        # at least 8 chunks
tolerance = 5e-3             # calibrated by benchmarks.tolerance
strikes = 3
probation_checks = 3
opening_budget = 50

[membership]
suspend_after = 3            # K records missed
round_timeout_seconds = 60
snapshots_kept = 3

[energy]
joules_per_megabyte = 0.05   # the paper's figure; a parameter
"""

LARGE = "[run]\nmin_peers = 8\n[model]\npreset = 'opt-1.3b'\nshards = 2\n"
PLAIN_SHARDS = "[aggregation]\nmode = 'plain'\n[model]\nshards = 2\n"


def refusal(text: str | bytes) -> str:
    with pytest.raises(ManifestRefused) as caught:
        parse_manifest(text.encode() if isinstance(text, str) else text)
    return str(caught.value)


def test_the_complete_example_is_what_an_empty_manifest_means() -> None:
    assert parse_manifest(COMPLETE) == parse_manifest(b"") == Manifest()


def test_the_complete_example_names_every_key() -> None:
    tables = tomllib.loads(COMPLETE.decode())
    shown = {(table, key) for table, keys in tables.items() for key in keys}
    dumped = Manifest().model_dump()
    assert {(table, key) for table, keys in dumped.items() for key in keys} - shown == {("model", "source")}


def test_docs_name_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()
    for table, keys in Manifest().model_dump().items():
        assert f"## [{table}]" in text
        for key in keys:
            assert f"| `{key}` |" in text, f"{table}.{key}"


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Manifest().run.rounds = 3  # type: ignore[misc]


def test_loading_hands_back_the_exact_bytes(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    raw = b"# a comment\r\n[work]\r\nslices = 2\r\n"
    file.write_bytes(raw)
    manifest, exact = load_manifest(file)
    assert (manifest.work.slices, exact) == (2, raw)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestRefused, match=r"absent\.toml cannot be read"):
        load_manifest(tmp_path / "absent.toml")


def test_a_refused_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[work]\nslices = 0\n")
    with pytest.raises(ManifestRefused, match=r"run\.toml: .*\n  line 2: "):
        load_manifest(file)


def test_the_ring_holds_every_possible_sum() -> None:
    manifest = Manifest()
    assert 16 * 4 * manifest.ring.levels < 1 << 15
    assert 16 * 4 * (manifest.ring.levels + 1) >= 1 << 15


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        # unknown keys and tables, with the nearest known one
        ("\n[work]\nslice = 4\n", 3, ['[work] "slice"', "unknown key", "did you mean slices?"]),
        ("[aggregaton]\nlevels = 0\n", 1, ["unknown table", "did you mean aggregation?"]),
        ("\nzzz = 1\n", 2, ["unknown table", "run, model"]),
        # types
        ("[work]\n\nslices = '4'\n", 3, ['slices = "4"', "valid integer", "the default is slices = 4"]),
        ("[work]\nslices = true\n", 2, ["slices = True", "valid integer"]),
        ("[work]\nslices = 4.0\n", 2, ["slices = 4.0", "valid integer"]),
        ("[run]\nname = 7\n", 2, ["name = 7", "valid string"]),
        ("model = 3\n", 1, ["model = 3", "[model]"]),
        ("[outer]\nbetas = 0.9\n", 2, ["betas = 0.9", "the default is betas = [0.9, 0.95]"]),
        ("[outer]\nbetas = [0.9]\n", 2, ["betas"]),
        # NaN, infinity, bounds
        ("[outer]\nlearning_rate = nan\n", 2, ["learning_rate = nan", "finite"]),
        ("[outer]\nclip = inf\n", 2, ["clip = inf", "finite"]),
        ("[outer]\nbetas = [0.9, 1.0]\n", 2, ["1.0", "must be less than 1"]),
        ("[outer]\nbetas = [-0.1, 0.9]\n", 2, ["-0.1", "must be greater than or equal to 0"]),
        ("[work]\nslices = 0\n", 2, ["slices = 0", "must be greater than or equal to 1"]),
        ("[work]\nsequences_per_slice = 0\n", 2, ["sequences_per_slice = 0"]),
        ("[run]\nmin_peers = 0\n", 2, ["min_peers = 0"]),
        ("[aggregation]\nlargest_cell = 33\n", 2, ["largest_cell = 33", "must be less than or equal to 32"]),
        ("[data]\nheldout_fraction = 0.0\n", 2, ["heldout_fraction = 0.0", "greater than 0"]),
        ("[data]\nheldout_fraction = 0.51\n", 2, ["heldout_fraction = 0.51", "0.5"]),
        ("[verification]\nrate = 1.5\n", 2, ["rate = 1.5"]),
        ("[run]\nrounds = 99999999999999999999999999\n", 2, ["rounds = 9999"]),
        # names
        ("[model]\npreset = 'opt-6.7b'\n", 2, ['preset = "opt-6.7b"', "'opt-125m'"]),
        ('[run]\nname = "\\u001b[2J"\n', 2, ["name"]),
        ("[run]\nstewards = ['me']\n", 2, ["stewards", '"me"', "12D3KooW"]),
        ("[data]\nsource = 'mmluu'\n", 2, ['source = "mmluu"', "mmlu", ".parquet", "hub name"]),
        # combinations
        ("[data]\nmode = 'own'\n[model]\nshards = 2\n", 2, ['mode = "own"', "shards = 1"]),
        # shards
        ("[model]\nshards = 0\n", 2, ["shards = 0", "greater than or equal to 1"]),
        ("[model]\nshards = 33\n", 2, ["shards = 33", "less than or equal to 32"]),
        ("[model]\nlayers = [2, 0]\n", 2, ["layers = 0", "greater than or equal to 1"]),
        ("[model]\nlayers = [true]\n", 2, ["layers = True", "valid integer"]),
        ("[model]\nboundary = 'fp8'\n", 2, ['boundary = "fp8"', "'fp32', 'fp16', 'bf16' or 'int8'"]),
        ("[model]\nshards = 3\n[run]\nmin_peers = 12\n", 2, ["tiny has 2 layers", "at most 2"]),
        ("[model]\nshards = 2\n", 1, ["min_peers (by default)", "2 shards have a cell each", "set it to 8"]),
        ("[run]\nmin_peers = 7\n[model]\nshards = 2\n", 2, ["min_peers = 7", "set it to 8", "plain"]),
        ("[model]\npreset = 'opt-125m'\nshards = 9\n", 3, ["9 cells of 4 peers", "at most 8", "plain"]),
        (
            "[run]\nmin_peers = 1\n[model]\nshards = 2\n[aggregation]\nmode = 'plain'\n",
            2,
            ["each of 2 shards needs a peer", "set it to 2"],
        ),
        ("[model]\nlayers = [1, 1]\n", 2, ["names 2 shards, model.shards is 1", "leave it out"]),
        (f"{PLAIN_SHARDS}layers = [1, 2]\n", 5, ["these are 3 layers, tiny has 2"]),
        (
            f"{LARGE}[data]\nsequence_length = 2048\n",
            7,
            ["1 x 2047 hidden states of 2048 in fp16 are 8392700 bytes", "at most 896", "model.boundary"],
        ),
        (
            f"{LARGE}boundary = 'fp32'\n[data]\nsequence_length = 450\n",
            8,
            ["hidden states of 2048 in fp32", "at most 449"],
        ),
        ("[run]\nmin_peers = 5\n[aggregation]\nlargest_cell = 4\n", 2, ["min_peers = 5", "at most 4"]),
        ("[aggregation]\nlargest_cell = 2\n", 1, ["min_peers (by default)", "at most 2"]),
        ("[run]\nrecovery_threshold = 2\n", 2, ["the founder is the only steward"]),
        (f"[run]\nstewards = ['{ALICE}']\nrecovery_threshold = 2\n", 3, ["at most 1"]),
        (f"[run]\nstewards = ['{ALICE}', '{ALICE}']\n", 2, ["occurs twice"]),
        ("[run]\nadmission = 'invited'\n", 2, ["invitation", "name stewards"]),
        ("[membership]\nsnapshots_kept = 2\n", 2, ["keep 3", "verification.rate = 0"]),
        (
            f"[run]\nmin_peers = 1\nfounding_peers = ['{ALICE}', '{BOB}']\n[aggregation]\nlargest_cell = 2\n",
            3,
            ["3 peers", "largest cell holds 2"],
        ),
        ("[model]\npreset = 'tiny'\nsource = 'facebook/opt-125m'\n", 3, ["a preset or a source, not both"]),
        ("[data]\ntokenizer = 'model'\n", 2, ['tokenizer = "gpt2"']),
        ("[data]\nsequence_length = 1024\n", 2, ["tiny reads at most 512 tokens"]),
        ("[run]\nmin_peers = 3\n", 2, ["min_peers = 3", "fewer than 4 peers", 'mode = "plain"']),
        ("[aggregation]\nlargest_cell = 3\nmode = 'secure'\n", 1, ["min_peers (by default)", "at most 3"]),
        # ring overflow: 16 x 4 x 512 = 2^15
        ("[aggregation]\nlevels = 512\n", 2, ["levels = 512"]),
        ("[aggregation]\n\nlevels = 15\n", 3, ["levels = 15"]),
        ("[work]\nslices = 1000\n", 1, ["levels (by default)"]),
        ("[work]\nslices = 193\n", 2, ["evidence", "at most 192", "verification.rate = 0"]),
        ("[work]\nslices = 97\n[aggregation]\nring_bits = 32\n", 2, ["evidence", "at most 96"]),
        # syntax
        ("[run]\nname = demo\n", 2, ["not TOML", "correct the syntax"]),
        ("[run]\nrounds = 1\nrounds = 2\n", 3, ["not TOML"]),
    ],
)
def test_what_cannot_run_is_refused_with_line_value_and_fix(text: str, line: int, said: list[str]) -> None:
    message = refusal(text)
    assert any(
        entry.startswith(f"  line {line}: ") and all(part in entry for part in said)
        for entry in message.split("\n")
    ), message


def test_all_reasons_come_at_once() -> None:
    message = refusal("[work]\nslices = 0\n[outer]\nclip = -1\nspeed = 3\n")
    assert [line.split(":")[0].strip() for line in message.split("\n")[1:]] == ["line 2", "line 4", "line 5"]


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_fewer_than_four_peers_run_without_masks_only(peers: int) -> None:
    text = f"[run]\nmin_peers = {peers}\n"
    assert 'aggregation.mode = "plain"' in refusal(text)
    assert parse_manifest(f"{text}[aggregation]\nmode = 'plain'\n".encode()).run.min_peers == peers


def test_a_model_in_shards_may_say_which_layers_each_has() -> None:
    text = (
        "[run]\nmin_peers = 8\n[model]\npreset = 'opt-125m'\nshards = 2\nlayers = [5, 7]\nboundary = 'int8'\n"
    )
    model = parse_manifest(text.encode()).model
    assert (model.shards, model.layers, model.boundary) == (2, (5, 7), "int8")
    assert parse_manifest(PLAIN_SHARDS.encode()).model.layers == ()


@pytest.mark.parametrize(("length", "codec"), [(896, "fp16"), (449, "fp32"), (1_789, "int8")])
def test_the_longest_boundary_tensor_fits_a_message_and_one_token_more_does_not(
    length: int, codec: str
) -> None:
    text = f"{LARGE}boundary = '{codec}'\n[verification]\nrate = 0.0\n[data]\nsequence_length = "
    parse_manifest(f"{text}{length}\n".encode())
    assert f"set it to at most {length}" in refusal(f"{text}{length + 1}\n")


def test_what_a_slice_brings_to_a_shard_fits_a_file_of_evidence_where_peers_are_checked() -> None:
    text = f"{LARGE}[data]\nsequence_length = 896\n[work]\nsequences_per_slice = "
    assert "sequences_per_slice = 4: evidence has" in refusal(f"{text}4\n")
    assert "set it to at most 3" in refusal(f"{text}4\n")
    parse_manifest(f"{text}3\n".encode())


def test_inline_tables_and_dotted_keys_have_lines() -> None:
    assert "line 2: [work] slices = 0" in refusal('run.name = "x"\nwork.slices = 0\n')
    assert "line 2: [work] slices = 0" in refusal('run.name = "x"\nwork = { slices = 0 }\n')


def test_a_source_replaces_the_default_preset() -> None:
    model = parse_manifest(b"[model]\nsource = 'facebook/opt-125m'\n").model
    assert (model.preset, model.source) == (None, "facebook/opt-125m")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("mmlu", "mmlu"),
        ("texts/a.TXT", "file"),
        ("a.parquet", "file"),
        ("own/er.jsonl", "file"),
        ("a/b-c_d.e", "hub"),
    ],
)
def test_a_data_source_is_told_by_its_name(source: str, kind: str) -> None:
    assert parse_manifest(f"[data]\nsource = '{source}'\n".encode()).data.kind == kind


def test_an_oversize_manifest_is_refused_before_it_is_read() -> None:
    with pytest.raises(ManifestRefused, match=f"at most {MAX_MANIFEST} bytes"):
        parse_manifest(b"#" * (MAX_MANIFEST + 1))


def test_hostile_toml_is_refused_without_a_traceback() -> None:
    assert "line 2: not UTF-8" in refusal(b"[run]\nname = '\xff'\n")
    refusal("a = " + "[" * 60_000)
    refusal("[run]\nrounds = " + "9" * 60_000)
    assert len(refusal("[run]\nname = '" + "x" * 60_000 + "'\n")) < 400


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ManifestRefused):
        assert isinstance(parse_manifest(raw), Manifest)


def test_a_sanity_bound_below_the_rounding_noise_is_refused() -> None:
    with pytest.raises(ManifestRefused, match="sanity_rms"):
        parse_manifest(b"[aggregation]\nsanity_rms = 1\nlevels = 16\n")


@pytest.mark.parametrize(("bits", "most"), [(16, None), (32, "0.0121")])
def test_a_founder_is_told_where_a_check_opens_more_than_an_answer_holds(bits: int, most: str | None) -> None:
    manifest = parse_manifest(f'[model]\npreset = "opt-1.3b"\n[aggregation]\nring_bits = {bits}\n'.encode())
    layout = build_layout(manifest.model)
    if most is None:
        check_openings(manifest, layout)
        return
    with pytest.raises(ManifestRefused, match=f"set it to at most {most}"):
        check_openings(manifest, layout)
    lower = manifest.verification.model_copy(update={"chunk_fraction": float(most)})
    check_openings(manifest.model_copy(update={"verification": lower}), layout)
