"""Which channels of a network are alive under a plan: the two sets of every tensor, to their fixed point."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from ..plan import Plan, check
from .channels import every, listed, lowest, these
from .rule import Rule
from .trace import Flow

Sides = Mapping[str, tuple[int, int]]  # by the name of a convolution: the outputs and the inputs that are alive


@dataclass(frozen=True)
class Live:
    """What is left of a network.

    nonzero, held: for every node of the traced graph, the sets that `rule.py` describes. sides: for every convolution,
    the outputs and inputs that are alive. module_held: the outputs it must have a place for, over all its calls; those
    that are not alive are made as zeros.
    """

    nonzero: Mapping[fx.Node, int]
    held: Mapping[fx.Node, int]
    sides: Sides
    module_held: Mapping[str, int]

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """How many outputs and inputs of each convolution are alive."""
        return {name: (outs.bit_count(), ins.bit_count()) for name, (outs, ins) in self.sides.items()}


def live(flow: Flow, plan: Plan) -> Live:
    """The fixed point of the flow under a plan. InputError where the plan does not fit the network.

    What is closed in one round (an input that nothing non-zero reaches, an output that nobody reads) leaves the
    function as it was, and may close more in the next; each round starts from what the one before left.
    """
    check(plan, flow.network)
    flow.refuse_uncut(plan.kept)
    sides = started(flow, plan)
    while True:
        nonzero = nonzero_of(flow, sides)
        held = _backwards(flow, nonzero, sides)
        module_held = dict.fromkeys(flow.calls, 0)
        read = dict.fromkeys(flow.calls, 0)
        for name, calls in flow.calls.items():
            for node in calls:
                rule = flow.rules[node]
                module_held[name] |= held[node]
                read[name] |= rule.reads(held[node], [nonzero[x] for x in rule.operands], sides)
        fewer = {name: (outs & module_held[name], ins & read[name]) for name, (outs, ins) in sides.items()}
        if fewer == sides:
            return Live(nonzero, held, sides, module_held)
        sides = fewer


def settled(flow: Flow, plan: Plan) -> Plan:
    """The plan with all closed that closing the rest makes useless: the same function, and the widths as they come out.

    Convolutions that keep everything are not named; `order` is kept for what is left of it. A convolution whose inputs
    are all zero gives its bias: it keeps one of them, for without any it would be closed.
    """
    kept, first = {}, started(flow, plan)
    for name, (outs, ins) in live(flow, plan).sides.items():
        outputs, inputs = flow.widths[name]
        if not outs:
            ins = 0
        elif not ins:
            ins = lowest(first[name][1])
        if (outs, ins) != (every(outputs), every(inputs)) or name in plan.order:
            kept[name] = tuple(listed(outs)), tuple(listed(ins))
    order = {name: tuple(c for c in laid if c in kept[name][0]) for name, laid in plan.order.items() if name in kept}
    return Plan(plan.architecture, kept, order)


def started(flow: Flow, plan: Plan) -> dict[str, tuple[int, int]]:
    """What the plan itself keeps; a convolution without outputs or without inputs is closed on both sides."""
    sides = {}
    for name, (outputs, inputs) in flow.widths.items():
        kept = plan.kept.get(name)
        outs, ins = (every(outputs), every(inputs)) if kept is None else (these(kept[0]), these(kept[1]))
        sides[name] = (outs, ins) if outs and ins else (0, 0)
    return sides


def nonzero_of(flow: Flow, sides: Sides) -> dict[fx.Node, int]:
    """For each node, the channels that may be non-zero."""
    nonzero: dict[fx.Node, int] = {}
    for node, rule in flow.rules.items():
        nonzero[node] = rule.nonzero([nonzero[x] for x in rule.operands], sides)
    return nonzero


def _backwards(flow: Flow, nonzero: Mapping[fx.Node, int], sides: Sides) -> dict[fx.Node, int]:
    """For each node, the channels that must have a place."""
    held = dict.fromkeys(flow.rules, 0)
    must_exist: set[fx.Node] = set()
    rules: list[tuple[fx.Node, Rule]] = list(flow.rules.items())
    held[rules[-1][0]] = 1  # the output
    for node, rule in reversed(rules):
        if node in must_exist and not held[node]:
            held[node] = lowest(nonzero[node])
        if not held[node]:
            continue
        for operand, wanted in zip(
            rule.operands, rule.wants(held[node], [nonzero[x] for x in rule.operands], sides), strict=True
        ):
            held[operand] |= wanted
            if rule.needs_size:
                must_exist.add(operand)
    return held
