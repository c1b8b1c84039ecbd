"""What is taken out: each condition of a Lua script or a Python module, one at a time, and each operand of one.

A guard whose condition is false never guards, and an operand that is dropped never counts; a mutant that all tests pass
is a guard that nobody would miss. Nothing is invented beyond that: a condition is the only thing that is changed.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LUA_IF = re.compile(r"\b(?:if|elseif)\s+(?P<condition>.+?)\s+then\b")
_LUA_COMMENT = re.compile(r"--.*")
_LUA_OPERATORS = re.compile(r"\s+(and|or)\s+")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A file with one condition changed. `text` is the whole of it."""

    path: Path
    line: int
    was: str
    becomes: str
    text: str

    @property
    def named(self) -> str:
        return f"{self.path.name}:{self.line}"


def mutants_of(path: Path) -> list[Mutant]:
    """All of a file, in its order; no two of them have the same text."""
    found = _of_lua(path) if path.suffix == ".lua" else _of_python(path)
    return list({mutant.text: mutant for mutant in found}.values())


# --- Lua -------------------------------------------------------------------------------------------------------------


def _of_lua(path: Path) -> Iterator[Mutant]:
    text = path.read_text(encoding="utf-8")
    code = _LUA_COMMENT.sub(lambda comment: " " * len(comment[0]), text)
    for found in _LUA_IF.finditer(code):
        start, end = found.span("condition")
        condition = found["condition"]
        for becomes in ("false", *_without_one(condition)):
            yield _changed(path, text, start, end, condition, becomes)


def _without_one(condition: str) -> Iterator[str]:
    """The condition without each of its operands. Those in brackets stay together, as Lua's precedence has them."""
    pieces = _split(condition)
    operands, operators = pieces[::2], pieces[1::2]
    for number in range(len(operands)):
        if len(operands) < 2:
            return
        kept = operands[:number] + operands[number + 1 :]
        between = operators[: number - 1 if number else 0] + operators[max(number, 1) :]
        joined = [kept[0]]
        for operator, operand in zip(between, kept[1:], strict=True):
            joined += [operator, operand]
        yield " ".join(joined)


def _split(condition: str) -> list[str]:
    """Operands and the operators between them, outside of brackets."""
    pieces = [""]
    at = 0
    while at < len(condition):
        found = _LUA_OPERATORS.match(condition, at)
        if found is not None and pieces[-1].count("(") == pieces[-1].count(")"):
            pieces += [found[1], ""]
            at = found.end()
        else:
            pieces[-1] += condition[at]
            at += 1
    return pieces


# --- Python ----------------------------------------------------------------------------------------------------------


def _of_python(path: Path) -> Iterator[Mutant]:
    text = path.read_text(encoding="utf-8")
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line.encode()))
    raw = text.encode()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.If | ast.IfExp) or _is_for_types(node.test):
            continue
        start = lines[node.test.lineno - 1] + node.test.col_offset
        end = lines[(node.test.end_lineno or 0) - 1] + (node.test.end_col_offset or 0)
        was = raw[start:end].decode()
        for becomes in ("False", *_operands_of(node.test)):
            yield _changed(path, text, len(raw[:start].decode()), len(raw[:end].decode()), was, becomes)


def _is_for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _operands_of(test: ast.expr) -> Iterator[str]:
    if not isinstance(test, ast.BoolOp):
        return
    for number in range(len(test.values)):
        kept = test.values[:number] + test.values[number + 1 :]
        yield ast.unparse(kept[0] if len(kept) == 1 else ast.BoolOp(test.op, kept))


def _changed(path: Path, text: str, start: int, end: int, was: str, becomes: str) -> Mutant:
    """`(…)`, so that nothing around it binds closer."""
    line = text.count("\n", 0, start) + 1
    return Mutant(path, line, " ".join(was.split()), becomes, f"{text[:start]}({becomes}){text[end:]}")
