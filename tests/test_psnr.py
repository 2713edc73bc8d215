"""Challenge PSNR: closed forms, a second implementation, the known baselines, and that evaluating leaves no trace."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.image import PeakSignalNoiseRatio

from paretosr.proxies.bicubic import upscale_x4
from paretosr.proxies.images import in_memory, load_images
from paretosr.proxies.psnr import bicubic_baseline, evaluate, psnr_db


def random_uint8(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def images():
    return in_memory("noise", {"a": random_uint8(3, 40, 48), "b": random_uint8(3, 24, 60, seed=1)})


def test_a_constant_error_has_a_closed_form():
    hr = torch.full((3, 20, 24), 100, dtype=torch.uint8)
    sr = torch.full((3, 20, 24), 107 / 255)
    assert psnr_db(sr, hr) == pytest.approx(20 * math.log10(255 / 7), abs=1e-12)


def test_equal_images_are_infinitely_good():
    hr = random_uint8(3, 16, 16)
    assert psnr_db(hr.float() / 255, hr) == math.inf


def test_it_agrees_with_torchmetrics_image_by_image():
    for seed in range(5):
        hr, sr = (
            random_uint8(3, 30, 41, seed=seed),
            torch.rand(3, 30, 41, generator=torch.Generator().manual_seed(seed)),
        )
        sr = 0.5 * sr + 0.5 * hr / 255
        metric = PeakSignalNoiseRatio(data_range=255.0, dim=(1, 2, 3))
        rounded = (sr * 255).round()
        expected = metric(rounded[None, :, 4:-4, 4:-4].double(), hr[None, :, 4:-4, 4:-4].double())
        assert psnr_db(sr, hr) == pytest.approx(float(expected), abs=1e-5)  # theirs goes through float32


def test_values_are_clamped_and_rounded_and_the_border_is_cut():
    hr = torch.full((3, 20, 20), 255, dtype=torch.uint8)
    sr = torch.full((3, 20, 20), 1.7)
    sr[:, :4], sr[:, -4:], sr[:, :, :4], sr[:, :, -4:] = 0, 0, 0, 0
    sr[:, 10, 10] = 254.6 / 255
    assert psnr_db(sr, hr) == math.inf
    assert psnr_db(sr, hr, border=3) < 20


def test_nan_is_passed_on():
    hr = random_uint8(3, 16, 16)
    sr = hr.float() / 255
    sr[0, 8, 8] = math.nan
    assert math.isnan(psnr_db(sr, hr))


@pytest.mark.parametrize(("shape", "message"), [((3, 16, 20), "one shape"), ((3, 8, 16), "nothing is left")])
def test_what_cannot_be_compared_is_refused(shape, message):
    other = (3, 16, 16) if message == "one shape" else shape
    with pytest.raises(ValueError, match=message):
        psnr_db(torch.zeros(shape), torch.zeros(other, dtype=torch.uint8))


class Enlarge(nn.Module):
    """Bicubic as a network, with modules whose mode matters."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))

    def forward(self, x):
        return upscale_x4(self.body(x), "symmetric")


def test_evaluate_uses_inference_form_and_leaves_the_network_as_found(images):
    network = Enlarge()
    network.body[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = evaluate(network, images)
    assert list(result.per_image_db) == ["a", "b"]
    assert result.psnr_db == pytest.approx(sum(result.per_image_db.values()) / 2, abs=1e-12)
    # Without dropout the network is bicubic enlargement, but for roundings between the passes and BatchNorm's epsilon.
    assert result.psnr_db == pytest.approx(bicubic_baseline(images).psnr_db, abs=0.02)
    modes = [module.training for module in (network, network.body, network.body[0], network.body[1])]
    assert modes == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_mode_comes_back_after_an_error_too(images):
    network = nn.Sequential(nn.Conv2d(5, 3, 1))
    with pytest.raises(RuntimeError):
        evaluate(network, images)
    assert network.training
    assert network[0].training


@pytest.mark.parametrize(
    ("number_of_images", "name", "expected_db"), [(5, "Set5", 26.69), (14, "Set14", 24.46), (100, "B100", 24.64)]
)
@pytest.mark.shared
def test_matlab_bicubic_has_its_known_psnr(shared, tmp_path, name, number_of_images, expected_db):
    images = load_images(shared / "data" / f"{name}_HR", "all", border="edge", cache=tmp_path)
    result = bicubic_baseline(images)
    assert len(result.per_image_db) == number_of_images
    assert round(result.psnr_db, 2) == expected_db


def test_the_bicubic_numbers_of_the_embedded_photos_are_those_written_down(tmp_path):
    result = bicubic_baseline(load_images("embedded", "all", cache=tmp_path))
    assert {name: round(value, 2) for name, value in result.per_image_db.items()} == {
        "astronaut.png": 25.34,
        "chelsea.png": 30.05,
        "china.jpg": 21.07,
        "coffee.png": 25.80,
        "flower.jpg": 29.20,
        "motorcycle_left.png": 23.76,
        "motorcycle_right.png": 23.72,
        "rocket.jpg": 27.49,
    }
