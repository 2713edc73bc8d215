"""The operations of a traced forward as Python expressions."""

import inspect
import keyword
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from .layout import Bracket, Pieces, called, flat, literal
from .trace import TENSOR, NotWritable, Trace, arguments_of, torch_class

ATOM, POWER, SIGN = 10, 9, 8  # how tightly operators bind
BINARY: dict[Callable[..., Any], tuple[str, int]] = {
    operator.pow: ("**", POWER),
    operator.mul: ("*", 7),
    operator.matmul: ("@", 7),
    operator.truediv: ("/", 7),
    operator.floordiv: ("//", 7),
    operator.mod: ("%", 7),
    operator.add: ("+", 6),
    operator.sub: ("-", 6),
    operator.gt: (">", 3),
    operator.lt: ("<", 3),
    operator.ge: (">=", 3),
    operator.le: ("<=", 3),
    operator.eq: ("==", 3),
    operator.ne: ("!=", 3),
}
UNARY: dict[Callable[..., Any], str] = {operator.neg: "-", operator.pos: "+", operator.invert: "~"}


@dataclass
class Expressions:
    """Writes values of one trace.

    inlined: values that are written where they are used. names: the variables of the others. lists: the variables that
    hold several values.
    """

    trace: Trace
    inlined: set[Node] = field(default_factory=set)
    names: dict[Node, str] = field(default_factory=dict)
    lists: dict[tuple[Node, ...], str] = field(default_factory=dict)

    def argument(self, value: Any) -> Pieces:
        """Anything that may stand between brackets."""
        if isinstance(value, Node):
            return self.operand(value)[0]
        if isinstance(value, tuple | list):
            return self._several(value)
        if isinstance(value, slice):
            return (self._slice(value),)
        if isinstance(value, torch.dtype):
            return (str(value),)
        if value is Ellipsis:
            return ("...",)
        try:
            return (literal(value),)
        except ValueError as error:
            raise NotWritable(str(error)) from None

    def _several(self, values: tuple[Any, ...] | list[Any]) -> Pieces:
        name = self.lists.get(tuple(values)) if all(isinstance(item, Node) for item in values) else None
        if name is not None:
            return (name,)
        items = tuple(self.argument(item) for item in values)
        if isinstance(values, list):
            return (Bracket("[", items, "]"),)
        return ("(", *items[0], ",)") if len(items) == 1 else (Bracket("(", items, ")"),)

    def _slice(self, value: slice) -> str:
        parts = ["" if part is None else flat(self.argument(part)) for part in (value.start, value.stop)]
        parts += [flat(self.argument(value.step))] * (value.step is not None)
        simple = all(not part or _is_simple(part) for part in parts)
        return ":".join(parts) if simple else " : ".join(parts).strip()

    def operand(self, value: Any) -> tuple[Pieces, int]:
        """A value, and how tightly the last operator in it binds."""
        if not isinstance(value, Node):
            pieces = self.argument(value)
            return pieces, SIGN if flat(pieces).startswith("-") else ATOM
        if value in self.inlined:
            return self.expression(value)
        if value.op == "get_attr":
            return (attribute(self.trace.module, str(value.target)),), ATOM
        return (self.names[value],), ATOM

    def expression(self, node: Node) -> tuple[Pieces, int]:
        """What computes a value, and how tightly the last operator in it binds."""
        if node.op == "call_module":
            return self._module_call(node), ATOM
        if node.op == "call_method":
            receiver, *args = node.args
            return (*self._bound(receiver, ATOM), f".{node.target}", *self._arguments(args, node.kwargs)), ATOM
        function: Any = node.target
        if function in BINARY and len(node.args) == 2:
            sign, level = BINARY[function]
            left = self._bound(node.args[0], level + (function is operator.pow))
            right = self._bound(node.args[1], level + (function is not operator.pow))
            tight = function is operator.pow and all(_is_simple(flat(side)) for side in (left, right))
            return (*left, sign if tight else f" {sign} ", *right), level
        if function in UNARY:
            return (UNARY[function], *self._bound(node.args[0], SIGN)), SIGN
        if function is operator.getitem:
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            return (*self._bound(node.args[0], ATOM), Bracket("[", tuple(map(self.argument, index)), "]")), ATOM
        if function is getattr:
            return (*self._bound(node.args[0], ATOM), f".{node.args[1]}"), ATOM
        written = _functions().get(function)
        if written is None:
            raise NotWritable(f"{type(self.trace.module).__name__} calls {function}, which is no function of torch")
        return (written, *self._arguments(node.args, _given(function, node.kwargs))), ATOM

    def _bound(self, value: Any, level: int) -> Pieces:
        """An operand, in parentheses where its operator binds less tightly than the one beside it."""
        pieces, own = self.operand(value)
        return pieces if own >= level else ("(", *pieces, ")")

    def _arguments(self, args: Any, kwargs: Mapping[str, Any]) -> Pieces:
        named = [(f"{name}=", *self.argument(value)) for name, value in kwargs.items()]
        return called("", *(self.argument(value) for value in args), *named)

    def _module_call(self, node: Node) -> Pieces:
        path = str(node.target)
        module = self.trace.module.get_submodule(path)
        function = attribute(self.trace.module, path)
        if torch_class(module) is not None:
            return (function, *self._arguments(node.args, node.kwargs))
        arguments: list[Pieces] = []
        for given, value in arguments_of(module, node.args, node.kwargs):
            if given.starred:
                arguments += [self.argument(item) for item in value]
            elif given.constant is TENSOR:  # the class is written for the one constant that it gets
                arguments.append(self.argument(value))
        return called(function, *arguments)


def inputs_of(node: Node) -> Iterator[Node]:
    """The values among a node's arguments, as often as they stand there, in order."""
    found: list[Node] = []
    torch.fx.map_arg((node.args, node.kwargs), found.append)  # type: ignore[arg-type]
    return iter(found)


def attribute(module: nn.Module, path: str) -> str:
    """`self.` and the path of something inside `module`, as Python writes it."""
    text, here = "self", module
    for part in path.split("."):
        if isinstance(here, nn.ModuleList | nn.Sequential | nn.ParameterList) and part.isdigit():
            text += f"[{part}]"
        elif isinstance(here, nn.ModuleDict):
            text += f"[{literal(part)}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            raise NotWritable(f"{type(module).__name__} has something named {part!r}, which is no name in Python")
        here = getattr(here, part)
    return text


@cache
def _functions() -> dict[Any, str]:
    """The functions of torch.nn.functional and torch, and how they are written."""
    return {
        value: f"{prefix}.{name}"
        for module, prefix in ((torch, "torch"), (F, "F"))
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_")
    }


def _given(function: Any, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments by name that are not what the function would take anyway."""
    # Those of F that have two forms, like max_pool2d, show their parameters only under a second name.
    signed = vars(F).get(_functions()[function].replace("F.", "_"), function)
    try:
        parameters = inspect.signature(signed).parameters
    except ValueError:  # written in C
        return kwargs
    return {n: v for n, v in kwargs.items() if n not in parameters or not _same(parameters[n].default, v)}


def _same(default: Any, value: Any) -> bool:
    return type(default) is type(value) and default == value


def _is_simple(text: str) -> bool:
    """Whether an operand is a name or a number, beside which formatters put no spaces."""
    return text.lstrip("-").replace(".", "").replace("_", "").isalnum()
