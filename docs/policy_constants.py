"""The table of the policy constants, read from the comments above them in the code."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parents[1] / "hoag_shine"


class Constant(NamedTuple):
    """A number at the top of a module: its comment says what it is and, after ``Why:``, why so."""

    module: str
    name: str
    value: str
    what: str
    why: str


def constants(sources=SOURCES):
    """Return all numbers that have a name in capitals at the top of a module."""
    paths = sorted(sources.rglob("*.py"))
    return [one for path in paths for one in _of_module(path, sources)]


def table(sources=SOURCES):
    """Return the lines of a table of those that are policy: that say why they are what they are."""
    yield from (".. list-table::", "    :header-rows: 1", "    :widths: 26 10 32 32", "")
    yield from _row("Constant", "Value", "What it is", "What chose it")
    for one in constants(sources):
        if one.why:
            name = f"``{one.name}`` in ``{one.module}``"
            yield from _row(name, f"``{one.value}``", _markup(one.what), _markup(one.why))


def _of_module(path, sources):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    module = ".".join(path.relative_to(sources).with_suffix("").parts)
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and _is_number(node.value):
            (target,) = node.targets
            if isinstance(target, ast.Name) and re.fullmatch(r"_?[A-Z][A-Z0-9_]+", target.id):
                what, _, why = _comment_above(lines, node.lineno).partition("Why: ")
                yield Constant(module, target.id, ast.unparse(node.value), what.strip(), why)


def _is_number(node):
    """Whether an expression is made of numbers alone."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "unsigned" and _is_number(node.args[0])
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _comment_above(lines, number):
    first = number - 1
    while first > 0 and lines[first - 1].startswith("# "):
        first -= 1
    return " ".join(line[2:].strip() for line in lines[first : number - 1])


def _markup(text):
    """Return a comment as reStructuredText, in which stars and trailing underscores mean more."""
    text = text[:1].upper() + text[1:]
    text = re.sub(r"(?<!`)\b[A-Z]+_[A-Z_]+\b(?!`)", r"``\g<0>``", text)
    for special in ("**", "|"):
        text = text.replace(special, "".join(rf"\{character}" for character in special))
    return text


def _row(*cells):
    yield f"    * - {cells[0]}"
    yield from (f"      - {cell}" for cell in cells[1:])
