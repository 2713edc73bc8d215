"""What a node of a cluster says of itself before anything is run there.

This module is sent to the nodes as it is, by value, since they may lack the package or have another one: it must need
nothing but Python itself.
"""

import hashlib
import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLOORS = ("spaces", "proxies", "search", "pruning", "analysis", "runs")


def installed() -> dict[str, str]:
    """The version of the installed package and the hash over its sources; empty where there is none."""
    spec = importlib.util.find_spec("paretosr")
    if spec is None or spec.origin is None:
        return {}
    root, digest = Path(spec.origin).parent, hashlib.sha256()
    files = [root / "__init__.py", *(file for floor in FLOORS for file in sorted((root / floor).rglob("*.py")))]
    for file in files:
        digest.update(f"\0{file.relative_to(root).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    try:
        return {"version": version("paretosr"), "sources": digest.hexdigest()}
    except PackageNotFoundError:  # a folder on the path, not an installed package
        return {}


def look(wanted: dict[str, str], asked: Any) -> dict[str, Any]:
    """The facts of this node, `nodes.facts_of` by the name; only what is installed where that is not `wanted`.

    asked: a `nodes.Asked` as a dictionary, for its class is not known here.
    """
    found = installed()
    if found != wanted:
        return {"installed": found}
    # By its full name: this function may lie nowhere.
    return {"installed": found, **importlib.import_module("paretosr.runs.engines.nodes").facts_of(asked)}
