"""Formulas of derived variables: arithmetic of other variables, and its inverse."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}

LONGEST = 1000
"""Characters of a formula, at most."""


@dataclass(frozen=True)
class Formula:
    """Sums, differences, products and quotients of variables and numbers, as ``heart_width / thorax_width``.

    Numbers may be of any kind that has this arithmetic: floats, arrays, tensors.

    Raises:
        ValueError: the text is no such formula.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"{self.text!r} names no variable")

    @cached_property
    def _tree(self) -> ast.expr:
        if len(self.text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"{self.text!r} is no formula, such as 'heart_width / thorax_width'") from None
        for node in ast.walk(tree):
            known = isinstance(node, ast.Name | ast.operator | ast.unaryop | ast.expr_context)
            known |= isinstance(node, ast.Constant) and type(node.value) in (int, float)
            known |= isinstance(node, ast.BinOp) and type(node.op) in OPERATORS
            known |= isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
            if not known:
                raise ValueError(f"{self.text!r}: expected variables, numbers, + - * / and brackets only")
        return tree

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The variables in it, in the order in which they come."""
        found = [node for node in ast.walk(self._tree) if isinstance(node, ast.Name)]
        found.sort(key=lambda node: (node.lineno, node.col_offset))
        return tuple(dict.fromkeys(node.id for node in found))

    def count(self, name: str) -> int:
        """How often a variable is in it."""
        return sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(self._tree))

    def value(self, values: Mapping[str, Any]) -> Any:
        """What it is, of the values of its variables."""
        return _value(self._tree, values)

    def solve(self, name: str, wanted: Any, values: Mapping[str, Any]) -> Any:
        """What a variable, which is in it once, must be for the formula to be what is ``wanted``, the others being as
        they are."""
        node = self._tree
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.UnaryOp):
                node, wanted = node.operand, -wanted
                continue
            assert isinstance(node, ast.BinOp)
            left = _has(node.left, name)
            other = _value(node.right if left else node.left, values)
            wanted = _inverse(node.op, left, wanted, other)
            node = node.left if left else node.right
        return wanted


def _inverse(operator: ast.operator, left: bool, wanted: Any, other: Any) -> Any:
    """What the one side of an operation must be, the other side being as it is."""
    match operator:
        case ast.Add():
            return wanted - other
        case ast.Sub():
            return wanted + other if left else other - wanted
        case ast.Mult():
            return wanted / other
        case _:
            return wanted * other if left else other / wanted


def _has(node: ast.expr, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name():
            return values[node.id]
        case ast.Constant():
            return node.value
        case ast.UnaryOp():
            return -_value(node.operand, values)
        case ast.BinOp():
            left, right = _value(node.left, values), _value(node.right, values)
            match node.op:
                case ast.Add():
                    return left + right
                case ast.Sub():
                    return left - right
                case ast.Mult():
                    return left * right
                case _:
                    return left / right
        case _:
            raise AssertionError(ast.dump(node))
