"""Modules that do unusual things, as one file: what can be written is right, what cannot is refused."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from written import difference, loaded, ruff

from paretosr.analysis.export import ExportFailed
from paretosr.analysis.one_file import one_file, write_ntire
from paretosr.analysis.source.classes import module_source


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


def test_a_class_of_the_same_name_is_another(tmp_path: Path):
    class Net(Helper):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return F.pixel_shuffle(self.conv(x).repeat(1, 16, 1, 1), 4)

    network = nn.Sequential(OrderedDict(body=Net(3), shuffle=nn.Identity())).eval()
    source, weights = one_file(network, "team07_net", "Net")
    assert "class Net2(nn.Module):" in source
    assert difference(network, loaded(tmp_path, source, weights), 1) == 0
