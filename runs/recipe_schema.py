"""The JSON schema of recipes, for editors and for words: what a key must be is said from it, here and in the docs."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from .recipe import Recipe

Node = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Leaves out the titles that only repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def recipe_schema() -> Node:
    """The JSON schema of a recipe: keys with descriptions, defaults, bounds, and the names that may stand there."""
    schema = Recipe.model_json_schema(schema_generator=_Generator)
    parts = schema.pop("$defs")
    for part in (schema, *parts.values()):
        part.pop("title", None)
        for key, node in part["properties"].items():
            if part_of(node) is not None:  # its keys have defaults of their own, and nobody writes null for a part
                part["properties"][key] = {"$ref": f"#/$defs/{part_of(node)}"}
            if "description" in node:
                node["description"] = " ".join(node["description"].split())
        part["description"] = " ".join(part["description"].split())
    return {"$schema": DIALECT, "title": "ParetoSR recipe", **schema, "$defs": parts}


def part_of(node: Node) -> str | None:
    """The name of the part (`SearchPart`) that a key holds, None where it holds a plain value."""
    references = [option["$ref"] for option in (node, *node.get("anyOf", ())) if "$ref" in option]
    return references[0].rpartition("/")[2] if references else None


def node_at(location: Sequence[str | int]) -> Node | None:
    """The schema of the key at a location like ("space", "widths", 0); None where there is no such key."""
    node: Node | None = recipe_schema()
    for step in location:
        if node is None:
            return None
        inside = _opened(node)
        if isinstance(step, int):
            node = inside.get("items")
        else:
            others = inside.get("additionalProperties")
            node = inside.get("properties", {}).get(step, others if isinstance(others, dict) else None)
    return node


def _opened(node: Node) -> Node:
    """The schema behind a reference or an optional value."""
    part = part_of(node)
    if part is not None:
        return recipe_schema()["$defs"][part]
    return next((option for option in node.get("anyOf", ()) if option.get("type") != "null"), node)


def keys_of(node: Node) -> list[str]:
    """The keys of the part that a key holds; none where it holds a plain value."""
    return list(_opened(node)["properties"]) if part_of(node) else []


def keys_at(location: Sequence[str | int]) -> list[str]:
    """The keys that the part at a location may have."""
    node = node_at(location)
    if node is None:
        return []
    return list(_opened(node).get("properties", ()))


def places_of(key: str) -> list[str]:
    """Where in a recipe a key of this name may stand: `batch` as train.batch and latency.batch."""
    whole = recipe_schema()
    found = [key] if key in whole["properties"] else []
    for name, node in whole["properties"].items():
        inside = _opened(node).get("properties", {}) if part_of(node) else {}
        found += [f"{name}.{key}"] if key in inside else []
        found += [f"{name}.{part}.{key}" for part, deeper in inside.items() if key in keys_of(deeper)]
    return found


def wanted(node: Node) -> str:
    """What a value must be, in words: `a whole number of at least 1`."""
    if "title" in node and node["title"] != "ParetoSR recipe":
        return node["title"]
    if part_of(node) is not None:
        return f"a mapping of keys ({', '.join(_opened(node)['properties'])})"
    node = _opened(node)
    if "title" in node:
        return node["title"]
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    kind = node.get("type")
    if kind == "array":
        return f"a list, each item {wanted(node['items'])}"
    if kind in NUMBERS:
        return NUMBERS[kind] + _bounds(node)
    return {"boolean": "true or false", "string": "text", "object": "a mapping of keys"}.get(str(kind), "another value")


NUMBERS = {"integer": "a whole number", "number": "a number"}


def _bounds(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {_plain(low)} to {_plain(high)}"
    said = []
    if low is not None:
        said.append(f"of at least {_plain(low)}")
    if above is not None:
        said.append(f"above {_plain(above)}")
    if high is not None:
        said.append(f"of at most {_plain(high)}")
    if below is not None:
        said.append(f"below {_plain(below)}")
    return (" " + " and ".join(said)) if said else ""


def _plain(number: float) -> str:
    return f"{number:g}" if number < 1e6 else f"{number:,}"
