"""docs/protocol.md is what another team implements from: it must say what the code does."""

import ast
import itertools
import re
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from proto import canonical
from proto.canonical import Message, PeerID
from proto.energy import EnergyClaim
from secagg import messages, ring, shamir
from secagg.interface import BY_PROPOSER, FROM, TO_PROPOSER
from secagg.messages import Advert, SessionMessage
from swarm.openings import EvidenceAsked, ShownAsked
from verify.check import ChunksAsked, Computed, SequencesAsked
from verify.commitment import ChunkOpening, SliceOpening
from verify.opened import BoundaryAsked, BoundaryOpening, ListAsked, TensorPiece
from verify.record import Join
from verify.standing import Judgement, Verdict

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "protocol.md").read_text()
LINES = TEXT.splitlines()
CHECKS = (ROOT / "docs" / "verification.md").read_text().splitlines()
OF_SESSIONS = [kind for kind in SessionMessage.__subclasses__() if kind.__module__ == messages.__name__]
OF_CHECKS = [SequencesAsked, Computed, ChunksAsked, ShownAsked, SliceOpening, ChunkOpening]
OF_CHAINS = [BoundaryAsked, BoundaryOpening, TensorPiece, ListAsked]
DESCRIBED: list[tuple[type[Message], list[str]]] = [
    *((kind, LINES) for kind in (Advert, *OF_SESSIONS)),
    (EnergyClaim, CHECKS),
    *((kind, CHECKS) for kind in (*OF_CHECKS, *OF_CHAINS, Verdict, Judgement, EvidenceAsked, Join)),
]
CONSTANTS: dict[str, ModuleType] = {
    "PROTOCOL_VERSION": messages,
    "MAX_CELL": messages,
    "MAX_STATEMENT": messages,
    "MAX_VOTE": messages,
    "MAX_CHUNK_BYTES": messages,
    "SHARE_BYTES": messages,
    "SEALED_BYTES": messages,
    "MAX_MESSAGE": canonical,
    "MAX_DEPTH": canonical,
    "CHUNK": ring,
    "PRIME": shamir,
}


def type_in_words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """How the document writes a field's type and bounds."""
    bounds: dict[str, int] = {}
    for item in metadata:
        for part in getattr(item, "metadata", None) or (item,):
            bounds |= {name: getattr(part, name) for name in BOUNDS if getattr(part, name, None) is not None}
    low, high = bounds.get("min_length", 0), bounds.get("max_length")
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join("null" if one is type(None) else type_in_words(one) for one in inner)
    if origin is Literal:
        return " or ".join(f'"{one}"' for one in inner)
    if hasattr(annotation, "__metadata__"):
        return type_in_words(annotation.__origin__, annotation.__metadata__)
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return f"a map, {annotation.__name__}"
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"[ {', '.join(type_in_words(one) for one in inner)} ]"
    if origin is tuple:
        of = type_in_words(inner[0])
        return f"list {low}..{high:,} of {of}" if low else f"list <= {high:,} of {of}"
    if annotation is bytes:
        return "digest" if low == high == 32 else f"bytes <= {high:,}"
    if annotation is str:
        return "peer" if low == 52 else "word"
    if annotation is bool:
        return "yes or no"
    most = bounds["lt"] - 1 if "lt" in bounds else bounds["le"]
    if bounds["ge"] == -most - 1 == -(1 << 62):
        return "signed"
    return "count" if most == (1 << 63) - 1 else f"integer {bounds['ge']}..{most:,}"


BOUNDS = ("min_length", "max_length", "ge", "lt", "le")


def section_of(kind: type[Message], document: list[str]) -> list[str]:
    """The lines under a message's heading."""
    start = next(at for at, line in enumerate(document) if re.match(rf"### [\d.]+ {kind.__name__}$", line))
    end = next(at for at in range(start + 1, len(document)) if document[at].startswith("#"))
    return document[start + 1 : end]


def rows(lines: list[str]) -> list[list[str]]:
    """The cells of the first table's rows, but for its head."""
    after = itertools.dropwhile(lambda line: not line.startswith("|"), lines)
    table = itertools.takewhile(lambda line: line.startswith("|"), after)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table][2:]


def domains_in(path: Path) -> set[str]:
    """Literal strings under which a module hashes, signs or derives."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            where = {"tagged": 0, "tagged_hash": 0, "_derive": 2}.get(node.func.id)
            if where is not None and isinstance(node.args[where], ast.Constant):
                found.add(str(ast.literal_eval(node.args[where])))
    return found


def evidence_in(path: Path) -> set[str]:
    """Kinds of evidence that a module keeps."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Evidence", "convict"):
            found |= literals(node.args[0])
    return found


def literals(node: ast.AST | None) -> set[str]:
    """The strings that an expression may be, as far as it says so."""
    match node:
        case ast.Constant(str(value)):
            return {value}
        case ast.IfExp(_, one, other):
            return literals(one) | literals(other)
    return set()


@pytest.mark.parametrize(("kind", "document"), DESCRIBED, ids=lambda one: getattr(one, "__name__", "in"))
def test_every_message_is_described_field_by_field(kind: type[Message], document: list[str]) -> None:
    section = section_of(kind, document)
    described = [(row[0].strip("`"), row[1]) for row in rows(section)]
    declared = [
        (name, type_in_words(field.annotation, tuple(field.metadata)))
        for name, field in kind.model_fields.items()
        if name != "session"
    ]
    assert described == declared
    head = " ".join(section[:4])
    assert f"`{kind.DOMAIN}`" in head
    assert f"{kind.MOST_BYTES:,} bytes" in head


def test_the_words_for_types_mean_what_the_code_bounds() -> None:
    assert type_in_words(PeerID) == "peer"
    assert [row[0] for row in rows(LINES[LINES.index("| word | type |") :])] == [
        "`digest`",
        "`peer`",
        "`count`",
        "`statement`",
    ]


def test_every_domain_string_is_listed() -> None:
    files = [*(ROOT / "secagg").glob("*.py"), *(ROOT / "proto").glob("*.py")]
    used = set().union(*(domains_in(path) for path in files))
    assert {"session", "pair-seed", "sealed-shares", "chunk"} <= used, "the search finds what is there"
    assert sorted(domain for domain in used if f"`{domain}`" not in TEXT) == []


def test_every_constant_has_its_value() -> None:
    stated = {row[0].strip("`"): row[1] for row in rows(LINES[LINES.index("| constant | value | what |") :])}
    for name, module in CONSTANTS.items():
        terms = [term.strip().partition("^") for term in stated[name].replace(",", "").split("+")]
        assert sum(int(base) ** int(power or 1) for base, _, power in terms) == getattr(module, name), name


def test_every_step_at_which_a_statement_is_understood_is_stated() -> None:
    stated = {row[0]: row[1] for row in rows(LINES[LINES.index("| statement | from step | told by, to |") :])}
    for kind, step in FROM.items():
        assert stated[kind.__name__] == step.name, kind.__name__


def test_whoever_tells_and_hears_a_statement_is_stated() -> None:
    stated = {row[0]: row[2] for row in rows(LINES[LINES.index("| statement | from step | told by, to |") :])}
    for kind in FROM:
        assert stated[kind.__name__].startswith("the proposer, ") == (kind in BY_PROPOSER), kind.__name__
        assert stated[kind.__name__].endswith(", to the proposer") == (kind in TO_PROPOSER), kind.__name__


def test_every_kind_of_evidence_is_listed() -> None:
    listed = rows(LINES[LINES.index("| kind | against | statements |") :])
    named = {kind.strip(" `") for row in listed for kind in row[0].split(",")}
    kept = set().union(*(evidence_in(path) for path in (ROOT / "secagg").glob("*.py")))
    assert {"two sets", "two releases", "dealing", "garbage", "sum"} <= kept, "the search finds what is there"
    assert named == kept


def test_every_test_the_document_names_exists() -> None:
    existing = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert sorted(named - existing) == []


def test_the_document_fits_a_page_and_a_reader() -> None:
    assert len(LINES) <= 600
    assert len(CHECKS) <= 300
    assert [line for line in LINES if len(line) > 120] == []
