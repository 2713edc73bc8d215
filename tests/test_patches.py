"""Training patches: what is cut, that LR and HR belong together, and that a batch is a function of seed and step."""

import pytest
import torch

from paretosr.proxies import patches as patches_module
from paretosr.proxies.images import in_memory
from paretosr.proxies.patches import Patches, mix
from paretosr.spaces.errors import InputError


def located(height, width, number):
    """An HR image that says where each pixel lies: its LR row, its LR column, and the number of the image."""
    rows = (torch.arange(4 * height) // 4)[:, None].expand(-1, 4 * width)
    columns = (torch.arange(4 * width) // 4).expand(4 * height, -1)
    return torch.stack([rows, columns, torch.full_like(rows, number)]).to(torch.uint8)


@pytest.fixture(scope="module")
def images():
    sizes = [(12, 20), (9, 9), (30, 14)]
    return in_memory("located", {str(i): located(*size, i) for i, size in enumerate(sizes)})


def plain_cut(image, row, column, side, turn):
    """The same cut by ordinary slicing."""
    cut = image[:, row : row + side, column : column + side]
    cut = cut.flip(1) if turn & 1 else cut
    cut = cut.flip(2) if turn & 2 else cut
    return cut.transpose(1, 2) if turn & 4 else cut


def test_a_batch_holds_what_plain_slicing_gives(images):
    patches = Patches(images, patch=5, batch=64, seed=3)
    lr, hr = patches.batch(7)
    assert lr.shape == (64, 3, 5, 5)
    assert hr.shape == (64, 3, 20, 20)
    assert lr.dtype == hr.dtype == torch.float32
    crops = [(i, y, x) for i, (h, w) in enumerate(images.sizes) for y in range(h - 4) for x in range(w - 4)]
    assert patches.crops == len(crops)
    for n, (crop, turn) in enumerate(patches._draw(7).T.tolist()):
        i, y, x = crops[crop]
        assert torch.equal(lr[n], plain_cut(images.lr[i], y, x, 5, turn) / 255)
        assert torch.equal(hr[n], plain_cut(images.hr[i], 4 * y, 4 * x, 20, turn) / 255)


def test_lr_and_hr_patches_show_the_same_place(images):
    for image, (height, width) in zip(images.lr, images.sizes, strict=True):  # shrinking keeps what `located` encodes
        assert torch.equal(image[0], torch.arange(height, dtype=torch.uint8)[:, None].expand(-1, width))
        assert torch.equal(image[1], torch.arange(width, dtype=torch.uint8).expand(height, -1))
    lr, hr = Patches(images, patch=6, batch=200, seed=0).batch(0)
    assert torch.equal(lr.repeat_interleave(4, 2).repeat_interleave(4, 3), hr)


def test_all_crops_and_all_eight_turns_are_equally_likely(images):
    patches = Patches(images, patch=6, batch=64, seed=1)
    drawn = torch.cat([patches._draw(step) for step in range(2000)], dim=1)
    crops = torch.bincount(drawn[0], minlength=patches.crops).double()
    turns = torch.bincount(drawn[1], minlength=8).double()
    for counts in (crops, turns):
        expected = counts.sum() / len(counts)
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        freedom = len(counts) - 1
        assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5


def test_a_batch_depends_on_seed_and_step_alone(images):
    first = Patches(images, patch=4, batch=8, seed=11)
    later = [first.batch(step) for step in (0, 1, 2, 3)][3]
    fresh = Patches(images, patch=4, batch=8, seed=11)
    assert all(torch.equal(a, b) for a, b in zip(later, fresh.batch(3), strict=True))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    others = [fresh.batch(4), Patches(images, patch=4, batch=8, seed=12).batch(3)]
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is nobody's business
    assert not any(torch.equal(later[0], other[0]) for other in others)


def test_the_draws_stay_what_they_are(images):
    # Changing these numbers changes every training: results of older runs could not be continued.
    assert mix(1, -1) == 0xE220A8397B1DCDAF  # SplitMix64's first output for seed 0
    assert mix(0, 0) == mix(2**64, 0) != mix(0, 1)
    assert mix(-1, 5) == mix(2**64 - 1, 5)
    assert Patches(images, patch=4, batch=4, seed=5)._draw(9).tolist() == DRAWN


DRAWN = [[227, 157, 262, 141], [1, 4, 6, 7]]


def test_a_patch_as_large_as_the_image_is_the_image(images):
    one = in_memory("one", {"a": located(9, 9, 0)})
    patches = Patches(one, patch=9, batch=16, seed=0)
    assert patches.crops == 1
    lr, _ = patches.batch(0)
    assert {tuple(map(int, image.flatten(1).sum(1) * 255 + 0.5)) for image in lr} == {(324, 324, 0)}


def test_an_image_smaller_than_the_patch_is_refused(images):
    with pytest.raises(InputError, match="1: no patch of 10x10 LR pixels fits into its 9x9"):
        Patches(images, patch=10, batch=1, seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fits", [True, False])
def test_a_gpu_gets_the_same_batches(images, monkeypatch, fits):
    monkeypatch.setattr(patches_module, "_fits", lambda *_: fits)
    for here, there in zip(
        Patches(images, 5, 32, seed=1).batch(2), Patches(images, 5, 32, seed=1, device="cuda").batch(2), strict=True
    ):
        assert there.device.type == "cuda"
        assert torch.equal(here, there.cpu())
