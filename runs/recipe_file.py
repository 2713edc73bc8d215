"""Recipe files: from YAML to a `Recipe`; every mistake is one line.

A key that does not exist, a wrong type or an impossible value is an InputError that names file, key, value, and what
would be right. Paths in a recipe file are relative to the file, those of `--set` to the working folder.
"""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..spaces import Architecture, InputError, unknown
from .recipe import Recipe

RECIPES = resources.files(__package__) / "recipes"
PATHS = ("data.source", "data.validation", "network")
# What may differ when a run goes on: these only extend it, or say what to make of it.
EXTENDING = ("search.candidates", "search.minutes", "search.steps", "search.at_least", "search.workers")
EXTENDING += ("search.task_minutes", "confirm", "report", "winner", "description")


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def recipe_names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, or the shipped one of that name, with `key.key=value` overrides; InputError in one line."""
    path, label, text = _text(name)
    raw = _mapping(text, label)
    for key in PATHS:
        _resolve(raw, key, path.parent if path else Path.cwd())
    for override in overrides:
        _override(raw, override)
    return parse_recipe(raw, label)


def parse_recipe(raw: dict[str, Any], label: str) -> Recipe:
    """The recipe in a plain mapping; `label` names the file in errors."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{label}: {_one_line(error)}") from None


def _text(name: str) -> tuple[Path | None, str, str]:
    if name in recipe_names() and not Path(name).is_file():
        return None, f"{name}.yaml", (RECIPES / f"{name}.yaml").read_text()
    path = Path(name)
    if path.is_dir():
        raise InputError(f"{name}: is a folder, not a recipe file")
    if not path.is_file():
        known = ", ".join(recipe_names())
        raise InputError(f"{name}: no such recipe file, and none of the shipped ones ({known})")
    try:
        return path, path.name, path.read_bytes().decode()
    except UnicodeDecodeError:
        raise InputError(f"{name}: is not a text file; a recipe is YAML") from None


def _mapping(text: str, label: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a subclass of the safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"{label}: {where}not valid YAML here: {' '.join(str(problem).split())}") from None
    except RecursionError:
        raise InputError(f"{label}: nested too deeply") from None
    if raw is None:
        raise InputError(f"{label}: is empty; see `paretosr recipes` for examples")
    if not isinstance(raw, dict):
        raise InputError(f"{label}: must be a mapping of keys, not {type(raw).__name__}")
    return raw


def _resolve(raw: dict[str, Any], key: str, folder: Path) -> None:
    """Makes the path at `key` absolute, as seen from `folder`."""
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.get(parent)  # type: ignore[assignment]
        if not isinstance(raw, dict):
            return
    value = raw.get(last)
    if isinstance(value, str) and value != "embedded":
        raw[last] = str((folder / Path(value).expanduser()).resolve())


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: must be written like search.candidates=50")
    *parents, last = key.split(".")
    at = raw
    for parent in parents:
        if not isinstance(at.get(parent), dict):
            at[parent] = {}
        at = at[parent]
    try:
        at[last] = yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except yaml.YAMLError:
        raise InputError(f"--set {override}: the value is not valid YAML") from None
    if key in PATHS:
        _resolve(raw, key, Path.cwd())


def _one_line(error: ValidationError) -> str:
    """The first mistake: key, value, and what would be right; and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        names = _fields_at(first["loc"][:-1])
        text = unknown("key", first["loc"][-1], names)
        where = where.rpartition(".")[0]
        return (f"{where}: {text}" if where else text) + more
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return (f"{where}: {message}" if where else message) + more
    given = "" if first["type"] == "missing" else f"{_short(first['input'])}: "
    return f"{where}: {given}{message[0].lower()}{message[1:]}{more}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(location: Sequence[str | int]) -> list[str]:
    model: Any = Recipe
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        model = next((a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The keys in which two recipes differ, without those that only extend a run: `train.steps is 300 there, 400 here`."""
    found: list[str] = []

    def compare(key: str, a: Any, b: Any) -> None:
        if key in EXTENDING or a == b:
            return
        if isinstance(a, dict) and isinstance(b, dict):
            for name in dict.fromkeys((*a, *b)):
                compare(f"{key}.{name}".lstrip("."), a.get(name), b.get(name))
        else:
            found.append(f"{key} is {_short(a)} there, {_short(b)} here")

    compare("", old.model_dump(mode="json"), new.model_dump(mode="json"))
    return found


def network_of(recipe: Recipe) -> Architecture:
    """The one network a recipe is about."""
    if recipe.network is None:
        raise InputError("the recipe names no network to train (key 'network': a JSON file)")
    path = Path(recipe.network)
    try:
        return Architecture.from_json(json.loads(path.read_text()))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
