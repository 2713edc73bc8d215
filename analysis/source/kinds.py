"""Classes that differ in a few numbers only become one class with these numbers as arguments of its constructor."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from .layout import INDENT, WIDTH, Bracket, Pieces, called, laid_out

MOST_ARGUMENTS = 3  # with more of them, two classes are easier to read


class Setting(str):
    """A number in a constructor's source, and the name of what it sets."""

    name: str

    def __new__(cls, text: object, name: str) -> "Setting":
        made = super().__new__(cls, text)
        made.name = name
        return made


class Made(str):
    """In a constructor's source, a module of a class of ours."""

    kind: "Kind"

    def __new__(cls, kind: "Kind") -> "Made":
        made = super().__new__(cls, f"{kind.wanted} {id(kind)}")
        made.kind = kind
        return made


@dataclass(eq=False)
class Kind:
    """What is to be written as a class: for one module at first, then for all that are alike.

    body: the statements of its constructor; after: more of them, as lines; forward: the lines of that method.
    """

    wanted: str
    summary: str
    body: list[Pieces]
    after: list[str]
    forward: list[str]
    like: "Kind | None" = None  # the one that is written in its place
    arguments: tuple[str, ...] = ()  # what that one's constructor is given for it
    parameters: tuple[str, ...] = ()
    name: str = ""
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        self.depth = 1 + max((made.kind.depth for made in _texts(self.body) if isinstance(made, Made)), default=0)

    def is_like(self, other: "Kind") -> bool:
        """Whether both are the same class."""
        mine, theirs = ((k.wanted, k.summary, k.body, k.after, k.forward) for k in (self, other))
        return mine == theirs


def class_lines(kinds: list[Kind], reserved: set[str]) -> list[str]:
    """The source of the classes, those that stand in others first; the last of `kinds` keeps its name."""
    for depth in sorted({kind.depth for kind in kinds}):
        alike: dict[tuple[object, ...], list[Kind]] = {}
        for kind in kinds:
            if kind.depth == depth:
                kind.body = [_resolved(pieces) for pieces in kind.body]
                alike.setdefault(_skeleton(kind), []).append(kind)
        for group in alike.values():
            _merge(group)
    written = [kind for kind in kinds if kind.like is None]
    written[-1].name = written[-1].wanted
    taken = reserved | {written[-1].name}
    for kind in written[:-1]:
        number, kind.name = 1, kind.wanted
        while kind.name in taken:
            number += 1
            kind.name = f"{kind.wanted}{number}"
        taken.add(kind.name)
    return "\n\n\n".join("\n".join(_lines(kind)) for kind in written).splitlines()


def _merge(group: list[Kind]) -> None:
    """Lets the first of a group stand for all, if few numbers differ."""
    first = group[0]
    columns = list(zip(*([*_settings(kind)] for kind in group), strict=True))
    varying = list(dict.fromkeys(column for column in columns if len(set(column)) > 1))
    if len(varying) > MOST_ARGUMENTS:
        kinds: dict[tuple[str, ...], Kind] = {}
        for kind in group:
            same = kinds.setdefault(tuple(_settings(kind)), kind)
            kind.like = None if same is kind else same
        return
    for place, kind in enumerate(group):
        kind.like, kind.arguments = first, tuple(column[place] for column in varying)
    first.like = None
    names: dict[tuple[str, ...], str] = {}
    for column in varying:
        wanted = {setting.name for setting, values in zip(_settings(first), columns, strict=True) if values == column}
        name = wanted.pop() if len(wanted) == 1 else "channels"
        names[column] = name if name not in names.values() else f"{name}_{len(names) + 1}"
    first.parameters = tuple(names.values())
    new = iter([names.get(column) for column in columns])
    first.body = [_replaced(pieces, new) for pieces in first.body]


def _texts(body: list[Pieces]) -> Iterator[str]:
    """All text of some expressions, in order."""
    for pieces in body:
        for piece in pieces:
            yield from [piece] if isinstance(piece, str) else _texts(list(piece.items))


def _settings(kind: Kind) -> Iterator[Setting]:
    return (text for text in _texts(kind.body) if isinstance(text, Setting))


def _skeleton(kind: Kind) -> tuple[object, ...]:
    """All of a class but its numbers."""
    blank = tuple(_replaced(pieces, iter(lambda: "_", "")) for pieces in kind.body)
    return (kind.wanted, kind.summary, blank, tuple(kind.after), tuple(kind.forward))


def _replaced(pieces: Pieces, new: Iterator[str | None]) -> Pieces:
    """The expression with the next of `new` in the place of each number, where that is not None."""
    made = []
    for piece in pieces:
        if isinstance(piece, Bracket):
            made.append(replace(piece, items=tuple(_replaced(item, new) for item in piece.items)))
        else:
            made.append((next(new) or piece) if isinstance(piece, Setting) else piece)
    return tuple(made)


def _resolved(pieces: Pieces) -> Pieces:
    """The expression with a call of the class that is written in the place of each module of ours."""
    made: list[str | Bracket] = []
    for piece in pieces:
        if isinstance(piece, Bracket):
            made.append(replace(piece, items=tuple(_resolved(item) for item in piece.items)))
        elif isinstance(piece, Made):
            kind = piece.kind.like or piece.kind
            settings = zip(piece.kind.arguments, kind.parameters, strict=True)
            made += [Made(kind), *called("", *((Setting(value, name),) for value, name in settings))]
        else:
            made.append(piece)
    return tuple(made)


def _named(pieces: Pieces) -> Pieces:
    """The expression with the names of classes, now that they have some."""
    return tuple(
        replace(piece, items=tuple(_named(item) for item in piece.items))
        if isinstance(piece, Bracket)
        else (piece.kind.name if isinstance(piece, Made) else piece)
        for piece in pieces
    )


def _lines(kind: Kind) -> list[str]:
    lines = [f"class {kind.name}(nn.Module):", *_docstring(kind.summary)]
    if kind.body or kind.after:
        lines += [f"{INDENT}def __init__({', '.join(['self', *kind.parameters])}):", f"{2 * INDENT}super().__init__()"]
        lines += [line for pieces in kind.body for line in laid_out(_named(pieces), 2)]
        lines += [2 * INDENT + line for line in kind.after]
        lines += [""] * bool(kind.forward)
    return lines + kind.forward if len(lines) + len(kind.forward) > 1 else [*lines, f"{INDENT}pass"]


def _docstring(summary: str) -> list[str]:
    """A class's docstring and the empty line after it; none where there is nothing to say."""
    text = summary.replace("\\", "/").replace('"', "'")
    if not text:
        return []
    lines = textwrap.wrap(f'"""{text}', WIDTH - len(INDENT) - 3)
    if len(lines) > 1:
        lines.append("")
    lines[-1] += '"""'
    return [*(INDENT + line if line else line for line in lines), ""]
