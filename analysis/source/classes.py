"""Modules as the classes that a person would write for them: one for each kind, with its constructor and forward."""

import inspect
import keyword
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .cut import Section
from .expressions import attribute
from .kinds import Kind, Made, Setting, class_lines
from .layout import Bracket, Pieces, called, literal
from .statements import forward_lines
from .trace import Call, NotWritable, Trace, is_sequential, torch_class, traced, with_one_tensor

RESERVED = {"F", "nn", "torch"}
NOT_SETTINGS = ("self", "device", "dtype")
LONGEST_SUMMARY = 86  # what fits a line of the file
SHORTEST_STEPS = 4  # a list of equal steps is told from one by chance
NORMS = nn.modules.batchnorm._NormBase


def module_source(module: nn.Module, name: str, summary: str) -> str:
    """The classes of a module and of all modules inside it, the outermost last and under `name`, without imports.

    Changes the module: tensors it holds outside of its parameters become buffers that are saved, so that its state dict
    is that of the written class. Raises NotWritable where it does something this has no words for.
    """
    for inner in module.modules():
        inner._non_persistent_buffers_set.clear()
        for held, value in list(vars(inner).items()):
            if isinstance(value, Tensor):
                delattr(inner, held)
                inner.register_buffer(held, value)
    kinds: list[Kind] = []
    root = _kind(module, {"": with_one_tensor(module)}, kinds)
    root.wanted, root.summary, root.after = name, summary, _shared(module)
    return "\n".join(class_lines(kinds, RESERVED))


def plain_line(text: str) -> str:
    """A text as one line of what can be printed, so that it ends no comment."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def summary_of(module: nn.Module) -> str:
    """What the class of a module says of itself, short enough for a line where that can be had."""
    if type(module).__module__.startswith("torch."):
        return ""  # what torch says of its own classes is long and known
    text = plain_line((type(module).__doc__ or "").strip().partition("\n\n")[0].partition("\n")[0])
    text = text.partition(" Source:")[0]
    if len(text) > LONGEST_SUMMARY:
        text = re.match(r".*?\.(?=\s|$)|.*", text)[0]  # type: ignore[index]  # its first sentence
    if len(text) > LONGEST_SUMMARY:  # then without the shapes, which the numbers in the code say better
        text = re.sub(r"[,:;] `\[N, .*", ".", text)
    return text


def _kind(module: nn.Module, calls: Mapping[str, Call], kinds: list[Kind]) -> Kind:
    """The class for a module, put after those for the modules inside it unless an equal one is there.

    calls: how it and those inside it are called, by path from it.
    """
    trace = None
    if "" in calls:
        trace = module.as_trace() if isinstance(module, Section) else traced(module, calls[""])
    inside = {**calls, **trace.calls} if trace else calls
    body: list[Pieces] = []
    for name, value in _owned(module._parameters):
        body.append((f"{attribute(module, name)} = ", *_parameter(value)))
    for name, value in _owned(module._buffers):
        attribute(module, name)  # whether it can be written as one
        body.append(called("self.register_buffer", (literal(name),), _zeros(value)))
    body += [_indices(name, index) for name, index in getattr(module, "indices", {}).items()]
    for name, child in module.named_children():
        if trace is None or _is_used(trace, name) or child.state_dict():
            body.append((f"{attribute(module, name)} = ", *_constructor(child, _inside(inside, name), kinds)))
    wanted = module.wanted if isinstance(module, Section) else type(module).__name__.strip("_")
    if not wanted.isidentifier() or not wanted.isascii() or keyword.iskeyword(wanted):
        wanted = "Part"
    summary = "" if isinstance(module, Section) else summary_of(module)
    kind = Kind(wanted, summary, body, [], forward_lines(trace) if trace else [])
    for other in kinds:
        if kind.is_like(other):
            return other
    kinds.append(kind)
    return kind


def _constructor(module: nn.Module, calls: Mapping[str, Call], kinds: list[Kind]) -> Pieces:
    """The expression that makes a module; classes it needs are put into `kinds`."""

    def several(calls: Mapping[str, Call]) -> list[Pieces]:
        return [_constructor(child, _inside(calls, name), kinds) for name, child in module._modules.items() if child]

    if isinstance(module, nn.Identity):
        return ("nn.Identity()",)
    if is_sequential(module):
        inside = several(_through_sequential(module, calls))
        return called("nn.Sequential", *([("*", *_list(inside))] if _is_repeated(inside) else inside))
    if type(module) is nn.ModuleList:
        return called("nn.ModuleList", _list(several(calls)))
    if type(module) is nn.ModuleDict:
        items = zip(map(literal, module), several(calls), strict=True)
        return called("nn.ModuleDict", (Bracket("{", tuple((f"{key}: ", *made) for key, made in items), "}"),))
    if type(module) is nn.ParameterList:
        return called("nn.ParameterList", _list([_parameter(value) for value in module]))
    if torch_class(module) is not None:
        return _layer(module)
    return (Made(_kind(module, calls, kinds)),)


def _list(inside: list[Pieces]) -> Pieces:
    """A list, or where all its items are equal, a comprehension."""
    if _is_repeated(inside):
        times = called("for _ in range", (Setting(len(inside), "count"),))
        return (Bracket("[", (inside[0], times), "]", commas=False),)
    return (Bracket("[", tuple(inside), "]"),)


def _is_repeated(inside: list[Pieces]) -> bool:
    return len(inside) > 1 and all(pieces == inside[0] for pieces in inside)


def _inside(calls: Mapping[str, Call], name: str) -> dict[str, Call]:
    """The calls of what lies inside a child, by path from that child; its own under the empty path."""
    return {
        path.removeprefix(name).removeprefix("."): call
        for path, call in calls.items()
        if path == name or path.startswith(f"{name}.")
    }


def _through_sequential(module: nn.Module, calls: Mapping[str, Call]) -> dict[str, Call]:
    """How the modules of an nn.Sequential are called: by it, if it is called itself, with one tensor each."""
    inside = {path: call for path, call in calls.items() if path}
    if "" in calls:
        return {name: with_one_tensor(child) for name, child in module._modules.items() if child} | inside
    return inside


def _is_used(trace: Trace, name: str) -> bool:
    targets = {str(node.target) for node in trace.graph.nodes if node.op in ("call_module", "get_attr")}
    return any(target == name or target.startswith(f"{name}.") for target in targets)


def _owned(tensors: Mapping[str, Tensor | None]) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in tensors.items() if value is not None]


def _zeros(value: Tensor) -> Pieces:
    """A tensor of the shape; the file of weights has its numbers."""
    shape: list[Pieces] = [(Setting(size, "channels"),) for size in value.shape]
    kind: list[Pieces] = [(f"dtype={value.dtype}",)] if value.dtype != torch.float32 else []
    return called("torch.zeros", *(shape or [("()",)]), *kind)


def _indices(name: str, index: tuple[int, ...]) -> Pieces:
    """A list of channels, which is no weight."""
    first, last = min(index, default=0), max(index, default=-1)
    step = index[1] - first if len(index) >= SHORTEST_STEPS else 1
    if step > 0 and index == tuple(range(first, last + 1, step)):
        ends = (first, last + 1, step) if step > 1 else (first, last + 1)
        held = called("torch.arange", *((str(end),) for end in ends))
    else:
        held = called("torch.tensor", (Bracket("[", tuple((str(place),) for place in index), "]", filled=True),))
    return called("self.register_buffer", (literal(name),), held, ("persistent=False",))


def _parameter(value: Tensor) -> Pieces:
    frozen: list[Pieces] = [] if value.is_floating_point() else [("requires_grad=False",)]
    return called("nn.Parameter", _zeros(value), *frozen)


def _layer(module: nn.Module) -> Pieces:
    """The constructor of a layer of torch, with those of its settings that are not the usual ones."""
    kind = torch_class(module)
    assert kind is not None
    positional: list[Pieces] = []
    named: list[Pieces] = []
    for place, (name, parameter) in enumerate(inspect.signature(kind.__init__).parameters.items()):
        if name in NOT_SETTINGS or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        if not hasattr(module, name):
            if required:
                raise NotWritable(f"{kind.__name__} does not keep its setting {name!r}")
            continue
        value = _setting(module, name)
        written = _written(kind, name, value)
        if required:
            positional.append((written,))
        elif value != parameter.default and not _follows(module, name, value):
            # As people write it: nn.LeakyReLU(0.05), but nn.ReLU(inplace=True).
            plain = not positional and not named and place == 1 and type(value) in (int, float)
            (positional if plain else named).append((written,) if plain else (f"{name}=", written))
    return called(f"nn.{kind.__name__}", *positional, *named)


def _setting(module: nn.Module, name: str) -> Any:
    """A setting as a person would give it: 3 for (3, 3), and whether there is a bias rather than the bias."""
    value = getattr(module, name)
    if name == "bias":
        return value is not None
    if isinstance(value, tuple | list) and len(value) > 1 and len(set(value)) == 1 and name != "normalized_shape":
        return value[0]
    return tuple(value) if isinstance(value, list) else value


def _follows(module: nn.Module, name: str, value: Any) -> bool:
    """Whether a setting is what the others make of it when it is not given."""
    if name == "stride" and isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return value == _setting(module, "kernel_size")
    if name == "init" and isinstance(module, nn.PReLU):
        return True  # the file of weights says more
    return name == "bias" and isinstance(module, NORMS) and not module.affine


def _written(kind: type[nn.Module], name: str, value: Any) -> str:
    try:
        return Setting(value, name) if type(value) is int else literal(value)
    except ValueError as error:
        raise NotWritable(f"{kind.__name__}: {name}: {error}") from None


def _shared(module: nn.Module) -> list[str]:
    """Statements that make one of what stands in several places: modules with weights, and single weights."""
    lines: list[str] = []
    modules: dict[nn.Module, str] = {}
    done: list[str] = []
    for path, inner in module.named_modules(remove_duplicate=False):
        if path.startswith(tuple(done)) or not inner.state_dict():
            continue
        if modules.setdefault(inner, path) != path:
            done.append(f"{path}.")
            lines.append(f"{attribute(module, path)} = {attribute(module, modules[inner])}")
    weights: dict[Tensor, str] = {}
    for path, weight in module.named_parameters(remove_duplicate=False):
        if not path.startswith(tuple(done)) and weights.setdefault(weight, path) != path:
            lines.append(f"{attribute(module, path)} = {attribute(module, weights[weight])}")
    return lines
