"""A network as one file: that it runs by itself, computes the same, and reads as if a person had written it."""

import ast
import importlib.util
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_export import EVERY_PART
from torch import Tensor, nn

from paretosr.analysis import one_file as one_file_module
from paretosr.analysis.class_source import module_source
from paretosr.analysis.export import ExportFailed
from paretosr.analysis.one_file import one_file, write_ntire
from paretosr.spaces import BUILDABLE, Design, InputError, build, inference_form, published

IN_A_PYTHON_OF_ITS_OWN = ("rfdn", "larvanet")  # the others are slow tests


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


def shaken(network: nn.Module) -> nn.Module:
    """The network with other weights and statistics than it starts with, as after training."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.is_floating_point() and not name.endswith("filter"):
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
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


@pytest.mark.parametrize("name", BUILDABLE)
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
@pytest.mark.parametrize("name", [name for name in BUILDABLE if name not in IN_A_PYTHON_OF_ITS_OWN])
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


# Modules that do unusual things


class Helper(nn.Module):
    def __init__(self, width: int, scale: float = 2.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor, guide: Tensor | None = None, *, power: int = 1) -> tuple[Tensor, Tensor]:
        y = self.conv(x) ** power
        return (y if guide is None else y * guide), x - -1.5


class Gathered(nn.Module):
    def forward(self, *features: Tensor) -> Tensor:
        l = features[0]  # noqa: E741
        return torch.cat((l, *features[1:]), dim=1)


class Weighed(nn.Module):
    flops_counted = False

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.rand(())) for _ in range(count))
        self.weights.flops_counted = False  # type: ignore[assignment]
        self.bias = nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, values: list[Tensor], names: str = "x") -> Tensor:
        first, *others = (w.exp() * v for w, v in zip(self.weights, values, strict=True))
        return sum(others, first) + torch.sigmoid(self.bias)


class Blur(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(4, 4, 3, padding=1, groups=4, bias=False)
        self.requires_grad_(False)


class Odd(nn.Module):
    """Much that the published networks do not do: `"quotes"` and \\ too."""

    flops_counted = False
    minimum_size = 4
    table: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.rand(4, 1, 3, 3)
        self.register_buffer("table", torch.rand(3), persistent=False)
        self.register_buffer("steps", torch.tensor(3))
        self.head = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 4, 3, padding=1), second=nn.ReLU(inplace=True)))
        self.helper = Helper(4)
        self.other = Helper(4)
        self.gathered, self.weighed = Gathered(), Weighed(3)
        self.by_name = nn.ModuleDict({"one": nn.PReLU(4), "two": Blur()})
        self.again = nn.Conv2d(4, 4, 1)
        self.same = nn.ModuleList([self.again, nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 1, bias=False)])
        self.tied = nn.Conv2d(4, 4, 1, bias=False)
        self.tied.weight = self.same[2].weight  # type: ignore[assignment]
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.never = nn.Tanh()
        self.last = nn.Sequential(nn.Conv2d(8, 48, 3, padding=1, padding_mode="reflect"), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        features = self.head(x)
        mutated = features.clone()
        mutated.mul_(self.table[0])
        mutated.sub_(0.1)
        F.relu_(mutated)
        F.leaky_relu(mutated, 0.1, inplace=True)
        first, shifted = self.helper(features, power=2)
        second, _ = self.other(shifted, guide=first)
        for _ in range(4):
            second = self.again(second)
        second = self.tied(self.same[2](self.same[1](self.same[0](second))))
        pooled = F.interpolate(self.pool(second), size=(height, width), mode="nearest")
        filtered = F.conv2d(pooled, self.kernel, padding=1, groups=4) * (self.steps - 2)
        y = self.weighed([filtered, self.by_name["one"](second), self.by_name["two"](mutated)], names="y")
        flipped = y.flip((-1,))[..., :height, -width:]
        scaled = (flipped - (y - 2 * flipped)) / (1 + (y**2).mean((2, 3), keepdim=True) ** 0.5)
        lambda_, print_ = scaled.chunk(2, 1)
        both = self.gathered(lambda_ * 0.5, -print_, y[:, :2], y[:, 2:])
        return self.last(both.clamp(min=-3.0, max=float("inf")))


def test_unusual_modules_are_the_same_in_one_file(tmp_path: Path):
    network = Odd().eval()
    source, weights = one_file(network, "team07_net", "Net")
    other = loaded(tmp_path, source, weights)
    assert difference(network, other, 4) < 1e-6
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in network.parameters())
    assert "for _ in range(5):" in source  # the four, and the same module in a list
    assert "self.never" not in source
    checked = ruff("check", "--isolated", tmp_path / "model.py")
    assert checked.returncode == 0, checked.stdout
    laid_out = ruff("format", "--isolated", "--line-length", "100", "--diff", tmp_path / "model.py")
    assert laid_out.returncode == 0, laid_out.stdout


class Tinted(nn.Module):
    """Multiplies by tensors that it makes in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        tint = torch.tensor([0.5, 2.0, 1.0]).reshape(1, 3, 1, 1)
        return x * tint + torch.arange(3).reshape(1, 3, 1, 1)


def test_tensors_made_in_a_forward_are_kept_with_the_weights(tmp_path: Path):
    network = Tinted()
    source = module_source(network, "Net", "")
    assert 'self.register_buffer("constant_1", torch.zeros(1, 3, 1, 1))' in source
    assert "return x * self.constant_1 + self.constant_2" in source
    other = loaded(tmp_path, f"import torch\nfrom torch import nn\n\n\n{source}\n", network.state_dict())
    assert difference(network, other, 1) == 0


class Calling(nn.Module):
    """Gives what a function or a module makes of sixteen copies of the image."""

    def __init__(self, function: Callable[[Tensor], Tensor] | nn.Module, name: str = "function") -> None:
        super().__init__()
        self.name = name
        if isinstance(function, nn.Module):
            self.add_module(name, function)
        else:
            setattr(self, name, function)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(getattr(self, self.name)(x.repeat(1, 16, 1, 1)), 4)


def branching(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


@torch.fx.wrap
def foreign(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Calling(branching), "Calling cannot be traced"),
        (Calling(lambda x: foreign(x)), "is no function of torch"),
        (Calling(nn.Conv2d(48, 48, 1), "3x3"), "'3x3', which is no name in Python"),
        (Calling(nn.Conv2d(48, 48, 1), "lambda"), "'lambda', which is no name in Python"),
    ],
)
def test_what_cannot_be_written_is_refused(network: nn.Module, said: str, tmp_path: Path):
    with pytest.raises(ExportFailed, match=said) as error:
        write_ntire(network, tmp_path / "out", 3, "net")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


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


def test_a_class_of_the_same_name_is_another(tmp_path: Path):
    class Net(Helper):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return F.pixel_shuffle(self.conv(x).repeat(1, 16, 1, 1), 4)

    network = nn.Sequential(OrderedDict(body=Net(3), shuffle=nn.Identity())).eval()
    source, weights = one_file(network, "team07_net", "Net")
    assert "class Net2(nn.Module):" in source
    assert difference(network, loaded(tmp_path, source, weights), 1) == 0


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
