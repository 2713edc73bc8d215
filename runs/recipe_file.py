"""Recipe files: from YAML to a `Recipe`; every mistake is one line.

A key that does not exist, a wrong type or an impossible value is an InputError that names file, key, value, and what
would be right. Paths in a recipe file are relative to the file, those of `--set` to the working folder.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..spaces import BUILDABLE, NETWORKS, Design, InputError, published, read_design, unknown
from .recipe import Recipe
from .recipe_schema import keys_at, node_at, places_of, wanted
from .recipe_schema import recipe_schema as recipe_schema  # part of this door
from .recipe_values import shown
from .recipe_yaml import MOST_CHARACTERS, plain

RECIPES = Path(__file__).with_name("recipes")
PATHS = ("data.source", "data.validation", "network")
# What may differ when a run goes on: these only extend it, or say what to make of it.
EXTENDING = ("search.candidates", "search.minutes", "search.steps", "search.at_least", "search.workers")
EXTENDING += ("search.task_minutes", "pruning", "confirm", "report", "winner", "description")


# ---- reading


def recipe_names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, or the shipped one of that name, with `key.key=value` overrides; InputError in one line."""
    folder, label, text = _text(name)
    try:
        raw = plain(text)
    except InputError as error:
        raise InputError(f"{label}: {error}") from None
    if raw is None:
        raise InputError(f"{label}: is empty; `paretosr recipes` lists recipes to start from")
    if not isinstance(raw, dict):
        raise InputError(f"{label}: must be a mapping of keys like 'space:' and 'train:', not {shown(raw)}")
    _resolve(raw, folder, label)
    for override in overrides:
        _override(raw, override)
    return _checked(raw, label, overrides)


def changed(recipe: Recipe, overrides: Sequence[str], label: str) -> Recipe:
    """The recipe with some keys changed, as `--set` changes them; `label` names the recipe in errors."""
    raw = recipe.model_dump(mode="json")
    for override in overrides:
        _override(raw, override)
    return _checked(raw, label, overrides)


def parse_recipe(raw: Mapping[str, Any], label: str) -> Recipe:
    """The recipe in a plain mapping, as `Recipe.model_dump(mode="json")` gives it; `label` names the file in errors."""
    return _checked(raw, label, ())


def _text(name: str) -> tuple[Path, str, str]:
    """The folder that paths are relative to, the name for errors, and what the file says."""
    path, label = Path(name), " ".join(name.split()) or "''"
    try:
        if name in recipe_names() and not path.is_file():
            return Path.cwd(), f"{name}.yaml", (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        if path.is_dir():
            raise InputError(f"{label}: is a folder, not a recipe file")
        if not path.exists():
            raise InputError(f"{label}: {_nothing_there(path)}")
        with path.open("rb") as file:
            content = file.read(4 * MOST_CHARACTERS + 1)
        return path.parent, label, content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: is not UTF-8 text (byte {error.start}); a recipe is YAML text") from None
    except OSError as error:
        raise InputError(f"{label}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{label}: is no file name") from None  # it holds a NUL


def _nothing_there(path: Path) -> str:
    """What to say of a recipe that does not exist: names of files and shipped recipes that are near."""
    beside = [path.with_name(file.name) for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    names = [*recipe_names(), *map(str, beside)]
    near = [name for name in names if Path(name).stem == path.stem] or difflib.get_close_matches(str(path), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"no such file, and no shipped recipe{hint} (shipped: {', '.join(recipe_names())})"


def _resolve(raw: dict[str, Any], folder: Path, label: str) -> None:
    """Makes the paths in a mapping absolute, as seen from `folder`."""
    for key in PATHS:
        *parents, last = key.split(".")
        at: Any = raw
        for parent in parents:
            at = at.get(parent) if isinstance(at, dict) else None
        value = at.get(last) if isinstance(at, dict) else None
        if isinstance(value, str) and value not in ("", *(BUILDABLE if key == "network" else ("embedded",))):
            try:
                at[last] = str((folder / Path(value).expanduser()).resolve())
            except (RuntimeError, OSError, ValueError):  # no such user, a loop of links, a NUL
                raise InputError(f"{label}: {key}: {shown(value)} is no path that can be found") from None


# ---- overrides


def _override(raw: dict[str, Any], override: str) -> None:
    """Puts `key.key=value` into the mapping; keys and values are checked later, with all others."""
    label = f"--set {override}"
    key, equals, text = override.partition("=")
    key = key.strip()
    if key.endswith(("<", ">")):
        raise InputError(f"{label}: write it with one '=' more: --set '{key[:-1].strip()}={key[-1]}= {text.strip()}'")
    if not equals or not all(key.split(".")):
        raise InputError(f"{label}: must be written like --set search.candidates=50")
    try:
        # A condition needs no quotes here, though a YAML file asks for them.
        value = text.strip() if re.match(r"\s*[<>]=", text) else plain(text)
    except InputError as error:
        raise InputError(f"{label}: {str(error).removeprefix('line 1: ')}") from None
    *parents, last = key.split(".")
    tree: dict[str, Any] = {last: value}
    for parent in reversed(parents):
        tree = {parent: tree}
    _resolve(tree, Path.cwd(), label)
    for parent in parents:
        if not isinstance(raw.get(parent), dict):
            raw[parent] = {}
        raw, tree = raw[parent], tree[parent]
    raw[last] = tree[last]


# ---- one line for every mistake


def _checked(raw: Any, label: str, overrides: Sequence[str]) -> Recipe:
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        location, message = _explained(problems[0])
        others = len(problems) - 1
        more = f" (and {others} more mistake{'s' if others > 1 else ''})" if others else ""
        by_key = {override.partition("=")[0].strip(): override for override in overrides}
        mine = next((by_key[key] for key in by_key if _is_under(location, key) or _is_under(key, location)), None)
        if mine is not None:
            label = f"--set {mine}"
        elif overrides and not location:  # two keys that do not go together, and one may have come from here
            label = " ".join([label, "with", *(f"--set {override}" for override in overrides)])
        raise InputError(f"{label}: {message}{more}") from None


def _is_under(location: str, key: str) -> bool:
    """Whether a location is that of the key, or lies inside it; nothing lies inside the empty one."""
    return location == key or location.startswith((f"{key}.", f"{key}["))


def _explained(problem: Any) -> tuple[str, str]:
    """(key, sentence) of one mistake that pydantic found; the key is empty where several do not go together."""
    steps = tuple(step for step in problem["loc"] if step != "[key]")
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        parent = _joined(steps[:-1])
        elsewhere = places_of(str(steps[-1]))
        if elsewhere:  # the right name in the wrong place, unless it is nearly a name of this place
            near = difflib.get_close_matches(str(steps[-1]), keys_at(steps[:-1]), n=1, cutoff=0.75)
            meant = [f"'{_joined((*steps[:-1], name))}'" for name in near]
            meant += [f"'{key}'" if "." in key else f"'{key}' at the top level" for key in elsewhere]
            sentence = f"no key '{steps[-1]}'; did you mean {' or '.join(meant)}?"
        else:
            sentence = unknown("key", steps[-1], keys_at(steps[:-1]))
        return _joined(steps), f"{parent}: {sentence}" if parent else sentence
    if kind == "value_error":
        # A message that begins with a dot goes on with the way to the mistake.
        message = str(problem["ctx"]["error"])
        where = _joined(steps[:-1] if problem["loc"][-1:] == ("[key]",) else steps)
        return _joined(steps), f"{where}{'' if message.startswith('.') or not where else ': '}{message}"
    where, node = _joined(steps), node_at(steps) or {}
    if kind == "missing":
        return where, f"{where}: is missing; it must be {wanted(node)}"
    if kind in ("too_short", "string_too_short"):
        return where, f"{where}: must not be empty"
    if where == "":
        return where, f"must be a mapping of keys, not {shown(given)}"
    return where, f"{where}: must be {wanted(node)}, not {shown(given)}{_hint(node, given)}"


def _joined(steps: Sequence[str | int]) -> str:
    """`space.widths[2]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


ITEMS = {"string": (str,), "integer": (int,), "number": (int, float)}


def _hint(node: Mapping[str, Any], given: Any) -> str:
    """What to write instead, where the intention is plain."""
    kinds: set[Any] = {option.get("type") for option in (node, *node.get("anyOf", ()))}
    if type(given) in ITEMS.get(node.get("items", {}).get("type", "string"), ()) and "array" in kinds:
        return f"; write [{given}]"
    if "integer" in kinds and isinstance(given, float) and given.is_integer() and abs(given) < 1e15:
        return f"; write {int(given)}"
    if kinds & {"integer", "number"} and isinstance(given, str) and re.fullmatch(r"[-+]?[0-9.]+(e[-+]?\d+)?", given):
        return "; write it without quotes"
    if "string" in kinds and isinstance(given, int | float):
        return "; put it in quotes"
    if "boolean" in kinds and given in ("yes", "no", "on", "off", "Yes", "No", "On", "Off"):
        return f"; write {'true' if given.lower() in ('yes', 'on') else 'false'}"
    if given is None and ("$ref" in node or "anyOf" in node):
        return "; leave the key out, or give it keys"
    return ""


# ---- recipes compared, and the network of one


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The keys in which recipes differ, without those that only extend a run: `train.steps is 300 there, 400 here`."""
    found: list[str] = []

    def compare(key: str, a: Any, b: Any) -> None:
        if key in EXTENDING or a == b:
            return
        if isinstance(a, dict) and isinstance(b, dict):
            for name in dict.fromkeys((*a, *b)):
                compare(f"{key}.{name}".lstrip("."), a.get(name), b.get(name))
        else:
            found.append(f"{key} is {shown(a)} there, {shown(b)} here")

    compare("", old.model_dump(mode="json"), new.model_dump(mode="json"))
    return found


def network_of(recipe: Recipe) -> Design:
    """The one network a recipe is about; InputError names its file where that is not there or not right."""
    if recipe.network is None:
        raise InputError("network: the recipe names no network to train; give it a published one, or a JSON file")
    path = Path(recipe.network)
    if recipe.network in BUILDABLE or (path.name in NETWORKS and not path.exists()):
        return published(path.name)
    if not path.suffix and not path.exists():
        raise InputError(f"network: {unknown('published network', path.name, BUILDABLE)}, and no such file")
    return read_design(path)
