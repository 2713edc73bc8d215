"""What the tests of networks written as source share: loading a file, comparing outputs, asking ruff."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


def loaded(folder: Path, source: str, weights: dict[str, Tensor]) -> nn.Module:
    """The class `Net` of a file, with its weights."""
    file = folder / "model.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.Net()
    network.load_state_dict(weights, strict=True)
    return network.eval()


def difference(network: nn.Module, other: nn.Module, least: int) -> float:
    worst = 0.0
    for height, width in ((17, 23), (16, 12)):
        image = torch.rand(1, 3, max(height, least), max(width, least), generator=torch.Generator().manual_seed(height))
        with torch.no_grad():
            wanted, given = network(image), other(image)
        assert given.shape == wanted.shape
        worst = max(worst, float((given - wanted).abs().max() / wanted.abs().max()))
    return worst


def ruff(*words: str | Path) -> subprocess.CompletedProcess[str]:
    found = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if found is None:
        pytest.skip("no ruff")
    return subprocess.run([found, *map(str, words)], capture_output=True, text=True, check=False)
