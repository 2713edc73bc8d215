"""The house stays as it is drawn: floors, one door per guest, file sizes, names, and what the package is made of."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import defaultdict
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

RUNTIME: list[str] = PROJECT["project"]["dependencies"]
ON_REQUEST: list[str] = [  # imported when asked for
    requirement
    for extra in ("cluster", "dashboard", "postgresql", "tensorboard")
    for requirement in PROJECT["project"]["optional-dependencies"][extra]
]
FOR_TESTS: list[str] = PROJECT["project"]["optional-dependencies"]["test"]

FLOORS = {"spaces": 1, "proxies": 2, "search": 3, "pruning": 3, "analysis": 4, "runs": 5}
DOORS = {  # guest: (files that may import it, how many of them at most)
    "optuna": ("search/*", 2),
    "moocore": ("search/front.py", 1),
    "optuna_dashboard": ("runs/dashboard_command.py", 1),
    "psycopg": ("runs/postgresql.py", 1),
    "sqlalchemy": ("runs/postgresql.py", 1),
    "ray": ("runs/*", 1),
    "sklearn": ("proxies/*", 2),  # photos, models
    "skimage": ("proxies/*", 1),  # photos
    "joblib": ("runs/simulation_command.py", 1),
    "pandas": ("analysis/*", None),
    "plotly": ("analysis/*", None),
    "jinja2": ("analysis/*", None),
    "onnx": ("analysis/export*", None),
    "onnxruntime": ("analysis/export*", None),
    "onnxscript": ("analysis/export*", None),
    "typer": ("runs/*", None),
    "rich": ("runs/*", None),
    "pydantic": ("runs/*", None),
    "yaml": ("runs/*", None),
}
NAMELESS = {"util", "utils", "helper", "helpers", "base", "common", "manager", "managers"}
LONGEST_FILE_LINES = 400


class Import(NamedTuple):
    """One imported module: ours, seen from inside the package (`spaces.errors`), or a guest's full name."""

    file: str  # path from the repository
    line: int
    module: str
    own: bool  # written relative

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.module}"


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (REPOSITORY / folder).rglob("*.py"))


def rooms() -> list[Path]:
    """All Python files of the package below its root."""
    return python_files(*(folder for folder in FLOORS if (REPOSITORY / folder).is_dir()))


def read_imports(file: Path) -> list[Import]:
    """Every import of a file, those inside functions and under TYPE_CHECKING included."""
    path = file.relative_to(REPOSITORY)
    found: list[Import] = []
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            package = list(path.parts[: len(path.parts) - node.level])
            # `from .. import search` names the folder only in the list of what it imports.
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            found += [Import(str(path), node.lineno, ".".join([*package, target]), True) for target in targets]
            continue
        else:
            continue
        found += [Import(str(path), node.lineno, name, False) for name in names]
    return found


@cache
def package_imports() -> tuple[Import, ...]:
    return tuple(found for file in rooms() for found in read_imports(file))


def guests(imports: tuple[Import, ...]) -> list[Import]:
    familiar = sys.stdlib_module_names | {"paretosr"}
    return [found for found in imports if not found.own and found.top not in familiar]


def distribution_names(requirements: list[str]) -> set[str]:
    """The names of requirements as an index compares them: `PyYAML>=6.0` is `pyyaml`."""
    return {re.sub(r"[._-]+", "-", re.split(r"[\[<>=]", requirement)[0]).lower() for requirement in requirements}


def listed(lines: list[str]) -> str:
    return "\n" + "\n".join(lines)


# Floors and doors


def test_imports_point_downwards_only():
    wrong = []
    for found in package_imports():
        here, there = found.file.partition("/")[0], found.top
        if found.own and here != there and FLOORS.get(there, 0) >= FLOORS[here]:
            wrong.append(f"{found}: floor {FLOORS[here]} may import only floors below it")
    assert not wrong, listed(wrong)


def test_inside_the_package_imports_are_relative():
    wrong = [str(found) for found in package_imports() if found.top == "paretosr"]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize("guest", DOORS)
def test_a_guest_has_one_door(guest):
    allowed, at_most = DOORS[guest]
    callers: dict[str, list[str]] = defaultdict(list)
    for found in package_imports():
        if not found.own and found.top == guest:
            callers[found.file].append(str(found))
    outside = [line for file, lines in callers.items() if not fnmatch(file, allowed) for line in lines]
    assert not outside, f"{guest} is for {allowed} only:{listed(outside)}"
    assert at_most is None or len(callers) <= at_most, f"{guest} has {len(callers)} doors: {sorted(callers)}"


def test_nni_has_one_door_in_each_half():
    """It is imported by name, since it is an optional guest, so that no import statement tells."""
    doors = set()
    for file in rooms():
        texts = [n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)]
        if any(re.fullmatch(r"nni(\.\w+)+", text) for text in texts if isinstance(text, str)):
            doors.add(str(file.relative_to(REPOSITORY)))
    assert doors == {"pruning/nni_masks.py", "search/nni_samplers.py"}
    assert not [str(found) for found in package_imports() if found.top == "nni"]


def test_spaces_knows_no_guest_but_torch():
    strangers = [found for found in guests(package_imports()) if found.top != "torch"]
    wrong = [str(found) for found in strangers if found.file.startswith("spaces/")]
    assert not wrong, listed(wrong)


def test_spaces_can_be_imported_with_torch_alone(tmp_path):
    program = """
import importlib, pkgutil, sys
import torch

class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in GUESTS:
            raise AssertionError(f"spaces imports {name}")

sys.meta_path.insert(0, Closed())
import paretosr.spaces
for room in pkgutil.walk_packages(paretosr.spaces.__path__, "paretosr.spaces."):
    importlib.import_module(room.name)
"""
    closed = {*DOORS, "numpy", "scipy", "PIL", "safetensors", "paretosr.proxies"} - {"torch"}
    done = run_python(["-c", program.replace("GUESTS", repr(closed))], tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_guest_is_declared():
    runtime, for_tests = distribution_names(RUNTIME + ON_REQUEST), distribution_names(RUNTIME + FOR_TESTS)
    distributions = packages_distributions()
    own = {file.stem for file in python_files("tests")}  # what several test files share
    test_imports = tuple(found for file in python_files("tests") for found in read_imports(file))
    wrong = [
        f"{found}: not in pyproject.toml"
        for imports, known in ((package_imports(), runtime), (test_imports, for_tests))
        for found in guests(imports)
        if found.top not in own and not known & distribution_names(distributions.get(found.top, [found.top]))
    ]
    assert not wrong, listed(wrong)


# Files and names


def test_no_file_is_too_long():
    lines = {file: len(file.read_text().splitlines()) for file in [*rooms(), *python_files("tests")]}
    wrong = [f"{file}: {count} lines" for file, count in lines.items() if count > LONGEST_FILE_LINES]
    assert not wrong, f"past {LONGEST_FILE_LINES} lines a family becomes a folder:{listed(wrong)}"


def test_names_say_what_is_inside():
    names = {part for file in rooms() for part in Path(file.relative_to(REPOSITORY)).with_suffix("").parts}
    assert not names & NAMELESS


def test_the_root_holds_a_docstring_and_nothing_else():
    assert [file.name for file in REPOSITORY.glob("*.py")] == ["__init__.py"]
    body = ast.parse((REPOSITORY / "__init__.py").read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


# What the package is made of


def test_the_packages_list_is_the_folders():
    folders = {".".join(["paretosr", *file.parent.relative_to(REPOSITORY).parts]) for file in rooms()}
    assert folders | {"paretosr"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_other_file_of_the_package_is_shipped():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    shipped = {
        file
        for package, globs in patterns.items()
        for glob in globs
        for file in REPOSITORY.joinpath(*package.split(".")[1:]).glob(glob)
    }
    assert shipped, "no recipe and no template is shipped"
    others = {
        file
        for folder in {room.parent for room in rooms()}
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert others == shipped


def test_constraints_pin_every_dependency_without_a_build():
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "one name==version a line, no +cpu"
    assert distribution_names(RUNTIME + FOR_TESTS) - distribution_names(lines) == set()
    assert "torch==2.13.0" in lines


@pytest.mark.slow
def test_the_wheel_works_from_any_directory(tmp_path):
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    copy_sources(source)
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = run_python([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], empty)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("paretosr-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    missing = {f"paretosr/{room.relative_to(REPOSITORY)}" for room in rooms()} - inside
    assert not missing
    assert not [name for name in inside if name.startswith(("paretosr/tests", "paretosr/out", "tests"))]

    target = ["install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    installed = run_python([*pip, *target], empty)
    assert installed.returncode == 0, installed.stderr
    listing = run_python([str(site / "bin" / "paretosr"), "recipes"], empty, PYTHONPATH=str(site))
    assert listing.returncode == 0, listing.stderr
    for recipe in (REPOSITORY / "runs" / "recipes").glob("*.yaml"):
        assert recipe.stem in listing.stdout
    where = run_python(["-c", "import paretosr.runs as r; print(r.__file__)"], empty, PYTHONPATH=str(site))
    assert where.stdout.startswith(str(site)), "the installed wheel was not the one that ran"
    assert list(empty.iterdir()) == []


def copy_sources(target: Path) -> None:
    """Copies what the wheel is built from, because building leaves folders behind."""
    patterns = ["*.py", *(glob for globs in PROJECT["tool"]["setuptools"]["package-data"].values() for glob in globs)]
    files = {REPOSITORY / name for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py")}
    for folder in FLOORS:
        for pattern in patterns:
            files |= set((REPOSITORY / folder).rglob(pattern))
    for file in files:
        copy = target / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())


def run_python(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python in `folder`, with nothing on its path that the caller did not name."""
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=240, check=False)
