"""The table of rules: which operation is understood how. An operation without a rule is a barrier, exact as it is.

A new one: a function that reads a node and gives its rule, or says in words why none applies; named in `RULES`.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..systems.isrresdnet import NoiseLevel
from ..systems.lmsr import PackedMtlu
from .context import Binder, Context
from .convolutions import bind_convolution
from .elementwise import (
    bind_alone,
    bind_padded,
    bind_power,
    bind_reduced,
    narrow_parameters,
    narrow_table,
    pair,
    per_channel,
)
from .primitives import interleave
from .routes import (
    SPLITS,
    bind_interleaved,
    bind_joined,
    bind_parts,
    bind_picked,
    bind_repeated,
    bind_shuffled,
    bind_size,
    bind_through,
    bind_zeros,
)
from .rule import Rule, Whole


def rule_of(node: fx.Node, context: Context) -> Rule:
    """The rule of one node of a traced graph."""
    sources = tuple(node.all_input_nodes)
    whole = Whole(context.width(node), sources, tuple(context.width(source) for source in sources))
    tensors = [source for source in sources if source in context.channels]
    if node.op in ("placeholder", "get_attr", "output") or (not tensors and not _reads_parts(node, context)):
        return whole
    key = type(context.module(node)) if node.op == "call_module" else node.target
    binder = RULES.get(key)
    rule = f"no rule for {getattr(key, '__name__', key)}" if binder is None else binder(node, context)
    if isinstance(rule, str):
        return Whole(whole.channels, whole.operands, whole.widths, rule)
    return rule


def _reads_parts(node: fx.Node, context: Context) -> bool:
    """Whether this picks from the size or the parts of a tensor with channels."""
    return node.target is operator.getitem and any(
        isinstance(source, fx.Node) and source in context.channels
        for source in getattr(node.args[0], "all_input_nodes", ())
    )


def _rules() -> dict[Any, Binder]:
    functions = (
        *(torch.relu, torch.sigmoid, torch.tanh, torch.abs, torch.exp, torch.sqrt, torch.square, torch.neg, torch.sign),
        *(torch.floor, torch.clamp, F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish),
        *(F.hardsigmoid, F.hardtanh, F.softplus, F.softshrink, F.hardshrink, F.sigmoid, F.tanh, F.dropout),
        *(F.interpolate, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, operator.neg),
        *(torch.ones_like, torch.flatten, torch.unsqueeze),
    )
    methods = (
        *("relu", "sigmoid", "tanh", "abs", "exp", "sqrt", "square", "neg", "sign", "floor", "clamp", "float", "half"),
        *("double", "long", "contiguous", "clone", "detach", "flatten", "unsqueeze"),
    )
    modules = (
        *(nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
        *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh, nn.Softshrink),
        *(nn.Hardshrink, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample),
        *(nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    )
    pairs = {
        "+": (operator.add, torch.add, "add"),
        "-": (operator.sub, torch.sub, "sub"),
        "*": (operator.mul, torch.mul, "mul"),
        "/": (operator.truediv, torch.div, "div"),
        "other": (torch.maximum, torch.minimum, "maximum", "minimum", operator.floordiv),
    }
    return {
        **dict.fromkeys((*functions, *methods, *modules), bind_alone),
        **{key: pair(kind) for kind, keys in pairs.items() for key in keys},
        **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d, nn.Linear), bind_convolution),
        **dict.fromkeys((torch.mean, torch.sum, "mean", "sum"), bind_reduced),
        **dict.fromkeys((operator.pow, torch.pow, "pow"), bind_power),
        **dict.fromkeys((torch.cat, torch.concat), bind_joined),
        **dict.fromkeys(SPLITS, bind_parts),
        **dict.fromkeys((nn.PixelShuffle, F.pixel_shuffle), bind_shuffled),
        **dict.fromkeys((getattr, "size"), bind_size),
        operator.getitem: bind_picked,
        interleave: bind_interleaved,
        "repeat": bind_repeated,
        torch.zeros_like: bind_zeros,
        F.pad: bind_padded,
        nn.Identity: bind_through,
        nn.PReLU: per_channel(narrow_parameters, lambda module: True),
        nn.BatchNorm2d: per_channel(narrow_parameters, lambda module: False),
        nn.InstanceNorm2d: per_channel(
            narrow_parameters, lambda module: not module.affine and not module.track_running_stats
        ),
        PackedMtlu: per_channel(narrow_table, lambda module: False),
    }


# By the function, the name of the method, or the type of the module that a node calls.
RULES: dict[Any, Binder] = _rules()
# Modules of ours that the trace does not look into; a noise level is one number of an image.
LEAVES = (PackedMtlu, NoiseLevel)
