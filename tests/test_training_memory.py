"""The memory that is predicted for a training, against what torch takes."""

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from paretosr.proxies.losses import batch_loss
from paretosr.proxies.training import Training, begin
from paretosr.proxies.training_memory import MB, training_memory_mb
from paretosr.spaces import Architecture, Block, Design, published

DESIGNS = {
    "blocks": Design(Architecture(16, (Block.of("residual"), Block.of("imdb")), fusion="concat", image_skip="bicubic")),
    "rfdn": published("rfdn"),
    "maffsrn": published("maffsrn"),
}


def taken_mb(design: Design, training: Training) -> float:
    """The most that the tensors of two training steps took at once, by torch's own count of its allocations."""
    shape = (training.batch, 3, training.patch, training.patch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        state = begin(design, training, seed=0)
        lr, hr = torch.rand(shape), torch.rand((*shape[:2], 4 * shape[2], 4 * shape[3]))
        for _ in range(2):
            loss = batch_loss(training.loss, state.network, lr, hr, None)
            state.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            state.optimiser.step()
            del loss
    results: Any = told.profiler and told.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / MB


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("training", [Training(9, batch=1, patch=24), Training(9, batch=3, patch=16, ema=0.9)])
def test_the_prediction_is_what_torch_takes(name: str, training: Training) -> None:
    taken = taken_mb(DESIGNS[name], training)
    assert 0.97 * taken <= training_memory_mb(DESIGNS[name], training) <= 1.1 * taken


def test_a_larger_batch_and_a_teacher_take_more() -> None:
    design, training = DESIGNS["blocks"], Training(9, batch=1, patch=16)
    alone = training_memory_mb(design, training)
    many = training_memory_mb(design, Training(9, batch=64, patch=16))
    assert many > 30 * alone  # the weights of so small a network are next to nothing
    assert training_memory_mb(design, training, teacher=published("msrresnet")) > alone + 5
