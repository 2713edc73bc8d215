"""Writes docs/recipes.md from the schema of recipes: `python -m paretosr.runs.recipe_docs docs/recipes.md`.

A test compares the page with what this gives. What is new in a family (a block, a number, a sampler, a system) may be
missing on the page until it is written again; everything else may not.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..search.objectives import OBJECTIVES
from ..search.samplers import SAMPLERS
from ..spaces import BLOCKS, BUILDABLE, NETWORKS
from .recipe_file import EXTENDING, read_recipe, recipe_names
from .recipe_schema import Node, part_of, recipe_schema, wanted
from .recipe_values import about

OPENING = """\
# Recipes

<!-- Written by `python -m paretosr.runs.recipe_docs docs/recipes.md`; the words are those of runs/recipe.py. -->

A recipe is a YAML file that says what a run is to do. `paretosr search RECIPE` takes a file, or the name of one that
ships: {shipped}. They lie in [`runs/recipes/`](../runs/recipes/) and are written to be read and copied.

The least that searches:

```yaml
space:
  blocks: [imdb, rfdb, residual]
  widths: [16, 24, 32]
  depths: [2, 3, 4]
```

* **Strict.** A key that does not exist, a value of the wrong kind or keys that do not go together are refused before
  anything is done, in one line that says what would be right.
* **Overrides.** `--set search.candidates=50` changes one key for one run and may be repeated. The value is YAML:
  `--set 'space.blocks=[imdb, rfdb]'`, `--set 'limits.psnr_db=>= 26'`, `--set data.validation=null`.
* **Paths** in a file are relative to the file; those of `--set` and of shipped recipes to the folder you are in.
* **Going on.** A search on the folder of an earlier run goes on with it. Only these keys may have changed then:
  {extending}.
* **Editors.** `paretosr schema > paretosr.schema.json` writes a JSON schema. With the YAML language server (VS Code,
  Neovim, ...) the first line `# yaml-language-server: $schema=paretosr.schema.json` of a recipe beside it brings
  descriptions, completion and checks as you type.
* **YAML** is read as version 1.2 has it: `1e-3` is a number, `no` and `on` are words, `010` is 10. Tags are refused.
"""


# Lists of names that grow: they stand once on the page, with a link to them from each key.
FAMILIES = {
    tuple(OBJECTIVES): "[a number](#numbers)",
    BUILDABLE: "[a system](#systems)",
    tuple(SAMPLERS): "[a sampler](#samplers)",
}


def page() -> str:
    """The whole page."""
    schema = recipe_schema()
    shipped = ", ".join(f"`{name}`" for name in recipe_names())
    extending = textwrap.fill(", ".join(f"`{key}`" for key in EXTENDING), 118, subsequent_indent="  ")
    text = OPENING.replace("{shipped}", shipped).replace("{extending}", extending)
    parts = ["", text.rstrip(), "", "## Shipped", "", *_shipped(), "", "## Top level", ""]
    parts += [schema["description"], "", *_table("", schema)]
    for name, node in _parts("", schema):
        parts += ["", f"## `{name}`", "", node["description"], "", *_table(name, node)]
    parts += ["", "## Numbers", "", "For objectives, limits, and the winner's condition.", "", *_numbers()]
    parts += ["", "## Blocks", "", "The plainest or published value of a choice comes first.", "", *_blocks()]
    parts += ["", "## Systems", "", "Published networks.", "", *_systems()]
    parts += ["", "## Samplers", "", *(f"* `{name}`" for name in SAMPLERS)]
    return "\n".join(parts).lstrip() + "\n"


def _parts(above: str, node: Node) -> Iterator[tuple[str, Node]]:
    """(key, schema) of every part, those inside parts after them."""
    for key, inner in node["properties"].items():
        part = part_of(inner)
        if part is not None:
            name, deeper = f"{above}.{key}".lstrip("."), recipe_schema()["$defs"][part]
            yield name, deeper
            yield from _parts(name, deeper)


def _table(above: str, node: Node) -> list[str]:
    rows = [["key", "what", "default", "meaning"]]
    for key, inner in node["properties"].items():
        name = f"{above}.{key}".lstrip(".")
        if part_of(inner) is None:
            rows.append([f"`{key}`", _what(inner), _default(key, inner, node), inner.get("description", "")])
        else:
            link = name.replace(".", "")
            rows.append([f"`{key}`", f"[keys](#{link})", "", recipe_schema()["$defs"][part_of(inner)]["description"]])
    return markdown(rows)


def _what(node: Node) -> str:
    items = node.get("items", {})
    if tuple(items.get("enum", ())) in FAMILIES:
        return f"a list, each item {FAMILIES[tuple(items['enum'])]}"
    if items.get("title") == "a block":
        return "a list, each item [a block](#blocks)"
    return FAMILIES.get(tuple(node.get("enum", ())), wanted(node))


def _default(key: str, inner: Node, node: Node) -> str:
    if key in node.get("required", ()):
        return "must be given"
    value = inner.get("default")
    return "" if value is None or value in ("", [], {}) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def markdown(rows: list[list[str]]) -> list[str]:
    """The lines of a table, its first row the heading."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _shipped() -> list[str]:
    return markdown([["name", "what for"], *([f"`{name}`", read_recipe(name).description] for name in recipe_names())])


def _numbers() -> list[str]:
    better = {"min": "lower", "max": "higher"}
    known = {
        "counted": "from the architecture, at 3x256x256",
        "timed": "by the timing, before the training",
        "trained": "after the training",
    }
    rows = [[f"`{o.name}`", o.label, better[o.direction], known[o.stage]] for o in OBJECTIVES.values()]
    return markdown([["name", "number", "better", "known"], *rows])


def _blocks() -> list[str]:
    rows = [["block", "choices", "what it is"]]
    for name, block in BLOCKS.items():
        choices = "; ".join(f"`{choice}`: {', '.join(map(str, values))}" for choice, values in block.CHOICES.items())
        rows.append([f"`{name}`", choices, about(block)])
    return markdown(rows)


def _systems() -> list[str]:
    rows = [[f"`{name}`", system.title, system.idea] for name, system in NETWORKS.items()]
    return markdown([["system", "what it is", "in one line"], *rows])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
