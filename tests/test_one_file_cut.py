"""A cut network as one file: it computes the same, reads well, and the command writes it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from commands import Command
from plans import lived_in
from safetensors.torch import save_file
from test_export_cut import DESIGNS, FAST, MOBILE, RFDB, SEEDS, cut, trained
from test_one_file import check_one_file
from torch import Tensor, nn
from written import difference, loaded, ruff

from paretosr.analysis.export import ExportFailed
from paretosr.analysis.one_file import one_file, write_ntire
from paretosr.proxies.complexity import complexity
from paretosr.runs.folder import RunFolder
from paretosr.search.study import Record
from paretosr.spaces import deployed, published
from paretosr.spaces.flow import FORMS, Compact, compact
from paretosr.spaces.flow.primitives import AddAt, AddSlice, Choose, Pad, Take, Widen
from paretosr.spaces.plan import Plan


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in DESIGNS]
)
def test_every_cut_network_is_the_same_in_one_file(name: str, sources: Path, tmp_path: Path):
    for seed in SEEDS:
        design = cut(DESIGNS[name], seed)
        source = check_one_file(deployed(design, trained(design)), tmp_path)
        (sources / f"{name}_{seed}.py").write_text(source)


def test_the_sources_please_ruff(sources: Path):
    if not list(sources.iterdir()):
        pytest.skip("none were written")
    checked = ruff("check", "--isolated", sources)
    assert checked.returncode == 0, checked.stdout
    laid_out = ruff("format", "--isolated", "--line-length", "100", "--diff", sources)
    assert laid_out.returncode == 0, laid_out.stdout


class Everything(nn.Module):
    """Sums, a difference, a weight of its own, and an operation that needs all channels."""

    flops_counted = False
    minimum_size = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.last = nn.Conv2d(8, 48, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x) * self.scale
        y = y + self.blocks[0](y)
        y = y - self.blocks[1](y)
        y = y + self.blocks[2](y)
        return F.pixel_shuffle(self.last(torch.cumsum(self.blocks[3](y), 1)), 4)


EVERYTHING = {
    "head": ((0, 1, 2, 3, 4, 6, 7), (0, 1, 2)),
    "blocks.0": ((2, 3), (0, 1, 2)),
    "blocks.1": ((1, 4, 7), (1, 4)),
    "blocks.2": ((5, 7), (1, 7)),
    "blocks.3": ((0, 2, 5), (0, 1, 2, 3, 4, 5, 6, 7)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_every_primitive_can_be_written(form: str, tmp_path: Path):
    network = compact(lived_in(Everything()).float(), Plan("0" * 12, EVERYTHING), form)
    kinds = {type(module) for module in network.modules()}
    assert {Take, Pad, AddSlice, AddAt, Choose} <= kinds
    source, weights = one_file(network, "team07_net", "Net")
    assert difference(network, loaded(tmp_path, source, weights), 1) < 1e-6
    for words in (".index_select(1, self.kept", "F.pad(", ".add_(", ".index_add", "alpha=-1", "scale.index_select"):
        assert words in source


def test_channels_can_be_spread_out(tmp_path: Path):
    root, graph = nn.Module(), torch.fx.Graph()
    root.conv = nn.Conv2d(3, 3, 3, padding=1)
    root.spread = Widen((0, 20, 47), 48, "run", torch.device("cpu"))
    wide = graph.call_module("spread", (graph.call_module("conv", (graph.placeholder("x"),)),))
    graph.output(graph.call_function(F.pixel_shuffle, (wide, 4)))
    network = Compact(root, graph)
    network.minimum_size, network.layouts = 1, {}
    source = check_one_file(network, tmp_path)
    assert "padded = F.pad(self.conv(x), (0, 0, 0, 0, 0, 1))" in source
    assert "padded.index_select(1, self.places)" in source


def test_a_cut_network_reads_as_a_person_would_write_it(tmp_path: Path):
    source = check_one_file(deployed(cut(published("rfdn"), None), trained(cut(published("rfdn"), None))), tmp_path)
    assert RFDB_HALF in source
    assert "self.blocks = nn.ModuleList([Block(), Block2(), Block2(), Block2()])" in source
    assert "A pruned x4 super-resolution network." in source
    assert "Buffers named `kept` list the channels" in source.replace("\n# ", " ")


RFDB_HALF = """
    def forward(self, x):
        y = x.index_select(1, self.kept)
        activation = self.activation(self.distil[0](y))
        activation_2 = self.activation(self.refine[0](y).add_(y))
        distil = self.distil[1](self.activation(self.refine[1](activation_2).add_(activation_2)))
        return self.attention(self.fuse(torch.cat([activation, self.activation(distil)], 1)))
"""


def test_lists_of_channels_are_no_weights(tmp_path: Path):
    design = cut(RFDB, 1)
    source, weights = one_file(deployed(design, trained(design)), "team07_net", "Net")
    assert "torch.tensor([" in source
    written = loaded(tmp_path, source, weights)
    assert any("kept" in name for name, _ in written.named_buffers())
    assert not any("kept" in name or "places" in name for name in weights)
    assert sum(value.numel() for value in weights.values()) == sum(p.numel() for p in written.parameters())


def test_the_files_of_a_cut_network_run_by_themselves(tmp_path: Path):
    design = cut(RFDB, 1)
    assert write_ntire(deployed(design, trained(design)), tmp_path / "out", 42, "cut_net", "cut for a test") < 1e-5
    source = (tmp_path / "out" / "models" / "team42_cut_net.py").read_text()
    assert source.startswith("# CutNet: cut for a test")
    assert f"{complexity(design).parameters:,} parameters" in source


class Foreign(nn.Module):
    """A convolution, and after it a function that is not torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(foreign(self.conv(x)), 4)


@torch.fx.wrap
def foreign(x: Tensor) -> Tensor:
    return x * 2


def test_what_cannot_be_written_is_refused_and_nothing_left(tmp_path: Path):
    network = compact(Foreign().eval(), Plan("0" * 12, {"conv": (tuple(range(0, 48, 2)), (0, 1))}))
    with pytest.raises(ExportFailed, match="is no function of torch") as error:
        write_ntire(network, tmp_path / "out", 3, "net")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_cut_network_is_left_as_it_was():
    design = cut(MOBILE, 1)
    network = deployed(design, trained(design))
    before, text = {name: value.clone() for name, value in network.state_dict().items()}, network.code
    one_file(network, "team07_net", "Net")
    assert network.code == text
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_the_command_writes_cut_candidates_and_cut_exports(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    assert paretosr("search", recipe, "--out", "run").code == 0
    folder = RunFolder(tmp_path / "run")
    record = Record(folder.url, folder.recipe().objectives, folder.recipe().make_space())
    parent = record.candidates[0]
    design = cut(parent.design, 1)
    network = trained(design)
    child = record.add(replace(parent, number=0, design=design, kind="pruned", parent=0, origin="candidate 0, cut"))
    record.close()
    folder.candidate(child.number).mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder.candidate(child.number) / "model.safetensors")
    assert paretosr("export", "run", "--candidate", child.number, "--ntire", 42, "--out", "files").code == 0
    assert paretosr("export", "run", "--candidate", child.number, "--out", "exported").code == 0
    assert paretosr("export", "exported", "--ntire", 42, "--name", "again", "--out", "files").code == 0
    x = torch.rand(1, 3, 19, 23)
    with torch.no_grad():
        wanted = network(x)
    for name in (f"ParetoSR{child.number}", "again"):
        source = (tmp_path / "files" / "models" / f"team42_{name}.py").read_text()
        assert "convolutions cut" in source
        source = source.replace(f"class {name[0].upper()}{name[1:]}(", "class Net(")
        weights = torch.load(tmp_path / "files" / "model_zoo" / f"team42_{name}.pth", weights_only=True)
        with torch.no_grad():
            assert torch.allclose(loaded(tmp_path, source, weights)(x), wanted, atol=1e-6)
