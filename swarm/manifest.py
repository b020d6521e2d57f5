"""What a run is: one TOML file, read once, the same for every peer.

The promise: a `Manifest` that exists can be run. Unknown keys, wrong types, values out of bounds,
impossible combinations and sums that could overflow the ring are refused while reading, each with its
line, the value, the reason and the fix: keys first, then how they go together.
Genesis hashes the file's exact bytes, so `load_manifest` hands them back untouched.

>>> parse_manifest(b'[work]\\nslices = 2\\n').work.slices
2
"""

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError
from pydantic_core import ErrorDetails

from proto.canonical import PeerID
from proto.errors import SwarmError
from secagg.messages import MAX_SHARDS
from secagg.ring import CHUNK, Ring, RingOverflow
from swarm.shards.boundary import encoded_bytes
from swarm.sizes import PRESETS, VOCABULARY, rows_at_once
from verify.chains import Codec

MAX_MANIFEST = 64 << 10
"""Bytes of the largest manifest."""
MAX_LINE = 2_048
"""Bytes of its longest line: a key of ten thousand dots would take tomllib many seconds."""
MOST_REASONS = 16
MOST_OPENED = 24 << 20
"""Bytes of opened slices that a file of evidence has room for, beside its proofs and papers."""
CHECKED_SNAPSHOTS = 3
"""Snapshots that are kept at least where peers are checked: what a check rests on is two records old."""
CELL_LIMIT = 32
"""Members of the largest cell, and so peers of the largest roster."""
SECURE_PEERS = 4
"""Peers of the smallest roster whose sums are masked: below it nobody may be malicious."""
MOST_BOUNDARY = 7 << 19
"""Bytes of the largest boundary tensor: 3.5 MiB, so that it fits one message with its header."""
MOST_PASSED = 24 << 20
"""Bytes that a slice may bring to a shard, both ways: they are in the evidence of a wrong update."""
FILE_KINDS = (".txt", ".jsonl", ".parquet")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

Peers = Annotated[tuple[PeerID, ...], Strict(False), Field(max_length=CELL_LIMIT)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Source = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]


class ManifestRefused(SwarmError):
    """The file does not describe a run that can be run. The text lists every reason with its line."""


class Table(BaseModel):
    """One table of the manifest: frozen, no unknown keys, no NaN, no coercion."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Run(Table):
    name: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")
    rounds: int = Field(200, ge=1, le=10_000_000)
    heldout_loss: float = Field(0.0, ge=0)
    """Nats per token at which the run ends; 0 = no target."""
    min_peers: int = Field(4, ge=1)
    admission: Literal["open", "invited"] = "open"
    stewards: Peers = ()
    """Empty = the founder alone."""
    recovery_threshold: int = Field(1, ge=1)
    founding_peers: Peers = ()
    """Peers of the genesis roster besides the founder."""


class Model(Table):
    preset: Literal["tiny", "opt-125m", "opt-1.3b"] | None = None
    """`tiny` where the manifest names neither a preset nor a source."""
    source: Source | None = None
    """A folder or hub name for `from_pretrained`."""
    shards: int = Field(1, ge=1, le=MAX_SHARDS)
    layers: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Strict(False), Field(max_length=MAX_SHARDS)
    ] = ()
    """Decoder layers of each shard; empty = the slowest shard is as fast as can be."""
    boundary: Codec = "fp16"
    """How tensors travel between shards."""
    dtype: Literal["float32"] = "float32"

    def model_post_init(self, _: Any) -> None:
        if self.preset is None and self.source is None:
            object.__setattr__(self, "preset", "tiny")


class Data(Table):
    mode: Literal["shared", "own"] = "shared"
    source: Source = "mmlu"
    tokenizer: Literal["gpt2", "model"] = "gpt2"
    sequence_length: int = Field(128, ge=8, le=2048)
    heldout_fraction: float = Field(0.05, gt=0, le=0.5)

    @property
    def kind(self) -> Literal["mmlu", "file", "hub", "unknown"]:
        """What `source` names. A file's ending decides before the shape of a hub name does."""
        if self.source == "mmlu":
            return "mmlu"
        if Path(self.source).suffix.lower() in FILE_KINDS:
            return "file"
        return "hub" if _HUB_NAME.fullmatch(self.source) else "unknown"

    @property
    def file(self) -> Path | None:
        """The file that `source` names: for the founder to open, who wrote the manifest, and nobody else."""
        return Path(self.source) if self.kind == "file" else None


class Work(Table):
    slices: int = Field(4, ge=1, le=1024)
    sequences_per_slice: int = Field(16, ge=1, le=4096)
    window_seconds: Seconds = 20.0


class Outer(Table):
    optimizer: Literal["adamw"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, le=1)
    warmup_rounds: int = Field(10, ge=0, le=10_000_000)
    schedule: Literal["cosine"] = "cosine"
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1)
    clip: float = Field(8.0, gt=0, le=1e6)
    """Elementwise, in units of the agreed block RMS."""


class Aggregation(Table):
    mode: Literal["plain", "secure"] = "secure"
    ring_bits: Literal[16, 32] = 16
    levels: int = Field(0, ge=0, lt=1 << 31)
    """Q; 0 = the largest that fits."""
    largest_cell: int = Field(16, ge=1, le=CELL_LIMIT)
    sanity_rms: float = Field(4.0, ge=1, le=1e6)
    initial_scale: float = Field(1e-3, gt=0, le=1e3)


class Verification(Table):
    rate: float = Field(0.2, ge=0, le=1)
    chunk_fraction: float = Field(0.02, gt=0, le=1)
    tolerance: float = Field(5e-3, gt=0, lt=1)
    strikes: int = Field(3, ge=1, le=1000)
    probation_checks: int = Field(3, ge=0, le=CELL_LIMIT)
    opening_budget: int = Field(50, ge=10, le=10_000_000)


class Membership(Table):
    suspend_after: int = Field(3, ge=1, le=1000)
    round_timeout_seconds: Seconds = 60.0
    snapshots_kept: int = Field(3, ge=1, le=1000)


class Energy(Table):
    joules_per_megabyte: float = Field(0.05, ge=0, le=1e6)


class Manifest(Table):
    """All tables. Build it with `parse_manifest`, which alone checks how the keys go together."""

    run: Run = Run()
    model: Model = Model()
    data: Data = Data()
    work: Work = Work()
    outer: Outer = Outer()
    aggregation: Aggregation = Aggregation()
    verification: Verification = Verification()
    membership: Membership = Membership()
    energy: Energy = Energy()

    @property
    def ring(self) -> Ring:
        """The ring in which this run's updates add up without overflow. Raises RingOverflow."""
        cell = self.aggregation
        return Ring.for_cell(cell.ring_bits, cell.largest_cell, self.work.slices, cell.levels)


def load_manifest(path: Path) -> tuple[Manifest, bytes]:
    """The manifest in a file, and the file's exact bytes. Raises ManifestRefused."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise ManifestRefused(
            f"{path} cannot be read ({error.strerror}); name an existing TOML file"
        ) from None
    try:
        return parse_manifest(raw), raw
    except ManifestRefused as refusal:
        raise ManifestRefused(f"{path}: {refusal}") from None


def parse_manifest(raw: bytes) -> Manifest:
    """The manifest that the bytes spell. Raises ManifestRefused with a line for each reason."""
    if len(raw) > MAX_MANIFEST:
        raise ManifestRefused(f"a manifest has at most {MAX_MANIFEST} bytes; shorten it")
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if len(line) > MAX_LINE:
            raise _refusal([f"line {number}: {len(line)} bytes; break it, a line has at most {MAX_LINE}"])
    text, tables = _read_toml(raw)
    try:
        manifest = Manifest.model_validate(tables)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        more = [f"and {len(details) - MOST_REASONS} more"] if len(details) > MOST_REASONS else []
        raise _refusal([*(_describe(text, detail) for detail in details[:MOST_REASONS]), *more]) from None
    clashes = [_place(text, tables, where, reason) for where, reason in _clashes(manifest)]
    if clashes:
        raise _refusal(clashes)
    return manifest


def _clashes(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(table.key, reason with the fix) for every combination that cannot run."""
    run, model, data = manifest.run, manifest.model, manifest.data
    cell = manifest.aggregation.largest_cell
    checked = manifest.verification.rate or manifest.verification.probation_checks
    if checked and manifest.membership.snapshots_kept < CHECKED_SNAPSHOTS:
        yield (
            "membership.snapshots_kept",
            f"a check computes a slice at an earlier snapshot; keep {CHECKED_SNAPSHOTS}, "
            "or set verification.rate = 0 and probation_checks = 0",
        )
    most = MOST_OPENED // (CHUNK * manifest.aggregation.ring_bits // 8)
    if manifest.verification.rate and manifest.work.slices > most:
        yield (
            "work.slices",
            f"evidence has a chunk of every slice, {MOST_OPENED >> 20} MiB of them at most; "
            f"set it to at most {most}, or set verification.rate = 0",
        )
    if run.min_peers > cell:
        yield "run.min_peers", f"the largest cell holds {cell} peers; set min_peers to at most {cell}"
    for key, peers in (("stewards", run.stewards), ("founding_peers", run.founding_peers)):
        if len(set(peers)) < len(peers):
            yield f"run.{key}", "a PeerID occurs twice; name each peer once"
    if len(run.founding_peers) + 1 > cell:
        reason = (
            f"with the founder that is {len(run.founding_peers) + 1} peers and the largest cell holds {cell}"
        )
        yield (
            "run.founding_peers",
            f"{reason}; name fewer or raise aggregation.largest_cell (at most {CELL_LIMIT})",
        )
    stewards = len(run.stewards) or 1
    if run.recovery_threshold > stewards:
        who = f"there are {len(run.stewards)} stewards" if run.stewards else "the founder is the only steward"
        yield "run.recovery_threshold", f"{who}; set it to at most {stewards} or name more stewards"
    if run.admission == "invited" and not run.stewards:
        yield "run.admission", 'nobody could sign an invitation; name stewards or set admission = "open"'
    if model.preset is not None and model.source is not None:
        yield "model.source", "a model has a preset or a source, not both; remove one of them"
    if data.mode == "own" and model.shards > 1:
        reason = "activations between shards would show the text of own data"
        yield "data.mode", f'{reason}; set model.shards = 1, or mode = "shared" with public text'
    yield from _shard_clashes(manifest)
    if data.kind == "unknown":
        kinds = ", ".join(FILE_KINDS)
        yield (
            "data.source",
            f'neither "mmlu", nor a file ({kinds}), nor a hub name (OWNER/NAME); use one of these',
        )
    if data.tokenizer == "model" and model.source is None:
        yield "data.tokenizer", 'a preset brings no tokenizer; set tokenizer = "gpt2" or give model.source'
    if model.preset is not None and data.sequence_length > PRESETS[model.preset].positions:
        longest = PRESETS[model.preset].positions
        yield (
            "data.sequence_length",
            f"{model.preset} reads at most {longest} tokens; set it to at most {longest}",
        )
    least = SECURE_PEERS * model.shards
    if manifest.aggregation.mode == "secure" and run.min_peers < least:
        reason = f"a sum over fewer than {SECURE_PEERS} peers hides little"
        cells = f", and {model.shards} shards have a cell each" if model.shards > 1 else ""
        yield "run.min_peers", f'{reason}{cells}; set it to {least} or more, or aggregation.mode = "plain"'
    try:
        manifest.ring.bound(manifest.aggregation.sanity_rms)
    except RingOverflow as overflow:
        yield "aggregation.levels", str(overflow)


def _shard_clashes(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What cannot run in shards. Of a source nothing is known here: its founder checks the same."""
    run, model = manifest.run, manifest.model
    shape = None if model.preset is None or model.source is not None else PRESETS[model.preset]
    if model.layers and len(model.layers) != model.shards:
        reason = f"it names {len(model.layers)} shards, model.shards is {model.shards}"
        yield "model.layers", f"{reason}; name the decoder layers of each shard, or leave it out"
    elif model.layers and shape is not None and sum(model.layers) != shape.layers:
        reason = f"these are {sum(model.layers)} layers, {model.preset} has {shape.layers}"
        yield "model.layers", f"{reason}; give each layer to one shard"
    if model.shards == 1:
        return
    if shape is not None and model.shards > shape.layers:
        reason = f"{model.preset} has {shape.layers} layers, every shard needs one"
        yield "model.shards", f"{reason}; set it to at most {shape.layers}"
    if manifest.aggregation.mode == "secure" and model.shards * SECURE_PEERS > CELL_LIMIT:
        reason = f"{model.shards} cells of {SECURE_PEERS} peers are more than the {CELL_LIMIT} a roster holds"
        most = CELL_LIMIT // SECURE_PEERS
        yield "model.shards", f'{reason}; set it to at most {most}, or aggregation.mode = "plain"'
    if manifest.aggregation.mode == "plain" and run.min_peers < model.shards:
        reason = f"each of {model.shards} shards needs a peer"
        yield "run.min_peers", f"{reason}; set it to {model.shards} or more"
    if shape is not None:
        yield from boundary_clashes(manifest, shape.width, VOCABULARY)


def boundary_clashes(manifest: Manifest, width: int, vocabulary: int) -> Iterator[tuple[str, str]]:
    """(table.key, reason with the fix) where a boundary tensor of one microbatch is too large for a message.

    `width`: the model's hidden size; `vocabulary`: its token ids.
    """
    codec, length = manifest.model.boundary, manifest.data.sequence_length - 1
    rows = min(manifest.work.sequences_per_slice, rows_at_once(length, vocabulary))
    size = encoded_bytes((rows, length, width), codec)
    if manifest.model.shards > 1 and size > MOST_BOUNDARY:
        longest = MOST_BOUNDARY // encoded_bytes((1, 1, width), codec) + 1
        reason = f"{rows} x {length} hidden states of {width} in {codec} are {size} bytes"
        yield (
            "data.sequence_length",
            f"{reason}, a message between shards holds {MOST_BOUNDARY}; set it to at most {longest}, "
            "or choose a smaller model.boundary",
        )
    inputs = 2 * manifest.work.sequences_per_slice * encoded_bytes((1, length, width), codec)
    if manifest.model.shards > 1 and manifest.verification.rate and inputs > MOST_PASSED:
        fitting = MOST_PASSED * manifest.work.sequences_per_slice // inputs
        yield (
            "work.sequences_per_slice",
            f"evidence has what a slice brings to a shard, {inputs} bytes in {codec}, and holds "
            f"{MOST_PASSED}; set it to at most {fitting}, or set verification.rate = 0",
        )


def _read_toml(raw: bytes) -> tuple[str, dict[str, Any]]:
    try:
        text = raw.decode()
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _refusal([f"line {line}: not UTF-8; save the file as UTF-8"]) from None
    except RecursionError:
        raise _refusal(["values nested too deeply; a manifest has tables of plain keys"]) from None
    except ValueError as error:  # TOMLDecodeError, and integers of thousands of digits
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise _refusal([f"line {line}: not TOML ({error}); correct the syntax"]) from None


def _refusal(reasons: list[str]) -> ManifestRefused:
    return ManifestRefused("the manifest was refused\n" + "\n".join(f"  {reason}" for reason in reasons))


def _describe(text: str, detail: ErrorDetails) -> str:
    """One pydantic error as a line: where, what, why, and what to write instead."""
    table, *keys = (str(part) for part in detail["loc"][:2])
    line = _line_of(text, table, *keys)
    known = Manifest.model_fields
    if detail["type"] == "extra_forbidden":
        unknown = keys[0] if keys else table
        names = list(_fields(table)) if keys else list(known)
        close = difflib.get_close_matches(unknown, names, n=1)
        fix = f"did you mean {close[0]}?" if close else f"remove it, or use one of {', '.join(names)}"
        where = f"[{table}] {_clip(unknown)}" if keys else f"[{_clip(unknown)}]"
        return f"line {line}: {where}: unknown {'key' if keys else 'table'}; {fix}"
    value = _clip(detail["input"])
    if not keys:
        return f"line {line}: {table} = {value}: this is a table; write [{table}] on a line of its own"
    if keys[0] in ("stewards", "founding_peers") and len(detail["loc"]) > 2:
        fix = "must be a PeerID: 12D3KooW and 44 letters and digits, as a peer prints it at its start"
        return f"line {line}: [{table}] {keys[0]} holds {value}: {fix}"
    reason = re.sub("^(Input|String|Tuple) should", "must", detail["msg"])
    default = _fields(table)[keys[0]].default
    fix = "" if default is None else f"; the default is {keys[0]} = {_toml(default)}"
    return f"line {line}: [{table}] {keys[0]} = {value}: {reason}{fix}"


def _place(text: str, tables: dict[str, Any], where: str, reason: str) -> str:
    table, key = where.split(".")
    if key not in tables.get(table, {}):
        return f"line {_line_of(text, table, key)}: [{table}] {key} (by default): {reason}"
    return f"line {_line_of(text, table, key)}: [{table}] {key} = {_clip(tables[table][key])}: {reason}"


def _fields(table: str) -> dict[str, Any]:
    return dict(type(Manifest.model_fields[table].default).model_fields)


def _line_of(text: str, table: str, key: str = "") -> int:
    """The line of `key` in `[table]`; the table's where the key is not written, 1 where neither is.

    tomllib tells no lines. A scan suffices: it only ever points a reader to a place.
    """
    at, current = 1, ""
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.replace('"', "").replace("'", "").strip()
        header = re.match(r"\[\s*([^\[\]]+?)\s*\]", words)
        name = f"{current}{words.split('=')[0].strip()}"
        if header:
            current = f"{header[1]}."
            if header[1] == table:
                at = number
        elif "=" in words and name == f"{table}.{key}":
            return number
        elif "=" in words and name == table:
            at = number
    return at


def _clip(value: object) -> str:
    try:
        shown = ascii(value) if not isinstance(value, str) else _toml(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _toml(value: object) -> str:
    if isinstance(value, str):
        return f'"{ascii(value)[1:-1]}"'
    return str(list(value)) if isinstance(value, tuple) else str(value)
