"""Kinds of values that a recipe may hold, each with its check, its words for a mistake, and its JSON schema.

A check raises ValueError. Where the mistake lies deeper than the key that is checked, the message begins with the rest
of the way, as in `.imdb.attention[0]: no attention 'ccca'`; `recipe_file.py` puts the key before it.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from pydantic import AfterValidator, BeforeValidator, GetJsonSchemaHandler, WithJsonSchema

from ..search.objectives import OBJECTIVES, Limit
from ..search.verdict import RANKED_BY
from ..spaces import BLOCKS, InputError, unknown

WINNERS = {"fastest": "{psnr_db: '>= 29.0'}", "best_psnr": "{latency_ratio: '<= 0.5'}"}  # rule: an example of its use
SMALLEST, LARGEST = 8, 4096  # LR pixels a side of a timed image


def shown(value: Any) -> str:
    """A value as a person would write it, cut where it is long."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str, ensure_ascii=False)
    text = f"'{value}'" if isinstance(value, str) and text == f'"{value}"' else text
    return text if len(text) <= 60 else text[:57] + "..."


class OneOf(BeforeValidator):
    """Marks a key whose value must be one of these names or numbers."""

    what: str
    names: tuple[str | int, ...]

    def __init__(self, what: str, names: Iterable[str | int]) -> None:
        super().__init__(self._check)
        object.__setattr__(self, "what", what)  # frozen, as all pydantic's markers are
        object.__setattr__(self, "names", tuple(names))

    def _check(self, value: Any) -> Any:
        if any(value == name and type(value) is type(name) for name in self.names):
            return value
        if isinstance(value, str) and value not in map(str, self.names):
            raise ValueError(unknown(self.what, value, map(str, self.names)))
        raise ValueError(f"must be one of {', '.join(map(str, self.names))}, not {shown(value)}")

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.names)}


def _once(values: list[Any]) -> list[Any]:
    # A block stands in the list as the mapping of one name.
    names = [next(iter(value)) if isinstance(value, dict) else value for value in values]
    for index, name in enumerate(names):
        if name in names[:index]:
            blocks = "; put its choices together in one item" if isinstance(values[index], dict) else ""
            raise ValueError(f"{shown(name)} stands twice{blocks}")
    return values


ONCE = AfterValidator(_once)


# ---- the device


def _device(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"must be auto, cpu, cuda or cuda:0, not {shown(value)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError(unknown("device", value, ("auto", "cpu", "cuda", "cuda:0")))
    return value


DEVICE = BeforeValidator(_device)
DEVICE_SCHEMA = WithJsonSchema(
    {"type": "string", "title": "auto, cpu, cuda, or cuda:1 and so on", "pattern": r"^(auto|cpu|cuda(:\d+)?)$"}
)


# ---- an image size


def _size(value: Any) -> Any:
    """A list of two whole numbers becomes a tuple."""
    sides = tuple(value) if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise ValueError(f"must be two whole numbers, [height, width], not {shown(value)}")
    for side in sides:
        if not SMALLEST <= side <= LARGEST:
            raise ValueError(f"both must lie between {SMALLEST} and {LARGEST} LR pixels, not {shown(value)}")
    return sides


SIZE = BeforeValidator(_size)
SIZE_SCHEMA = WithJsonSchema(
    {
        "type": "array",
        "title": "two whole numbers, [height, width]",
        "items": {"type": "integer", "minimum": SMALLEST, "maximum": LARGEST},
        "minItems": 2,
        "maxItems": 2,
    }
)


# ---- a block with its choices


def _block(value: Any) -> dict[str, dict[str, list[Any]]]:
    """`imdb`, or `imdb: {attention: [none, cca]}`; becomes the mapping of one name to its choices."""
    entry = {value: {}} if isinstance(value, str) else value
    if not isinstance(entry, dict) or not entry:
        raise ValueError(f"must be a block, like imdb or imdb: {{attention: [cca]}}, not {shown(value)}")
    if len(entry) != 1:
        keys = ", ".join(map(str, entry))
        raise ValueError(f"one item is one block, and here are {len(entry)} keys ({keys}); indent choices more")
    ((name, choices),) = entry.items()
    if name not in BLOCKS:
        raise ValueError(unknown("block", name, BLOCKS))
    if choices is None:
        choices = {}
    if not isinstance(choices, dict):
        example = next(f"{choice}: [{values[0]}]" for choice, values in BLOCKS[name].CHOICES.items())
        raise ValueError(f".{name}: must hold choices, like {{{example}}}, not {shown(choices)}")
    return {name: {choice: _choice(name, choice, values) for choice, values in choices.items()}}


def _choice(block: str, choice: str, values: Any) -> list[Any]:
    allowed = BLOCKS[block].CHOICES
    if choice not in allowed:
        raise ValueError(f".{block}: {unknown('choice', choice, allowed)}")
    known, where = allowed[choice], f".{block}.{choice}"
    if not isinstance(values, list):
        raise ValueError(f"{where}: must be a list, like [{', '.join(map(str, known))}], not {shown(values)}")
    if not values:
        raise ValueError(f"{where}: needs at least one of {', '.join(map(str, known))}")
    chosen = []
    for index, value in enumerate(values):
        # Found by value, taken from the block: 3.0 stands for its 3, and true for nothing.
        meant = [k for k in known if k == value and not isinstance(value, bool)]
        if not meant:
            raise ValueError(f"{where}[{index}]: {_no_choice(choice, value, known)}")
        if meant[0] in chosen:
            raise ValueError(f"{where}: {shown(meant[0])} stands twice")
        chosen.append(meant[0])
    return chosen


def _no_choice(choice: str, value: Any, known: Iterable[Any]) -> str:
    names = [str(k) for k in known]
    if isinstance(value, str) and value not in names:
        return unknown(choice, value, names)
    return f"must be one of {', '.join(names)}, not {shown(value)}"


def about(block: Any) -> str:
    """The first sentence on a block, without the shapes that all blocks have."""
    return (block.__doc__ or "").partition("\n")[0].replace(", `[N, width, H, W]` to the same", "")


def _block_schema() -> dict[str, Any]:
    blocks = {}
    for name, block in BLOCKS.items():
        choices = {
            choice: {"type": "array", "items": {"enum": list(values)}, "minItems": 1, "uniqueItems": True}
            for choice, values in block.CHOICES.items()
        }
        blocks[name] = {
            "type": ["object", "null"],
            "description": about(block),
            "properties": choices,
            "additionalProperties": False,
        }
    alone = {"type": "string", "enum": list(blocks)}
    chosen = {"type": "object", "properties": blocks, "additionalProperties": False}
    return {"title": "a block", "anyOf": [alone, {**chosen, "minProperties": 1, "maxProperties": 1}]}


BLOCK = BeforeValidator(_block)
BLOCK_SCHEMA = WithJsonSchema(_block_schema())


# ---- conditions on measured numbers, and the winner's rule


def _condition(value: Any) -> str:
    """A bound like `<= 150`, for whatever number."""
    try:
        bound = Limit.parse("psnr_db", value).bound if isinstance(value, str) else math.nan
    except InputError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ValueError(f"must be a condition like '<= 150' or '>= 29.0', not {shown(value)}")
    if bound <= 0:
        raise ValueError(f"must compare with a number above 0, as every measured number is, not {shown(value)}")
    return value


def _winner(value: Any) -> Any:
    """`knee`, or `fastest` or `best_psnr` with one condition."""
    rules = ("knee", *WINNERS)
    if value == "knee":
        return value
    if isinstance(value, str):
        raise ValueError(f"{value} needs a condition, like {WINNERS[value]}" if value in WINNERS else _no_rule(value))
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"must be one of {', '.join(rules)}, the last two with a condition, not {shown(value)}")
    ((rule, condition),) = value.items()
    if rule == "knee":
        raise ValueError("knee takes no condition: write winner: knee")
    if rule not in RANKED_BY:
        raise ValueError(_no_rule(rule))
    if not isinstance(condition, dict) or len(condition) != 1:
        raise ValueError(f".{rule}: must be one condition, like {WINNERS[rule]}, not {shown(condition)}")
    ((number, text),) = condition.items()
    if number not in OBJECTIVES:
        raise ValueError(f".{rule}: {unknown('number', number, OBJECTIVES)}")
    try:
        return {rule: {number: _condition(text)}}
    except ValueError as error:
        raise ValueError(f".{rule}.{number}: {error}") from None


def _no_rule(given: str) -> str:
    return unknown("rule", given, ("knee", *WINNERS))


def _conditions_schema(**more: int) -> dict[str, Any]:
    pattern = r"^\s*(<=|>=)\s*[0-9.eE+-]+\s*$"
    numbers = {
        name: {
            "type": "string",
            "title": "a condition, like '<= 150'",
            "pattern": pattern,
            "description": f"{objective.label}, {'lower' if objective.direction == 'min' else 'higher'} is better",
        }
        for name, objective in OBJECTIVES.items()
    }
    return {"type": "object", "properties": numbers, "additionalProperties": False, **more}


def _winner_schema() -> dict[str, Any]:
    condition = _conditions_schema(minProperties=1, maxProperties=1)
    rules = {"type": "object", "properties": dict.fromkeys(WINNERS, condition), "additionalProperties": False}
    return {
        "title": " or ".join(("knee", *(f"{name}: {example}" for name, example in WINNERS.items()))),
        "anyOf": [{"type": "string", "const": "knee"}, {**rules, "minProperties": 1, "maxProperties": 1}],
    }


CONDITION = BeforeValidator(_condition)
LIMITS_SCHEMA = WithJsonSchema({"title": "a mapping like {activations_m: '<= 150'}", **_conditions_schema()})
WINNER = BeforeValidator(_winner)
WINNER_SCHEMA = WithJsonSchema(_winner_schema())
