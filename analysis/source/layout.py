"""Lines of Python source of at most 100 characters: what is too long is broken at its brackets, as formatters do."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

WIDTH = 100
INDENT = "    "


@dataclass(frozen=True)
class Bracket:
    """A pair of brackets and what stands between, separated by commas, or by nothing but a space."""

    opening: str
    items: tuple["Pieces", ...]
    closing: str
    commas: bool = True  # False for a comprehension, whose items are its clauses
    filled: bool = False  # many short items, as many on a line as go there; formatters are told to leave them so

    def inside(self) -> str:
        """The items on one line, without a comma after the last."""
        return (", " if self.commas else " ").join(flat(item) for item in self.items)


Pieces = tuple[str | Bracket, ...]  # an expression: text, and brackets that may be broken


def flat(pieces: Pieces) -> str:
    """The expression on one line."""
    return "".join(p if isinstance(p, str) else p.opening + p.inside() + p.closing for p in pieces)


def laid_out(pieces: Pieces, depth: int, after: str = "") -> list[str]:
    """The expression as lines, indented by `depth` steps, with `after` at its end."""
    line = INDENT * depth + flat(pieces) + after
    brackets = [index for index, piece in enumerate(pieces) if isinstance(piece, Bracket) and piece.items]
    if len(line) <= WIDTH or not brackets:
        return [line]
    filled = next(_filled(pieces), None)
    if filled is not None:
        before, _, end = (flat(pieces) + after).partition(filled.inside())
        inside = textwrap.wrap(filled.inside(), WIDTH - len(INDENT) * (depth + 1))
        inside = [INDENT * (depth + 1) + text for text in inside]
        return [INDENT * depth + before, *inside, f"{INDENT * depth}{end}  # fmt: skip"]
    last = brackets[-1]
    bracket = pieces[last]
    assert isinstance(bracket, Bracket)
    first = INDENT * depth + flat(pieces[:last]) + bracket.opening
    end = INDENT * depth + bracket.closing + flat(pieces[last + 1 :]) + after
    inside = INDENT * (depth + 1) + bracket.inside()
    if len(inside) <= WIDTH:
        return [first, inside, end]
    comma = "," if bracket.commas else ""
    return [first, *(line for item in bracket.items for line in laid_out(item, depth + 1, comma)), end]


def _filled(pieces: Pieces) -> Iterator[Bracket]:
    """The brackets in an expression whose items fill lines."""
    for piece in pieces:
        if isinstance(piece, Bracket):
            yield from [piece] if piece.filled else (found for item in piece.items for found in _filled(item))


def called(function: str, *arguments: Pieces) -> Pieces:
    """A call."""
    return (function, Bracket("(", arguments, ")"))


def literal(value: object) -> str:
    """A number, a word, True, False, None, or a tuple of such, as source; ValueError for anything else."""
    if isinstance(value, tuple | list):
        inside = ", ".join(literal(item) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    if isinstance(value, str):
        text = repr(value)
        return text if any(mark in text[1:-1] for mark in "'\"\\") else f'"{text[1:-1]}"'
    if value is None or type(value) in (bool, int, float):
        return repr(value)
    raise ValueError(f"{type(value).__name__} {value!r} cannot be written as source")
