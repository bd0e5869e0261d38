"""Expression: the `prompt_lambda` of a dataset-config, read as data. Nothing of it is ever run as Python.

Strings, the row's columns (`row["a"]`, `row.get("a", "")`), `+`, `str(...)` and f-strings.
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from tbench.capture.errors import InputError

Row = Mapping[str, Any]
Expression = Callable[[Row], Any]
"""A prompt of a row. Raises KeyError for a column that the row does not have."""

WHAT_IS_KNOWN = (
    'only strings, columns (row["a"]), + , str(...) and f-strings are understood, since tbench runs no code '
    "of a dataset; write the prompts into a column instead (prompt_column)"
)


def read_expression(text: str) -> Expression:
    """What `lambda row: ...` says. Raises InputError for what is not understood."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"prompt_lambda: not an expression; {WHAT_IS_KNOWN}") from None
    if not isinstance(tree, ast.Lambda) or len(tree.args.args) != 1:
        raise InputError(f"prompt_lambda: must begin with 'lambda row:'; {WHAT_IS_KNOWN}")
    return _part(tree.body, tree.args.args[0].arg)


def _part(node: ast.expr, row: str) -> Expression:
    found = _leaf(node, row) or _whole(node, row)
    if found is None:
        raise InputError(f"prompt_lambda: '{ast.unparse(node)}' is not understood; {WHAT_IS_KNOWN}")
    return found


def _leaf(node: ast.expr, row: str) -> Expression | None:
    """A string or a column."""
    match node:
        case ast.Constant(value=str(text)):
            return lambda _: text
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(column))):
            return (lambda values: values[column]) if name == row else None
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="get"), keywords=[]):
            return _got(node.args) if name == row else None
    return None


def _whole(node: ast.expr, row: str) -> Expression | None:
    """What is made of parts."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _joined([_part(left, row), _part(right, row)])
        case ast.JoinedStr(values=parts):
            return _joined([_part(one, row) for one in parts])
        case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
            return _part(value, row)
        case ast.Call(func=ast.Name(id="str"), args=[value], keywords=[]):
            return _joined([_part(value, row)])
    return None


def _joined(parts: list[Expression]) -> Expression:
    return lambda values: "".join(str(part(values)) for part in parts)


def _got(args: list[ast.expr]) -> Expression | None:
    """`row.get(column)` and `row.get(column, default)`."""
    match args:
        case [ast.Constant(value=str(column))]:
            return lambda values: values.get(column) or ""
        case [ast.Constant(value=str(column)), ast.Constant(value=str(default))]:
            return lambda values: values.get(column, default)
    return None
