"""Terms of sums that can be taken out of a network whole, and whether the image still gets through what is left."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from ..plan import HASH_DIGITS, Plan
from .convolutions import Convolution, Depthwise
from .elementwise import Elementwise, Sum
from .live import Live, live, nonzero_of
from .routes import Route, Shuffle
from .rule import Size
from .trace import Flow

CARRIES = (Convolution, Depthwise, Sum, Elementwise, Route, Shuffle)


@dataclass(frozen=True)
class Branch:
    """A term that can go: closing all outputs of `closes` makes it zero, and all of `convolutions` useless.

    node: the term's name in the traced graph.
    """

    node: str
    closes: tuple[str, ...]
    convolutions: tuple[str, ...]


def branches(flow: Flow) -> Iterator[Branch]:
    """The terms of sums that can be taken out one at a time, in the order of the network.

    Closing what makes the term touches nothing but the term, and the image still reaches the output through trained
    convolutions. Left out: terms made by a convolution that is called more than once.
    """
    always = nonzero_of(flow, dict.fromkeys(flow.calls, (0, 0)))
    seen = set()
    for node, rule in flow.rules.items():
        for term in rule.operands if isinstance(rule, Sum) else ():
            makers = _makers(flow, term, always)
            closes = tuple(sorted({str(maker.target) for maker in makers}))
            if not makers or closes in seen or any(len(flow.calls[name]) > 1 for name in closes):
                continue
            if any(_escapes(maker, node) for maker in makers):
                continue
            seen.add(closes)
            left = live(flow, Plan("0" * HASH_DIGITS, dict.fromkeys(closes, ((), ()))))
            if passes_image(flow, left):
                yield Branch(term.name, closes, tuple(name for name in flow.calls if not left.sides[name][0]))


def passes_image(flow: Flow, left: Live) -> bool:
    """Whether the image reaches the output through a trained convolution: what is left is more than the image skip.

    Told from which channels are alive, not from weights: yes may be wrong, no is not.
    """
    image, body = 1, 2
    level: dict[fx.Node, int] = {}
    for node, rule in flow.rules.items():
        if node.op == "placeholder":
            level[node] = image
        elif isinstance(rule, Size):
            level[node] = 0
        else:
            alive = [level[x] for x in rule.operands if left.nonzero[x]]
            level[node] = max(alive, default=0)
            if rule.cuts:
                ins = left.sides[str(node.target)][1]
                reached = level[node] if left.held[node] and ins & left.nonzero[rule.operands[0]] else 0
                trained = any(p.requires_grad for p in flow.network.get_submodule(str(node.target)).parameters())
                level[node] = body if reached and trained else reached
    return level[next(reversed(flow.rules))] == body


def _makers(flow: Flow, term: fx.Node, always: Mapping[fx.Node, int]) -> list[fx.Node]:
    """The calls of convolutions that make a term non-zero; none where it is so without them."""
    found, waiting, passed = [], [term], set()
    while waiting:
        node = waiting.pop()
        if node in passed:
            continue
        passed.add(node)
        rule = flow.rules[node]
        if always[node] or not isinstance(rule, CARRIES):
            return []
        if isinstance(rule, Convolution):
            found.append(node)
        elif isinstance(rule, Depthwise):
            found += [node] if rule.has_bias else []
            waiting += rule.operands
        elif isinstance(rule, Elementwise):
            deciding = [x for x in rule.operands[: rule.wide] if not always[x]]
            waiting += deciding if rule.zero == "all" else deciding[:1]
        else:
            waiting += rule.operands
    return found


def _escapes(maker: fx.Node, end: fx.Node) -> bool:
    """Whether what a convolution gives reaches the output by another way than through the sum."""
    waiting, passed = [maker], {end}
    while waiting:
        node = waiting.pop()
        if node.op == "output":
            return True
        if node not in passed:
            passed.add(node)
            waiting += node.users
    return False
