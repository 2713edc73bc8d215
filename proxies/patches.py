"""Training patches, cut and turned on the device itself, each batch a function of the seed and the step alone."""

import torch
from torch import Tensor

from ..spaces.errors import InputError
from .images import ImageSet

_WORD = 2**64 - 1


def mix(seed: int, step: int) -> int:
    """Mixes two integers into 64 well-stirred bits, so that neighbouring steps share no pattern.

    The finishing function of SplitMix64 (Steele, Lea, Flood 2014). Negative and larger integers are taken modulo 2^64.
    """
    state = ((seed & _WORD) * 0x9E3779B97F4A7C15 + step + 1) & _WORD
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = ((state ^ (state >> shift)) * factor) & _WORD
    return state ^ (state >> 31)


class Patches:
    """An endless row of training batches, of which any can be asked for at any time.

    A batch depends on the images, the seed and the step, on nothing else: not on the batches asked for before, and not
    on the device. Every crop of every image is equally likely, so large images are seen more often; each crop is turned
    and flipped in one of the eight ways.

    The pixels live on the device as uint8. On a CPU that is the memory-mapped file itself. On a GPU it is one copy for
    all trainings, as long as it takes no more than half of the free memory; otherwise patches are cut on the host, and
    only they travel.

    Args:
        images: what to cut from.
        patch: side of an LR patch in pixels; HR patches have four times that.
        batch: patches in a batch.
        seed: any integer.
        device: where batches are wanted.

    Raises:
        InputError: an image smaller than the patch.
    """

    def __init__(self, images: ImageSet, patch: int, batch: int, seed: int, device: torch.device | str = "cpu"):
        sizes = torch.tensor(images.sizes)
        if int(sizes.min()) < patch:
            name, (height, width) = min(zip(images.names, images.sizes, strict=True), key=lambda pair: min(pair[1]))
            raise InputError(f"{name}: no patch of {patch}x{patch} LR pixels fits into its {width}x{height}")
        self.patch, self.batch_size, self.seed, self.device = patch, batch, seed, torch.device(device)
        self._home = self.device if _fits(images, self.device) else images.flat.device
        self._flat = images.flat_on(self._home)
        crops = (sizes[:, 0] - patch + 1) * (sizes[:, 1] - patch + 1)
        self.crops = int(crops.sum())
        # Per image: crops before it, crops in a line, LR height and width, where its HR and LR bytes begin.
        facts = [crops.cumsum(0) - crops, sizes[:, 1] - patch + 1, *sizes.T, *torch.tensor(images.offsets).T]
        self._facts = torch.stack(facts).to(self._home)
        self._ends = crops.cumsum(0).to(self._home)
        self._steps = {side: torch.arange(side, device=self._home) for side in (patch, 4 * patch)}
        self._channels = torch.arange(3, device=self._home)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Gives the batch of a step: LR `[N, 3, p, p]` and HR `[N, 3, 4p, 4p]`, float32 in [0, 1], on the device."""
        crop, turn = self._draw(step).to(self._home)
        image = torch.searchsorted(self._ends, crop, right=True)
        before, per_line, height, width, hr_start, lr_start = self._facts[:, image]
        row = (crop - before) // per_line
        column = (crop - before) % per_line
        lr = self._cut(lr_start, height, width, row, column, turn, self.patch)
        hr = self._cut(hr_start, 4 * height, 4 * width, 4 * row, 4 * column, turn, 4 * self.patch)
        return self._delivered(lr), self._delivered(hr)

    def _draw(self, step: int) -> Tensor:
        """Draws, always on the CPU, the number of a crop among all crops and one of eight ways to turn it: `[2, N]`."""
        generator = torch.Generator().manual_seed(mix(self.seed, step))
        drawn = torch.randint(2**62, (2, self.batch_size), generator=generator)
        return torch.stack([drawn[0] % self.crops, drawn[1] % 8])

    def _cut(
        self, start: Tensor, height: Tensor, width: Tensor, row: Tensor, column: Tensor, turn: Tensor, side: int
    ) -> Tensor:
        """Gathers `[N, 3, side, side]` uint8 squares whose corners lie at (row, column), turned and flipped.

        Turning costs nothing: in the flat bytes a step down is `width` and a step right is 1. A flip starts at the
        other end and steps backwards, a transposition swaps the two.
        """
        up, left, transposed = turn & 1 == 1, turn & 2 == 2, turn & 4 == 4
        corner = start + (row + torch.where(up, side - 1, 0)) * width + column + torch.where(left, side - 1, 0)
        down = torch.where(up, -width, width)
        right = torch.where(left, -1, 1)
        down, right = torch.where(transposed, right, down), torch.where(transposed, down, right)
        plane = (height * width)[:, None] * self._channels
        lines = (corner[:, None] + plane)[:, :, None] + down[:, None, None] * self._steps[side]
        indices = lines[..., None] + (right[:, None] * self._steps[side])[:, None, None, :]
        return self._flat.index_select(0, indices.flatten()).view(indices.shape)

    def _delivered(self, pixels: Tensor) -> Tensor:
        if self._home != self.device:
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        return pixels.to(torch.float32) / 255


def _fits(images: ImageSet, device: torch.device) -> bool:
    """Says whether the images may live on the device: always on a CPU, in at most half of the free memory on a GPU."""
    if device.type != "cuda" or images.is_on(device):
        return True
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return images.flat.numel() <= free_bytes // 2
