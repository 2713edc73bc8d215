"""A traced forward as Python a person would write: assignments with speaking names, loops over chains of modules."""

import builtins
import keyword
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.fx import Node

from .expressions import Expressions, attribute, inputs_of
from .layout import INDENT, WIDTH, Bracket, Pieces, called, flat, laid_out
from .trace import TENSOR, Trace

SHORTEST_LOOP = 3
# What a value is called that its author gave no name, by the function that made it.
MADE_BY = {"cat": "joined", "interpolate": "resized", "pad": "padded", "sigmoid": "mask", "split": "parts"}
UNFIT = {"self", "torch", "nn", "F", "l", "O", "I", "_"} | set(dir(builtins)) | set(keyword.kwlist)


@dataclass
class Step:
    """A statement: a value, and what it is bound to (one name, several that it is unpacked to, or none)."""

    value: Node
    targets: list[Node | None]

    @property
    def needs(self) -> list[Node]:
        """The values in its expression."""
        return list(inputs_of(self.value))


@dataclass
class Loop:
    """Calls of modules one after another, each with the output of the one before in place `place`.

    over: what is iterated; each: the name of an iteration's module, or None where it is always the same one. collected:
    a list of some values and then all outputs, which is used later.
    """

    calls: list[Node]
    place: int
    over: str
    each: str | None
    collected: tuple[Node, ...] | None

    @property
    def start(self) -> object:
        """What the first call is fed with."""
        return self.calls[0].args[self.place]

    @property
    def needs(self) -> list[Node]:
        """The values in its expressions, without those it makes itself."""
        return list(inputs_of(self.calls[0]))


def forward_lines(trace: Trace) -> list[str]:
    """The source of `def forward(...)`, indented as a method."""
    apart: set[Node] = set()
    while True:
        lines, too_long = _Body(trace, apart).lines()
        if too_long is None:
            return lines
        apart.add(too_long)  # a long expression reads better in two statements than over two lines


class _Body:
    """One attempt at the lines of a forward; the values in `apart` get statements of their own."""

    def __init__(self, trace: Trace, apart: set[Node]) -> None:
        self.trace, self.apart = trace, apart
        nodes = list(trace.graph.nodes)
        self.result: Node = nodes.pop()
        self.live = {self.result}
        for node in reversed(nodes):
            if _has_effect(node, trace) or any(user in self.live for user in node.users):
                self.live.add(node)
        self.nodes = [node for node in nodes if node in self.live and node.op not in ("placeholder", "get_attr")]
        self.uses = Counter(used for node in (*self.nodes, self.result) for used in inputs_of(node))
        self.heads = self._heads()
        self.written = Expressions(trace, self._inlined())
        self.steps = [head for head in self.heads if isinstance(head, Loop) or head.value not in self.written.inlined]
        _Namer(self).name_all()

    def _unpacked(self, node: Node) -> list[Node | None]:
        """What a tuple is unpacked to, None where a part is not used; empty where it is not unpacked."""
        users = list(node.users)
        if node in self.trace.bound or node in self.trace.passed or node in self.trace.listed or len(users) < 2:
            return []
        if any(user.target is not operator.getitem for user in users):
            return []
        in_order = [user.args[1] for user in users] == list(range(len(users)))
        return [user if user in self.live else None for user in users] if in_order else []

    def _heads(self) -> list[Step | Loop]:
        """All values in order, except those that come out of an unpacked tuple or a loop."""
        unpacked = {node: targets for node in self.nodes if (targets := self._unpacked(node))}
        parts = {part for targets in unpacked.values() for part in targets if part is not None}
        nodes = [node for node in self.nodes if node not in parts]
        heads: list[Step | Loop] = []
        while nodes:
            until = next((at for at, node in enumerate(nodes) if node in unpacked), len(nodes))
            loop = self._loop(nodes[:until]) if until else None
            if loop is not None:
                heads.append(loop)
                del nodes[: len(loop.calls)]
            else:
                node = nodes.pop(0)
                heads.append(Step(node, unpacked.get(node) or ([node] if self.uses[node] else [])))
        return heads

    def _loop(self, nodes: list[Node]) -> Loop | None:
        """The longest loop that starts with the first of the values, if it is worth one."""
        first = nodes[0]
        if first.op != "call_module" or first.kwargs:
            return None
        holder, _, number = str(first.target).rpartition(".")
        container = self.trace.module.get_submodule(holder)
        in_list = isinstance(container, nn.ModuleList | nn.Sequential) and number.isdigit()
        for place in range(len(first.args)):
            if in_list:
                start = int(number)
                calls, collected = self._closed(_chain(nodes, place, f"{holder}.", start))
                if len(calls) >= SHORTEST_LOOP:
                    whole = len(calls) == len(container._modules)
                    part = "" if whole else f"[{start or ''}:{start + len(calls)}]"
                    over = attribute(self.trace.module, holder) + part
                    return Loop(calls, place, over, one_of(holder), collected)
            calls, collected = self._closed(_chain(nodes, place, str(first.target), None))
            if len(calls) >= SHORTEST_LOOP:
                return Loop(calls, place, f"range({len(calls)})", None, collected)
        return None

    def _closed(self, calls: list[Node]) -> tuple[list[Node], tuple[Node, ...] | None]:
        """The chain up to what is used elsewhere, unless that is one list of all outputs, which is given too."""
        if len(calls) < SHORTEST_LOOP:
            return [], None
        users = [[user for user in call.users if user in self.live] for call in calls]
        for user in users[0]:
            chained = all(set(used) <= {user, after} for used, after in zip(users, calls[1:], strict=False))
            for argument in user.args:
                items = argument if isinstance(argument, list | tuple) else ()
                held = tuple(item for item in items if isinstance(item, Node))
                whole = held[-len(calls) :] == tuple(calls) and len(held) == len(items)
                if user not in calls and whole and chained:
                    return calls, held
        length = next((i + 1 for i, used in enumerate(users[:-1]) if used != [calls[i + 1]]), len(calls))
        return calls[:length], None

    def _inlined(self) -> set[Node]:
        """The values without a name of their own that are used where they are made.

        A value is written into the expression that uses it only if nothing else happens between the two, so that the
        order in which things are computed stays as it was.
        """
        inlined: set[Node] = set()
        pending: list[Node] = []
        for head in [*self.heads, Step(self.result, [])]:
            needs = set(head.needs)
            while pending and pending[-1] in needs:
                inlined.add(pending.pop())
            kept = [index + 1 for index, node in enumerate(pending) if node in needs]
            del pending[: max(kept, default=0)]
            if isinstance(head, Step) and self._may_vanish(head):
                pending.append(head.value)
            else:
                pending.clear()
        return inlined

    def _may_vanish(self, step: Step) -> bool:
        node = step.value
        if self.uses[node] != 1 or node in self.apart or step.targets != [node]:
            return False
        for loop in self.heads:
            if isinstance(loop, Loop) and node in loop.needs:
                return node is loop.start  # all else in a loop is evaluated again and again
        return node not in self.trace.bound or self.result.args[0] is node

    def lines(self) -> tuple[list[str], Node | None]:
        """The lines of the forward; and a value to set apart, where an expression is too long for a line."""
        taken = [given for given in self.trace.call if given.constant is TENSOR]
        parameters = ["self", *("*" * given.starred + given.parameter for given in taken)]
        lines = [f"{INDENT}def forward({', '.join(parameters)}):"]
        for step in [*self.steps, Step(self.result, [])]:
            pieces = self._statement(step)
            long = len(flat(pieces)) + 2 * len(INDENT) > WIDTH
            apart = self._best_apart(step, len(flat(pieces))) if long else None
            if apart is not None:
                return lines, apart
            lines += self._loop_lines(step) if isinstance(step, Loop) else laid_out(pieces, 2)
        return lines, None

    def _statement(self, step: Step | Loop) -> Pieces:
        """The statement of a step; of a loop, the one before it."""
        if isinstance(step, Loop):
            return (f"{self.written.names[step.calls[-1]]} = ", *self.written.argument(step.start))
        if step.value is self.result:
            return ("return ", *self.written.argument(self.result.args[0]))
        names = ["_" if target is None else self.written.names[target] for target in step.targets]
        return (f"{', '.join(names)} = " if names else "", *self.written.expression(step.value)[0])

    def _best_apart(self, step: Step | Loop, length: int) -> Node | None:
        """The part of an expression that gets a statement of its own: one of a list, or what leaves short lines."""
        parts, left = [], step.needs
        while left:
            node = left.pop()
            if node in self.written.inlined:
                left += inputs_of(node)
                if node.target not in (operator.getitem, getattr) and self.result.args[0] is not node:
                    own = len(flat(self.written.expression(node)[0]))
                    parts.append((node not in self.trace.listed, max(own, length - own), node))
        return min(parts, key=lambda part: part[:2], default=(None,))[-1]

    def _loop_lines(self, loop: Loop) -> list[str]:
        written, lines = self.written, []
        name = written.names[loop.calls[-1]]
        if loop.collected is not None:
            held = loop.collected[: -len(loop.calls)]
            start = Bracket("[", tuple(written.argument(item) for item in held), "]")
            lines += laid_out((f"{written.lists[loop.collected]} = ", start), 2)
        if flat(written.argument(loop.start)) != name:
            lines += laid_out(self._statement(loop), 2)
        each = loop.each or attribute(self.trace.module, str(loop.calls[0].target))
        arguments = [written.argument(item) for item in loop.calls[0].args]
        arguments[loop.place] = (name,)
        lines.append(f"{2 * INDENT}for {loop.each or '_'} in {loop.over}:")
        lines += laid_out((f"{name} = ", *called(each, *arguments)), 3)
        if loop.collected is not None:
            lines.append(f"{3 * INDENT}{written.lists[loop.collected]}.append({name})")
        return lines


class _Namer:
    """Gives every value that needs one a name that holds nothing else of use at that time."""

    def __init__(self, body: _Body) -> None:
        self.body, self.trace, self.written = body, body.trace, body.written
        self.last = self._last_uses()
        self.taken: dict[str, int] = {}  # a name, and the last statement that needs what it holds
        lists: dict[str, list[Node]] = {}
        for node, (given, place) in self.trace.inputs.items():
            parameter = given.parameter
            self.taken[parameter] = max(self.taken.get(parameter, -1), self.last.get(node, -1))
            index = None if place is None else -1 if place + 1 == given.count else place
            self.written.names[node] = parameter if index is None else f"{parameter}[{index}]"
            if index is not None:
                lists.setdefault(parameter, []).append(node)
        self.written.lists.update({tuple(nodes): parameter for parameter, nodes in lists.items()})

    def name_all(self) -> None:
        """Goes through the statements in order."""
        for index, step in enumerate(self.body.steps):
            if isinstance(step, Loop):
                self._name_loop(step, index)
                continue
            several = len(step.targets) > 1  # of those, none may take the name of another
            for target in filter(None, step.targets):
                name = self._free(*self._wish(target), index)
                self.written.names[target] = name
                self.taken[name] = max(self.last.get(target, index), index + several)

    def _name_loop(self, loop: Loop, index: int) -> None:
        final, start = loop.calls[-1], loop.start
        named = [self.trace.bound[call] for call in reversed(loop.calls) if call in self.trace.bound]
        wanted = named[0] if named else self._wish(final)[0]
        wanted = "features" if wanted == loop.each else wanted
        holder = self.written.names.get(start) if isinstance(start, Node) else None
        goes_on = holder is not None and holder.isidentifier() and self.last.get(start, -1) <= index  # type: ignore[arg-type]
        if holder is not None and goes_on and (holder == wanted or self.taken.get(wanted, -1) >= index):
            name = holder  # nothing needs the input afterwards
        else:
            name = self._free(wanted, False, index - 1)
        self.written.names[final] = name
        self.taken[name] = max(self.last.get(final, index), index + 1)
        if loop.collected is not None:
            (user,) = {user for user in loop.calls[0].users if user in self.body.live and user not in loop.calls}
            listed = self._free(self.trace.listed.get(loop.calls[0], "outputs"), False, index - 1)
            self.written.lists[loop.collected] = listed
            self.taken[listed] = self._statement_of(user)
        if loop.each is not None:
            loop.each = self._free(loop.each, False, index - 1)

    def _free(self, wanted: str, numbered: bool, at: int) -> str:
        """The name, or the first one with a number after it, that holds nothing needed after statement `at`."""
        wanted = wanted if wanted.isidentifier() and wanted not in UNFIT else "y"
        if not numbered and self.taken.get(wanted, -1) <= at:
            return wanted
        number = 1 if numbered else 2
        while self.taken.get(f"{wanted}_{number}", -1) > at:
            number += 1
        return f"{wanted}_{number}"

    def _wish(self, node: Node) -> tuple[str, bool]:
        """The name a value should have, and whether as one of several with numbers."""
        trace = self.trace
        if node in trace.bound:
            return trace.bound[node], False
        if node in trace.listed:
            return trace.listed[node], True
        if node in trace.passed:
            return trace.passed[node], False
        if node.op == "call_module":
            return one_of(str(node.target)), False
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return MADE_BY.get(target, "y"), False

    def _used_in(self, node: Node) -> Iterator[Node]:
        """The values that have names and stand in the expression of a value."""
        for used in inputs_of(node):
            if used in self.written.inlined:
                yield from self._used_in(used)
            else:
                yield used

    def _last_uses(self) -> dict[Node, int]:
        """The number of the last statement that needs each value."""
        last: dict[Node, int] = {}
        for index, step in enumerate(self.body.steps):
            roots = step.calls if isinstance(step, Loop) else [step.value]
            last |= {used: index for root in roots for used in self._used_in(root)}
        return last | dict.fromkeys(self._used_in(self.body.result), len(self.body.steps))

    def _statement_of(self, node: Node) -> int:
        """The number of the statement in whose expression a value is computed."""
        while node in self.written.inlined:
            (node,) = (user for user in node.users if user in self.body.live)
        for index, step in enumerate(self.body.steps):
            if node in (step.calls if isinstance(step, Loop) else [step.value]):
                return index
        return len(self.body.steps)


def _chain(nodes: list[Node], place: int, target: str, number: int | None) -> list[Node]:
    """The first calls, each fed by the one before: of modules numbered from `number` on, or all of `target`."""
    calls = [nodes[0]]
    for node in nodes[1:]:
        wanted = list(nodes[0].args)
        wanted[place] = calls[-1]
        path = target if number is None else f"{target}{number + len(calls)}"
        if node.op != "call_module" or node.target != path or list(node.args) != wanted or node.kwargs:
            break
        calls.append(node)
    return calls


def _has_effect(node: Node, trace: Trace) -> bool:
    """Whether a value must be computed although nothing uses it: it is computed into another one."""
    if node.op == "call_module":
        return getattr(trace.module.get_submodule(str(node.target)), "inplace", False)
    if node.op not in ("call_method", "call_function"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or bool(node.kwargs.get("inplace")) or "out" in node.kwargs


def one_of(path: str) -> str:
    """What one of the modules at a path is called: `block` for `blocks.3`."""
    word = next((part for part in reversed(path.split(".")) if not part.isdigit()), "layer")
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
