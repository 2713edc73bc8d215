"""YAML as recipes use it: plain values only, numbers and words as YAML 1.2 knows them, every mistake one line.

PyYAML reads YAML 1.1, in which `1e-3` is text, `no` is false, `010` is 8 and `4:30` is 270. Here the first is a number
and the others are text, or 10. No tag is followed, no key may stand twice, and an alias may not make a document that is
small on disk large in memory.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from ..spaces import InputError

MOST_CHARACTERS = 200_000
MOST_VALUES = 20_000  # all aliases written out
DIGITS = 20  # a longer whole number is a slip of the keyboard, and Python refuses very long ones

MERGE = "tag:yaml.org,2002:merge"
# What PyYAML says, in part, and what a person has probably done.
SAID_PLAINLY = {
    "cannot start any token": "indent with spaces, not tabs, and put text with special characters in quotes",
    "chomping or indentation indicators": "text that begins with > or | must be in quotes, like '>= 29.0'",
    "mapping values are not allowed": "a ':' too many or too few, or a wrong indentation",
    "expected <block end>": "a wrong indentation, or a bracket or quote too many",
    "expected ',' or ']'": "a bracket [ is not closed",
    "expected ',' or '}'": "a bracket { is not closed",
    "unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a line that is no key with a value; is a ':' missing?",
    "expected the node content": "something is missing here",
    "another document": "a recipe is one document, and here a second one begins",
}


class _Loader(yaml.SafeLoader):
    """Builds plain values: numbers, words, lists, mappings."""

    yaml_implicit_resolvers = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            problem = f"the tag {tag} is not allowed; a recipe holds plain values"
            raise ConstructorError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == MERGE:
                continue
            if not isinstance(key, ScalarNode) or not key.tag.endswith(":str"):
                raise ConstructorError(None, None, f"a key must be a word, not {_said(key)}", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def whole(self, node: ScalarNode) -> int:
        """A whole number, which always counts in tens."""
        digits = node.value.replace("_", "")
        if len(digits) > DIGITS:
            raise ConstructorError(None, None, f"the number {digits[:9]}... is too long", node.start_mark)
        return int(digits)


def _said(node: Node) -> str:
    return node.value if isinstance(node, ScalarNode) else "a list or a mapping"


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.yaml_constructors = {
    f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]
    for kind in ("bool", "float", "null", "str", "seq", "map")
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole)


def plain(text: str) -> Any:
    """The value that YAML text describes; InputError says in which line what is wrong."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"is too long for a recipe (more than {MOST_CHARACTERS:,} characters)")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise InputError(f"is too large for a recipe (more than {MOST_VALUES:,} values, aliases written out)")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise InputError(_explained(error)) from None
    except RecursionError:
        raise InputError("is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def _values(node: Node, known: dict[int, int | None]) -> int:
    """How many values a node stands for, its aliases written out; `known` remembers nodes, None while inside one."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise InputError(f"line {node.start_mark.line + 1}: an alias stands for what it is a part of")
        return count
    known[id(node)] = None
    count = 1 + sum(_values(part, known) for part in _parts(node))
    known[id(node)] = count
    return count


def _parts(node: Node) -> Iterator[Node]:
    if isinstance(node, ScalarNode):
        return
    for part in node.value:
        yield from part if isinstance(node, MappingNode) else (part,)


def _explained(error: yaml.YAMLError) -> str:
    """What YAML found wrong, and in which line."""
    if isinstance(error, yaml.reader.ReaderError):
        return "holds control characters; a recipe is YAML text"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    said = " ".join(str(getattr(error, "context", None) or "").split()) + " " + problem
    for part, plainly in SAID_PLAINLY.items():
        if part in said:
            return f"{where}not valid YAML: {plainly}"
    return f"{where}{problem}" if isinstance(error, ConstructorError) else f"{where}not valid YAML: {problem}"
