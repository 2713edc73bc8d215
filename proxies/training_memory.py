"""How much memory a training will take, told before it begins, from shapes alone."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..spaces import Design, build
from .losses import batch_loss
from .training import Training

MB = 2**20


def training_memory_mb(design: Design, training: Training, teacher: Design | None = None) -> float:
    """Megabytes (2^20 bytes) that tensors take at the peak of a training step, in float32 as on a CPU; to a tenth.

    That is weights, gradients, Adam's two moments and the running mean; what the graph saves for the way back; and of
    the way back itself the gradients of the three largest of these, which exist at once. On a GPU it is an upper
    bound, since bfloat16 halves what is saved. Not in it: images, the workspaces of convolutions, the libraries.
    """
    network: nn.Module = build(design, device="meta").train()
    weights = bytes_of(p for p in network.parameters() if p.requires_grad)
    state = bytes_of(network.state_dict().values())
    kept = state + 3 * weights + (state if training.ema is not None else 0)
    if teacher is not None:
        kept += bytes_of(build(teacher, device="meta").state_dict().values())
    saved = saved_bytes(network, training)
    return (kept + sum(saved) + sum(sorted(saved)[-3:])) / MB


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """The bytes of some tensors that share nothing."""
    return sum(t.numel() * t.element_size() for t in tensors)


def saved_bytes(network: nn.Module, training: Training) -> list[int]:
    """The bytes of each tensor that the graph of one step's loss keeps, those of the batch included, weights not.

    The network must be on the meta device, so that nothing is computed.
    """
    own = {tensor.untyped_storage()._cdata for tensor in network.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept.setdefault(storage, tensor)  # keeps it alive, so that no other takes its place
        return tensor

    lr = torch.empty(training.batch, 3, training.patch, training.patch, device="meta")
    hr = torch.empty(training.batch, 3, 4 * training.patch, 4 * training.patch, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = batch_loss(training.loss, network, lr, hr, None)
    for tensor in (lr, hr):
        note(tensor)
    del loss
    return [tensor.untyped_storage().nbytes() for tensor in kept.values()]
