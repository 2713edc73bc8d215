"""Layers against hand counts and numpy: kernel shapes, the attentions' statistics and masks, what costs no FLOPs."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretosr.spaces.blocks.lattice import Coefficients
from paretosr.spaces.layers import (
    ATTENTIONS,
    KERNELS,
    ContrastChannelAttention,
    EnhancedSpatialAttention,
    PixelAttention,
    SqueezeExcitation,
    conv1,
    conv3,
    leaky,
    population_std,
    uncounted,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def as_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def pointwise(conv: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution of `[N, C, H, W]`, in numpy."""
    assert conv.bias is not None
    weight, bias = as_array(conv.weight)[:, :, 0, 0], as_array(conv.bias)
    return np.einsum("oc,nchw->nohw", weight, x) + bias[:, None, None]


# Convolutions


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(3, 5, 1), (6, 6, 6), (8, 12, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_conv3_keeps_the_size_and_has_the_counted_parameters(
    kernel: str, inputs: int, outputs: int, groups: int, bias: bool
) -> None:
    conv = conv3(inputs, outputs, kernel, groups=groups, bias=bias)
    taps = {
        "3x3": 9 * inputs * outputs // groups,
        "1x3+3x1": 3 * inputs * outputs // groups + 3 * outputs * outputs // groups,
    }
    assert parameters(conv) == taps[kernel] + outputs * bias
    assert conv(noise(2, inputs, 5, 7)).shape == (2, outputs, 5, 7)


def test_the_factorised_kernel_is_the_product_of_its_two() -> None:
    pair = conv3(1, 1, "1x3+3x1")
    row, column = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([3.0, -1.0, 4.0])
    pair.load_state_dict(
        {"0.weight": row.reshape(1, 1, 1, 3), "1.weight": column.reshape(1, 1, 3, 1), "1.bias": torch.tensor([0.5])}
    )
    full = conv3(1, 1)
    full.load_state_dict({"weight": torch.outer(column, row)[None, None], "bias": torch.tensor([0.5])})
    x = noise(1, 1, 6, 9)
    torch.testing.assert_close(pair(x), full(x))


def test_conv1_is_a_matrix() -> None:
    conv, x = conv1(4, 6), noise(2, 4, 3, 5)
    np.testing.assert_allclose(as_array(conv(x)), pointwise(conv, as_array(x)), atol=1e-6)
    assert conv1(4, 6, bias=False).bias is None


# Activations


def test_an_uncounted_activation_stays_so_when_copied_and_pickled() -> None:
    activation = uncounted(nn.ReLU())
    for module in (activation, copy.deepcopy(activation), pickle.loads(pickle.dumps(activation))):  # noqa: S301
        assert module.flops_counted is False
        assert torch.equal(module(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))
    assert getattr(leaky(0.1), "flops_counted", True)
    assert torch.equal(leaky(0.5)(torch.tensor([-1.0, 2.0])), torch.tensor([-0.5, 2.0]))


# Statistics


def test_population_std_is_numpys() -> None:
    x = noise(2, 3, 5, 4) * 3 + 1
    np.testing.assert_allclose(as_array(population_std(x)), as_array(x).std((2, 3), keepdims=True), rtol=1e-6)


def test_a_flat_channel_has_no_contrast_and_a_finite_gradient() -> None:
    x = torch.full((1, 2, 4, 4), 0.7, requires_grad=True)
    contrast = population_std(x)
    contrast.sum().backward()
    assert contrast.max() < 1e-5
    assert x.grad is not None
    assert x.grad.isfinite().all()


# Attentions


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_mask_of_zero_logits_halves_the_features(name: str) -> None:
    attention, x = ATTENTIONS[name](8), noise(2, 8, 16, 17)
    convolutions = [module for module in attention.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(attention(x), x / 2 if convolutions else x)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("width", [1, 3, 12])
def test_attention_keeps_shape_and_sign_at_its_smallest_size(name: str, width: int) -> None:
    attention = ATTENTIONS[name](width)
    side = int(attention.minimum_size)  # type: ignore[arg-type]
    x = noise(2, width, side, side + 1)
    y = attention(x)
    assert y.shape == x.shape
    assert ((y * x >= 0) & (y.abs() <= x.abs())).all(), "a mask lies between 0 and 1"


def test_contrast_attention_is_its_closed_form() -> None:
    attention, x = ContrastChannelAttention(32), noise(2, 32, 5, 7)
    pixels = as_array(x)
    statistic = pixels.std((2, 3), keepdims=True) + pixels.mean((2, 3), keepdims=True)
    hidden = np.maximum(pointwise(attention.squeeze, statistic), 0)
    assert hidden.shape == (2, 2, 1, 1)  # 32 channels, reduced by 16
    wanted = pixels * sigmoid(pointwise(attention.excite, hidden))
    np.testing.assert_allclose(as_array(attention(x)), wanted, atol=1e-6)


def test_squeeze_and_excitation_is_its_closed_form() -> None:
    attention, x = SqueezeExcitation(8), noise(2, 8, 5, 7) * 10
    pixels = as_array(x)
    hidden = np.maximum(pointwise(attention.squeeze, pixels.mean((2, 3), keepdims=True)), 0)
    assert hidden.shape == (2, 2, 1, 1)  # 8 channels, reduced by 4
    wanted = pixels * np.clip(pointwise(attention.excite, hidden) / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(as_array(attention(x)), wanted, atol=1e-5)


def test_pixel_attention_is_its_closed_form() -> None:
    attention, x = PixelAttention(6), noise(2, 6, 4, 5)
    pixels = as_array(x)
    np.testing.assert_allclose(as_array(attention(x)), pixels * sigmoid(pointwise(attention.mask, pixels)), atol=1e-6)


def test_spatial_attention_sees_the_largest_of_the_odd_pixels_from_afar() -> None:
    """At 15x15 the far look is one number: the largest pixel that the stride-2 convolution's centres meet."""
    attention, x = EnhancedSpatialAttention(4), noise(1, 4, 15, 15)  # one inner channel
    for convolution in (module for module in attention.modules() if isinstance(module, nn.Conv2d)):
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        if convolution.kernel_size == (3, 3):
            convolution.weight.data[0, 0, 1, 1] = 1  # passes its centre on
    attention.reduce.weight.data[0, 2] = 1  # looks at the third channel
    attention.expand.weight.data[:] = 1
    pixels = as_array(x)
    far = pixels[0, 2, 1:14:2, 1:14:2].max()
    assert far > 0  # the two ReLUs let it through
    np.testing.assert_allclose(as_array(attention(x)), pixels * sigmoid(far), atol=1e-6)
    attention.skip.weight.data[:] = 3
    wanted = pixels * sigmoid(far + 3 * pixels[:, 2:3])
    np.testing.assert_allclose(as_array(attention(x)), wanted, atol=1e-6)


def test_spatial_attention_has_a_quarter_of_the_channels_inside() -> None:
    width, inner = 50, 12  # RFDN's
    wanted = width * inner + inner + inner**2 + inner + 4 * (9 * inner**2 + inner) + inner * width + width
    assert parameters(EnhancedSpatialAttention(width)) == wanted


def test_lattice_coefficients_use_the_deviation_of_a_sample() -> None:
    coefficients, x = Coefficients(32), noise(2, 32, 3, 4)
    pixels = as_array(x)
    branches = []
    for branch, statistic in (
        (coefficients.mean, pixels.mean((2, 3), keepdims=True)),
        (coefficients.deviation, pixels.std((2, 3), ddof=1, keepdims=True)),
    ):
        squeeze, excite = (module for module in branch if isinstance(module, nn.Conv2d))
        branches.append(sigmoid(pointwise(excite, np.maximum(pointwise(squeeze, statistic), 0))))
    np.testing.assert_allclose(as_array(coefficients(x)), (branches[0] + branches[1]) / 2, atol=1e-6)
