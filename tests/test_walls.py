"""The walls of the design, as the source text and the interpreter show them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ["proto", "secagg", "verify", "swarm"]  # imports flow to the left only
FILES = [
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "_pb2" not in path.name
]

AUDITOR = {"base58", "blake3", "cbor2", "cryptography", "numpy", "pydantic"}
"""What proto, secagg and verify may import besides the standard library: all of it in the base install."""
IMPURE = {
    "asyncio",
    "multiprocessing",
    "random",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}
UNPICKLERS = {"cloudpickle", "dill", "marshal", "pickle", "shelve"}
PURE_SHARDS = ["boundary", "chain", "frames", "placement"]
PURE_ROUND = [
    "swarm/round.py",
    "swarm/order.py",
    "swarm/layout.py",
    "swarm/manifest.py",
    "swarm/phases.py",
    *(f"swarm/shards/{name}.py" for name in PURE_SHARDS),
]
BROAD = {"swarm/net/dht.py": 1}
"""Handlers of any exception: hivemind raises whatever it likes in its child, and it is renamed at once."""
MOST_LINES = 700


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            yield str(node.module)


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def ids(path: Path | str) -> str:
    return str(path)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_flow_one_way(path: Path) -> None:
    above = PACKAGES[PACKAGES.index(path.parts[0]) + 1 :]
    assert not tops(path) & set(above)


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] != "swarm"], ids=ids)
def test_the_auditors_packages_need_the_base_install_only(path: Path) -> None:
    assert tops(path) - set(sys.stdlib_module_names) - set(PACKAGES) <= AUDITOR


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] != "swarm"] + PURE_ROUND, ids=ids)
def test_protocol_logic_has_no_sockets_clocks_or_threads(path: Path | str) -> None:
    assert not tops(Path(path)) & IMPURE


def test_the_round_runs_without_torch_hivemind_and_grpc() -> None:
    modules = [".".join(p.with_suffix("").parts) for p in FILES if p.parts[0] != "swarm"]
    modules = [name.removesuffix(".__init__") for name in modules] + ["swarm.round"]
    modules += [f"swarm.shards.{name}" for name in PURE_SHARDS]
    heavy = {"torch", "hivemind", "grpc", "transformers", "uvloop"}
    code = f"import sys, {', '.join(modules)}\nprint(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_nothing_is_ever_unpickled(path: Path) -> None:
    assert not tops(path) & UNPICKLERS


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_error_is_caught_that_nobody_named(path: Path) -> None:
    broad = 0
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ExceptHandler):
            names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"bare"}
            broad += bool(names & {"bare", "Exception", "BaseException"})
    assert broad <= BROAD.get(str(path), 0)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_a_file_fits_in_a_readers_head_and_says_what_it_is(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it promises"
    assert len(text.splitlines()) <= MOST_LINES
