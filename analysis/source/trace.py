"""What a module's forward does, as a graph, and what its author called the values in it.

torch.fx records the operations. The names are read while it does: a value that some frame of the module's own code
has bound to a local variable is known by that variable from then on.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import Attribute, TraceError

INNER = "module"  # what the module that is traced is called inside the one that calls it
TENSOR = object()  # in place of a constant


class NotWritable(Exception):
    """The module does something that this way of writing it down has no words for."""


@dataclass(frozen=True)
class Given:
    """What a call gives for one parameter of a forward: a tensor, a list of `count` tensors, or a `constant`."""

    parameter: str
    count: int | None = None
    starred: bool = False
    constant: Any = TENSOR


Call = tuple[Given, ...]


@dataclass
class Trace:
    """A forward as a graph; paths in it are relative to the module.

    inputs: each placeholder's parameter and its place in that parameter's list, None where it is no list. calls: how
    modules inside that are not torch's own are called, by path. bound: the variable a value was bound to. passed: the
    parameter of a function that it was given for. listed: the list that it was put into.
    """

    module: nn.Module
    call: Call
    graph: Graph
    inputs: dict[Node, tuple[Given, int | None]]
    calls: dict[str, Call]
    bound: dict[Node, str]
    passed: dict[Node, str]
    listed: dict[Node, str]


def with_one_tensor(module: nn.Module) -> Call:
    """How a module is called with one tensor."""
    first = next(iter(inspect.signature(module.forward).parameters.values()))
    starred = first.kind is inspect.Parameter.VAR_POSITIONAL
    return (Given(first.name, 1 if starred else None, starred),)


def traced(module: nn.Module, call: Call) -> Trace:
    """Traces one module with the modules inside it as single steps, or where that fails, through them.

    Tensors that the forward makes by itself become buffers of the module. Raises NotWritable where neither works.
    """
    failures = []
    for through in (False, True):
        try:
            return _trace(module, call, through)
        except (TraceError, NotWritable, TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
            failures.append(error)
    raise NotWritable(f"{type(module).__name__} cannot be traced: {failures[-1]}") from failures[-1]


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn that does all the module does, and None where its own code does more."""
    for kind in type(module).__mro__:
        if kind is not nn.Module and getattr(nn, kind.__name__, None) is kind:
            own_forward = type(module).forward is not kind.forward  # type: ignore[attr-defined]
            return None if own_forward or any(module.children()) else kind
    return None


def is_sequential(module: nn.Module) -> bool:
    """Whether it is a plain nn.Sequential, its modules numbered."""
    numbered = list(module._modules) == [str(index) for index in range(len(module._modules))]
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and numbered


def is_nothing(module: nn.Module) -> bool:
    """Whether it is a step not worth a module: it has neither weights nor modules, and is no layer of torch."""
    if isinstance(module, nn.Identity) and type(module).forward is nn.Identity.forward:
        return True
    owned = (module._parameters, module._buffers, module._modules)
    return torch_class(module) is None and not any(owned) and not isinstance(module, nn.Sequential)


def arguments_of(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[Given, Any]]:
    """The arguments of a call, each with what it is; graph nodes and their proxies count as tensors."""
    signature = inspect.signature(module.forward)
    found = []
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        starred = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        if isinstance(value, Proxy | Node):
            given = Given(name)
        elif isinstance(value, tuple | list) and any(isinstance(item, Proxy | Node) for item in value):
            if not all(isinstance(item, Proxy | Node) for item in value):
                raise NotWritable(f"{type(module).__name__} is given a list that holds more than tensors")
            given = Given(name, len(value), starred)
        elif value is None or isinstance(value, bool | int | float | str):
            given = Given(name, constant=value)
        else:
            raise NotWritable(f"{type(module).__name__} is given a {type(value).__name__}")
        found.append((given, value))
    return found


class _Entered(nn.Module):
    """Calls the module to trace with placeholders for what it is given."""

    def __init__(self, module: nn.Module, call: Call, tracer: "_Tracer") -> None:
        super().__init__()
        self.module, self.call, self.tracer = module, call, tracer

    def forward(self) -> Any:
        bound = inspect.signature(self.module.forward).bind_partial()
        for given in self.call:
            if given.constant is not TENSOR:
                bound.arguments[given.parameter] = given.constant
            elif given.count is None:
                bound.arguments[given.parameter] = self.tracer.placeholder(given, None)
            else:
                values = [self.tracer.placeholder(given, place) for place in range(given.count)]
                bound.arguments[given.parameter] = tuple(values) if given.starred else values
        return self.module.forward(*bound.args, **bound.kwargs)


@dataclass
class _Names:
    bound: dict[Node, str] = field(default_factory=dict)
    passed: dict[Node, str] = field(default_factory=dict)
    listed: dict[Node, str] = field(default_factory=dict)


class _Tracer(torch.fx.Tracer):
    """Records a graph, and the names in the frames of the code that makes it."""

    proxy_buffer_attributes = True

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.through = through
        self.calls: dict[str, Call] = {}
        self.inputs: dict[Node, tuple[Given, int | None]] = {}
        self.names = _Names()
        self.makers: dict[Node, list[FrameType]] = {}  # the frames that stood around a value when it was made

    def placeholder(self, given: Given, place: int | None) -> Proxy:
        """A tensor that the module is given."""
        proxy = self.create_proxy("placeholder", given.parameter, (), {})
        self.inputs[proxy.node] = (given, place)
        return proxy

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_nothing(m):
            return False
        return not self.through or torch_class(m) is not None or is_sequential(m)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path) and torch_class(m) is None:
            try:
                call = tuple(given for given, _ in arguments_of(m, args, kwargs))
            except NotWritable:
                return forward(*args, **kwargs)
            if self.calls.setdefault(path, call) != call:
                return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        frames = self._read_names()
        node = super().create_node(*args, **kwargs)
        self.makers[node] = frames
        return node

    def _read_names(self) -> list[FrameType]:
        frames, frame = [], sys._getframe(2)
        while frame is not None and frame.f_code is not _Entered.forward.__code__:
            if frame.f_globals is not globals() and not frame.f_globals.get("__name__", "").startswith("torch"):
                frames.append(frame)
            frame = frame.f_back
        for frame in frames:
            for name, value in frame.f_locals.items():
                if (node := _node_of(value)) is not None:
                    # What a function was given has the name of a parameter there, which is seldom the better one.
                    made_here = frame in self.makers.get(node, ())
                    (self.names.bound if made_here else self.names.passed).setdefault(node, name)
                elif isinstance(value, list | tuple):
                    for node in filter(None, map(_node_of, value)):
                        self.names.listed.setdefault(node, name)
        return frames


def _node_of(value: object) -> Node | None:
    """The node of what stands for a value; an attribute has none before it is used, and asking would make one."""
    if isinstance(value, Attribute):
        return value._node
    return value.node if isinstance(value, Proxy) else None


def _trace(module: nn.Module, call: Call, through: bool) -> Trace:
    tracer = _Tracer(through)
    entered = _Entered(module, call, tracer)
    graph = tracer.trace(entered)
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            inner, _, path = str(node.target).partition(".")
            node.target = path if inner == INNER and path else _kept_constant(module, getattr(entered, inner))
    calls = {path.removeprefix(INNER + "."): how for path, how in tracer.calls.items()}
    return Trace(module, call, graph, tracer.inputs, calls, **vars(tracer.names))


def _kept_constant(module: nn.Module, value: Tensor) -> str:
    """The name of the buffer of `module` that now holds a tensor its forward made."""
    if not isinstance(value, Tensor):
        raise NotWritable(f"{type(module).__name__} uses a {type(value).__name__} as a constant")
    number = 1
    while hasattr(module, f"constant_{number}"):
        number += 1
    module.register_buffer(f"constant_{number}", value.detach().clone())
    return f"constant_{number}"
