"""A network as one file: that it runs by itself, computes the same, and reads as if a person had written it."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from test_export import EVERY_PART
from torch import nn
from written import difference, loaded, ruff

from paretosr.analysis import one_file as one_file_module
from paretosr.analysis.export import ExportFailed
from paretosr.analysis.one_file import one_file, write_ntire
from paretosr.spaces import BUILDABLE, Design, InputError, build, inference_form, published
from paretosr.spaces.systems import NTIRE_BASELINES

NAMES = (*BUILDABLE, *NTIRE_BASELINES)

IN_A_PYTHON_OF_ITS_OWN = ("rfdn", "larvanet")  # the others are slow tests


def shaken(network: nn.Module) -> nn.Module:
    """The network with other weights and statistics than it starts with, as after training."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.is_floating_point() and not name.endswith("filter"):
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
    return network.eval()


def check_one_file(network: nn.Module, folder: Path) -> str:
    """The source for a network, after all that can be asked of it without another process of Python."""
    source, weights = one_file(network, "team07_net", "Net")
    other = loaded(folder, source, weights)
    assert difference(network, other, int(getattr(network, "minimum_size", 1))) < 1e-5
    form = inference_form(network)
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in form.parameters())
    assert f"{sum(p.numel() for p in form.parameters()):,} parameters" in source
    assert imported(source) <= {"torch", "torch.nn.functional"}
    assert max(map(len, source.splitlines())) <= 100
    return source


def imported(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


# Published networks and parts of the search space


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.mark.parametrize("name", NAMES)
def test_every_published_network_is_the_same_in_one_file(name: str, sources: Path, tmp_path: Path):
    source = check_one_file(shaken(build(published(name), seed=1)), tmp_path)
    (sources / f"{name}.py").write_text(source)


@pytest.mark.parametrize("part", EVERY_PART)
def test_every_part_of_the_space_is_the_same_in_one_file(part: str, sources: Path, tmp_path: Path):
    source = check_one_file(shaken(build(EVERY_PART[part], seed=1)), tmp_path)
    (sources / f"part_{list(EVERY_PART).index(part)}.py").write_text(source)


def test_the_sources_please_ruff(sources: Path):
    if not list(sources.iterdir()):
        pytest.skip("none were written")
    checked = ruff("check", "--isolated", sources)
    assert checked.returncode == 0, checked.stdout
    laid_out = ruff("format", "--isolated", "--line-length", "100", "--diff", sources)
    assert laid_out.returncode == 0, laid_out.stdout


@pytest.mark.parametrize("name", IN_A_PYTHON_OF_ITS_OWN)
def test_the_files_run_by_themselves(name: str, tmp_path: Path):
    assert write_ntire(build(published(name), seed=1), tmp_path / "out", 7, f"{name}_small", "A <b>\nsummary") < 1e-5
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {f"out/models/team07_{name}_small.py", f"out/model_zoo/team07_{name}_small.pth"}
    source = (tmp_path / "out" / "models" / f"team07_{name}_small.py").read_text()
    assert "A <b> summary" in source
    assert f"class {name.capitalize()}Small(nn.Module):" in source
    weights = torch.load(tmp_path / "out" / "model_zoo" / f"team07_{name}_small.pth", weights_only=True)
    assert type(weights) is dict
    assert {value.dtype for value in weights.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in IN_A_PYTHON_OF_ITS_OWN])
def test_every_published_network_runs_by_itself(name: str, tmp_path: Path):
    assert write_ntire(build(published(name), seed=1), tmp_path, 0, name) < 1e-5


# How it reads

RFDN = '''
    def forward(self, x):
        kept_1 = self.activation(self.distil[0](x))
        x = self.activation(self.refine[0](x) + x)
        kept_2 = self.activation(self.distil[1](x))
        x = self.activation(self.refine[1](x) + x)
        kept_3 = self.activation(self.distil[2](x))
        x = self.activation(self.refine[2](x) + x)
        kept_4 = self.activation(self.last(x))
        return self.attention(self.fuse(torch.cat([kept_1, kept_2, kept_3, kept_4], dim=1)))
''', '''
    def forward(self, x):
        image = x * 255
        shallow = self.head(image)
        outputs = []
        features = shallow
        for block in self.blocks:
            features = block(features)
            outputs.append(features)
        y = self.fusion(outputs)
        y = self.body_conv(y)
        y = y + shallow
        y = self.upsampler(y)
        return y / 255
'''  # fmt: skip


def test_it_reads_as_a_person_would_write_it():
    source, _ = one_file(build(published("rfdn")), "team07_rfdn", "Net")
    assert all(lines in source for lines in RFDN)
    assert source.count("class ") == 5
    assert "self.blocks = nn.ModuleList([RFDB() for _ in range(4)])" in source
    assert "433,448 parameters, 27.1026 G FLOPs" in source
    assert "112.0342 M activations, 64 convolutions" in source
    assert "data_range is 1.0" in source
    assert "from 15 x 15 pixels on" in source


def test_blocks_that_differ_in_a_few_numbers_are_one_class():
    source, _ = one_file(build(published("neptuneai")), "team07_n", "Net")
    assert "class InvertedResidual(nn.Module):" in source
    assert "def __init__(self, channels):" in source
    assert "InvertedResidual(192),\n                Residual(),\n                InvertedResidual(384)" in source
    assert "class Residual2(nn.Module):" in source  # another activation is another class


def test_lines_that_are_too_long_become_two(tmp_path: Path):
    source = check_one_file(build(published("latticenet")), tmp_path)
    assert "fused = torch.cat((" in source


# Names, and files that must not be harmed


@pytest.mark.parametrize("team", [-1, 100, "7", 7.0, True])
def test_a_team_is_a_number_of_two_digits(team: Any, tmp_path: Path):
    with pytest.raises(InputError, match="from 0 to 99"):
        write_ntire(build(published("rfdn")), tmp_path / "out", team, "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "../a", "1a", "_a", "größe", 'a"b', "a\n", "class", "none", "f", "import os", None]
)
def test_a_name_that_is_none_is_refused(name: Any, tmp_path: Path):
    with pytest.raises(InputError, match="name"):
        write_ntire(build(published("rfdn")), tmp_path / "out", 7, name)
    assert list(tmp_path.iterdir()) == []


def test_a_summary_ends_no_comment(tmp_path: Path):
    summary = 'x"""\nimport os\r\n\x0cos.remove("a")\u2028\\'
    source, weights = one_file(build(published("rfdn")), "team07_net", "Net", summary)
    assert imported(source) == {"torch", "torch.nn.functional"}
    loaded(tmp_path, source, weights)


def test_a_failed_check_leaves_nothing_and_the_old_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = build(EVERY_PART["up direct"], seed=1)
    write_ntire(network, tmp_path / "out", 7, "net")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(one_file_module, "PARITY", -1.0)
    with pytest.raises(ExportFailed, match="differs from the network"):
        write_ntire(build(EVERY_PART["up direct"], seed=2), tmp_path / "out", 7, "net")
    monkeypatch.setattr(one_file_module, "CHECK", "import paretosr_is_not_there")
    with pytest.raises(ExportFailed, match="does not run by itself: ModuleNotFoundError"):
        write_ntire(network, tmp_path / "out", 8, "net")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_may_be_the_one_we_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_ntire(build(EVERY_PART["up direct"]), Path(), 7, "net")
    assert sorted(p.name for p in Path().iterdir()) == ["model_zoo", "models"]
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_the_check_cannot_import_this_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_file_module, "IMPORTS", {"nn": "from torch import nn\n\nimport paretosr.spaces"})
    with pytest.raises(ExportFailed, match="the file must stand alone"):
        write_ntire(build(EVERY_PART["up direct"]), tmp_path / "out", 7, "net")
    assert list(tmp_path.iterdir()) == []


def test_the_network_is_left_as_it_was():
    network = build(Design(EVERY_PART["imdb"]), seed=1).train().double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _, weights = one_file(network, "team07_net", "Net")
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert {value.dtype for value in weights.values()} == {torch.float32}
