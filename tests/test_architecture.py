"""The rules of the house that a tool can hold: who imports whom, how long things get, which words are out.

A rule that nobody breaks on purpose is a wish: each import contract is broken here, in a copy of the tree, and must say
so. The rules that import-linter cannot hold are functions from a parsed module to what is wrong with it, and are shown
bad modules too.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("protocol/turnwire_protocol", "server/turnwire")

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
BANNED_WORDS = {"msg", "ctx", "util", "utils", "helper", "helpers", "manager", "managers", "misc"}


def modules_of(*folders: str, suffix: str = ".py") -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob(f"*{suffix}")
    )


def parsed(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), module)


# --- imports -------------------------------------------------------------------------------------------------------

CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}

# (contract, module to plant, what it imports)
PLANTED = [
    ("layers", "server/turnwire/core/planted.py", "turnwire.ports"),
    ("layers", "server/turnwire/ports_planted.py", "json"),
    ("layers", "server/turnwire/runtime/planted.py", "turnwire.stores.redis"),
    ("layers", "server/turnwire/runtime/planted.py", "turnwire.transports"),
    ("layers", "server/turnwire/transports/planted.py", "turnwire.app"),
    ("layers", "server/turnwire/transports/planted.py", "turnwire.settings"),
    ("adapters", "server/turnwire/providers/planted.py", "turnwire.stores"),
    ("adapters", "server/turnwire/identity/planted.py", "turnwire.providers"),
    ("adapters", "server/turnwire/stores/redis/planted.py", "turnwire.runtime"),
    ("ports-only", "server/turnwire/runtime/planted.py", "turnwire.stores"),
    ("ports-only", "server/turnwire/transports/planted.py", "turnwire.providers"),
    ("pure-core", "server/turnwire/core/planted.py", "asyncio"),
    ("pure-core", "server/turnwire/core/planted.py", "time"),
    ("pure-core", "server/turnwire/core/planted.py", "secrets"),
    ("pure-protocol", "protocol/turnwire_protocol/planted.py", "datetime"),
    ("protocol-alone", "protocol/turnwire_protocol/planted.py", "turnwire.core"),
    ("one-http-client", "server/turnwire/identity/planted.py", "httpx2"),
    ("one-http-client", "server/turnwire/providers/planted.py", "aiohttp"),
    ("one-store-client", "server/turnwire/runtime/planted.py", "redis.asyncio"),
    ("chat-is-a-client", "server/turnwire/chat/planted.py", "turnwire.ports"),
]


def lint_imports(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on the packages under `tree`, whatever is installed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = os.pathsep.join(str((tree / package).parent) for package in SHIPPED)
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo", *options],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is shipped, to break."""
    for package in SHIPPED:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_sources_keep_every_import_contract() -> None:
    linted = lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    ("contract", "module", "imported"), PLANTED, ids=lambda value: Path(value).parent.name or value
)
def test_a_planted_import_breaks_its_contract(tree: Path, contract: str, module: str, imported: str) -> None:
    (tree / module).write_text(f'"""Planted."""\n\nimport {imported}\n')

    linted = lint_imports(tree, "--contract", contract)

    assert linted.returncode == 1, linted.stdout + linted.stderr
    assert "BROKEN" in linted.stdout
    assert CONTRACTS[contract] in linted.stdout
    assert Path(module).stem in linted.stdout


def test_every_contract_is_broken_by_some_planted_import() -> None:
    assert {contract for contract, _, _ in PLANTED} == set(CONTRACTS)


# --- sizes, words, openings ----------------------------------------------------------------------------------------


def long_functions(module: ast.Module) -> list[str]:
    return [
        f"{node.name} at line {node.lineno} has {length} lines"
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def names_given(module: ast.Module) -> Iterator[tuple[str, int]]:
    """The names that a module chooses itself: what it defines, binds or renames, not what it uses of others."""
    for node in ast.walk(module):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno
            case _:
                pass


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def banned_names(module: ast.Module) -> list[str]:
    return [f"{name} at line {line}" for name, line in names_given(module) if words(name) & BANNED_WORDS]


@pytest.mark.parametrize("module", modules_of(*SHIPPED))
def test_no_function_is_over_70_lines(module: str) -> None:
    assert not long_functions(parsed(module))


@pytest.mark.parametrize("module", [*modules_of(*SHIPPED), *modules_of(*SHIPPED, suffix=".lua")])
def test_no_file_is_over_400_lines(module: str) -> None:
    assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("module", modules_of(*SHIPPED, "tests"))
def test_no_name_uses_a_banned_word(module: str) -> None:
    assert not banned_names(parsed(module))
    assert not words(module) & BANNED_WORDS


@pytest.mark.parametrize("module", modules_of(*SHIPPED, "tests"))
def test_every_module_opens_with_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(parsed(module))


def test_every_script_opens_with_what_it_is_for() -> None:
    for script in modules_of(*SHIPPED, suffix=".lua"):
        lines = (ROOT / script).read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if not line.startswith("#!"))
        assert first.startswith("--"), script


def test_the_architecture_page_places_every_part_of_the_server() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    server = ROOT / "server/turnwire"
    parts = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in server.iterdir()
        if not path.name.startswith("__") and (path.is_dir() or path.suffix == ".py")
    }
    assert {part for part in parts if part not in page} == set()


# The client and the page, as far as it takes no parser: tsc is as strict as it can be, and sees the rest.
SCRIPTS = modules_of("clients/js/src", "clients/js/playground", suffix=".ts")
GENERATED = "clients/js/src/wire.ts"


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != GENERATED])
def test_every_script_of_the_client_is_short_and_opens_with_what_it_is_for(script: str) -> None:
    text = (ROOT / script).read_text(encoding="utf-8")
    assert text.startswith(("/**", "//"))
    if not script.endswith(".test.ts"):
        assert len(text.splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_of_the_client_uses_a_banned_word_or_silences_the_compiler(script: str) -> None:
    text = (ROOT / script).read_text(encoding="utf-8")
    assert not words(script) & BANNED_WORDS
    assert not {name for name in re.findall(r"\w+", text) if words(name) & BANNED_WORDS}
    assert not re.search(r"@ts-(?:ignore|nocheck)|@ts-expect-error\s*$", text, re.MULTILINE)


def test_a_long_function_is_noticed() -> None:
    body = "    pass\n" * FUNCTION_LINES_MAX
    assert long_functions(ast.parse(f"async def wait():\n{body}")) == ["wait at line 1 has 71 lines"]
    assert not long_functions(ast.parse(f"def wait():\n{body.removesuffix('    pass' + chr(10))}"))


@pytest.mark.parametrize(
    "source",
    [
        "msg = 1",
        "self.last_msg = 1",
        "def f(ctx): ...",
        "class SessionManager: ...",
        "def parse_misc(): ...",
        "import contextvars as ctx",
        "for utils in (): ...",
        "try: ...\nexcept OSError as msg: ...",
        "match x:\n    case [*msg]: ...",
    ],
)
def test_a_banned_word_is_noticed(source: str) -> None:
    assert len(banned_names(ast.parse(source))) == 1


def test_a_banned_word_in_someone_elses_name_is_not_ours() -> None:
    assert not banned_names(ast.parse("from contextlib import AbstractContextManager\nmessage = f(msg=1).ctx"))
