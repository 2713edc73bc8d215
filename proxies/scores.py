"""Zero-cost scores: numbers of an untrained network that may say how well it will do. A new one: name it in `SCORES`.

A score is a function `(network, batches)` to a float. `batches` are pairs of images, low and high resolution,
`[N, 3, h, w]` and `[N, 3, 4h, 4w]`, all of one size; a score takes what it needs of both, and the controls, which are
counts, take neither weights nor images. ScoreFailed where there is no finite number. The network, which is to be in its
training form, is left exactly as it was: a score works on a copy, in float32 unless it says otherwise, with weight norm
folded, so that "the weights" are those that are applied: kernels of convolutions and linear layers that train, without
biases, norms' scales and slopes of activations.

All but the counts were made for classifiers. What differs here, in each of them: the loss is L1 between output and
original in place of cross-entropy, and an image is a patch, whose every position counts as units of their own. Batch
norm uses the statistics of the batch, as in the first step of a training. A score is of one draw of weights.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..spaces import Design, InputError, build, unknown
from ..spaces.forms import fold
from .activation_codes import LEARNED, CodesFailed, take_codes
from .complexity import complexity
from .images import ImageSet
from .patches import Patches

Batches = Sequence[tuple[Tensor, Tensor]]
Compute = Callable[[nn.Module, Batches], float]

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
# What passes features that are not negative on as they are, or nearly so. Sigmoids are gates and not among them.
RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, *LEARNED)
CODE_CHUNK = 2**20  # units whose float32 sums stay exact, and whose memory stays small
WORD_BITS = 62


class ScoreFailed(RuntimeError):
    """A network has no such score, for the reason in the message."""


@dataclass(frozen=True)
class Score:
    """One score: its words for a reader, what it looks at, and where it is from.

    needs: `shapes`, `weights` or `images`. control: a count, known without any score, that a score must beat; of a
    control no direction is promised, of every other score higher is expected to be better.
    """

    label: str
    needs: str
    source: str
    compute: Compute
    control: bool = False


def score(name: str, network: nn.Module, batches: Batches) -> float:
    """The score called `name` of a network, finite; ScoreFailed otherwise, InputError where it lacks batches."""
    if name not in SCORES:
        raise InputError(unknown("score", name, SCORES))
    if SCORES[name].needs != "shapes" and not batches:
        raise InputError(f"score '{name}': it needs batches of images, and none was given")
    try:
        value = float(SCORES[name].compute(network, batches))
    except (CodesFailed, ScoreFailed) as error:
        raise ScoreFailed(f"score '{name}': {error}") from None
    if not math.isfinite(value):
        raise ScoreFailed(f"score '{name}': it is {value} for this network")
    return value


# ---- controls


def parameters(network: nn.Module, batches: Batches) -> float:
    """Elements of all parameters, in millions, of the inference form."""
    return complexity(network).parameters / 1e6


def flops(network: nn.Module, batches: Batches) -> float:
    """The challenge's FLOPs at 3x256x256, in 10^9, of the inference form."""
    return complexity(network).flops_g


def activations(network: nn.Module, batches: Batches) -> float:
    """Elements of all convolution outputs at 3x256x256, in millions, of the inference form."""
    return complexity(network).activations_m


def convolutions(network: nn.Module, batches: Batches) -> float:
    """Calls of a convolution in one forward of the inference form."""
    return float(complexity(network).convolutions)


# ---- gradients


def gradient_norm(network: nn.Module, batches: Batches) -> float:
    """The sum over the weights, one kernel at a time, of the Euclidean length of the loss's gradient.

    Of the mean loss over all batches. Source: Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS".
    """
    with _scratch(network) as made:
        return sum(float(gradient.norm()) for gradient in _mean_gradients(made, batches))


def snip(network: nn.Module, batches: Batches) -> float:
    """The sum over all weights of |weight x gradient|: what losing them changes the loss by, to first order.

    Of the mean loss over all batches; not normalised to sum 1, as only a sum can compare networks. Source: Lee et al.
    2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity"; as a score Abdelfattah et al. 2021.
    """
    with _scratch(network) as made:
        gradients = _mean_gradients(made, batches)
        pairs = zip(weights_of(made), gradients, strict=True)
        return sum(float((weight.detach() * gradient).abs().sum()) for weight, gradient in pairs)


def zico(network: nn.Module, batches: Batches) -> float:
    """The sum over the kernels of the log of the sum over a kernel's weights of mean |g| / standard deviation of |g|.

    Mean and deviation (divided by the number, not by one less) are over batches, of which it needs two; with few it is
    noisy. As in the authors' code, weights whose gradient never changes are left out, and kernels with none but such.
    Source: Li et al. 2023, "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients".
    """
    if len(batches) < 2:
        raise InputError(f"score 'zico': it needs at least two batches, not {len(batches)}")
    with _scratch(network) as made:
        by_batch = [[gradient.abs().double() for gradient in _gradients(made, pair)] for pair in batches]
    total, kernels = 0.0, 0
    for of_kernel in zip(*by_batch, strict=True):
        deviation, mean = torch.std_mean(torch.stack(of_kernel), dim=0, correction=0)
        moves = deviation > 0
        if moves.any():
            total, kernels = total + math.log(float((mean[moves] / deviation[moves]).sum())), kernels + 1
    if not kernels:
        raise ScoreFailed("no gradient changes from batch to batch")
    return total


def synflow(network: nn.Module, batches: Batches) -> float:
    """The log of the sum over all weights of |weight x gradient|: of the summed output, weights absolute, image ones.

    Without data: of the batches it takes the size of an image alone. In float64, and by the product of weights that
    the paper writes: norms and biases are gone, and rectifiers, which do nothing to features that are not negative (but
    for ReLU6, whose ceiling would hide what lies before it). Sigmoids stay; where a large sum saturates one, weights
    that feed it count nothing. Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively
    conserving synaptic flow"; without norm as in Abdelfattah et al. 2021.
    """
    with _scratch(network, torch.float64) as made:
        _without(made, (*NORMS, *RECTIFIERS))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.abs_()
            for module in made.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
                    module.bias.zero_()
        lr = batches[0][0]
        weights = weights_of(made)
        flow = made(torch.ones(1, *lr.shape[1:], dtype=torch.float64, device=lr.device)).sum()
        gradients = torch.autograd.grad(flow, weights, allow_unused=True, materialize_grads=True)
        total = sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, gradients, strict=True))
    if total == 0:
        raise ScoreFailed("nothing flows through this network from an image of ones")
    return math.log(total) if total > 0 else math.nan


# ---- codes


def nwot(network: nn.Module, batches: Batches) -> float:
    """The log-determinant of the kernel that counts, for two images, the activations that are alike in their codes.

    `activation_codes` says what a code is. All batches are run as one. Two images with one code have no score. The
    kernel grows with the number of activations, and so does the score: compare it with the controls. Source: Mellor et
    al. 2021, "Neural Architecture Search without Training".
    """
    lr = _images(batches)
    kernel = torch.zeros(len(lr), len(lr), dtype=torch.float64, device=lr.device)

    def take(code: Tensor) -> None:
        for part in code.split(CODE_CHUNK, dim=1):
            signs = part.float() * 2 - 1  # a product of signs is 1 where two are alike, else -1
            kernel.add_((signs @ signs.T + part.shape[1]) / 2)

    with _scratch(network) as made:
        take_codes(made, lr, take)
    sign, logarithm = torch.linalg.slogdet(kernel)
    if float(sign) <= 0:
        raise ScoreFailed("two of the images have the same code")
    return float(logarithm)


def swap(network: nn.Module, batches: Batches) -> float:
    """The number of distinct patterns that activations make over the images: one bit an image, one pattern a unit.

    `activation_codes` says what is on. All batches are run as one. It cannot pass 2^N for N images, and so needs many
    of them for large networks. Without the regularisation by size. Source: Peng et al. 2024, "SWAP-NAS: Sample-wise
    Activation Patterns for Ultra-fast NAS".
    """
    lr = _images(batches)
    seen: list[Tensor] = []

    def take(code: Tensor) -> None:
        words = []
        for images in code.split(WORD_BITS):
            places = 2 ** torch.arange(len(images), device=code.device)
            word = torch.zeros(code.shape[1], dtype=torch.int64, device=code.device)
            for place, bits in zip(places, images, strict=True):
                word += place * bits
            words.append(word)
        seen.append(_distinct(torch.stack(words, dim=1)))

    with _scratch(network) as made:
        take_codes(made, lr, take)
    return float(len(_distinct(torch.cat(seen))))


def _distinct(patterns: Tensor) -> Tensor:
    """The distinct rows of `[units, words]`; of a single word by a plain sort, which is a hundred times as fast."""
    if patterns.shape[1] == 1:
        return patterns.unique()[:, None]
    return patterns.unique(dim=0)


# ---- what they work on


@contextmanager
def _scratch(network: nn.Module, dtype: torch.dtype = torch.float32) -> Iterator[nn.Module]:
    """A copy to do anything with, weight norm folded, in training mode, under a random state of its own."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        made = copy.deepcopy(network).to(dtype).train()
        for module in list(made.modules()):
            if parametrize.is_parametrized(module):
                fold(module)
        yield made


def weights_of(network: nn.Module) -> list[nn.Parameter]:
    """The kernels that train: those of linear layers, and every parameter with the four dimensions of a kernel."""
    linear = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    kernels = (p for p in network.parameters() if p.ndim >= 4 or id(p) in linear)
    return [p for p in kernels if p.requires_grad]


def _without(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Puts nothing in the place of modules of these kinds."""
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, kinds):
                parent._modules[name] = nn.Identity()


def _gradients(network: nn.Module, pair: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The gradients of one batch's L1 loss by the weights; 0 for weights that do nothing."""
    weights = weights_of(network)
    if not weights:
        raise ScoreFailed("the network has no weights that train")
    lr, hr = (images.float() for images in pair)
    loss = F.l1_loss(network(lr), hr)
    return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))


def _mean_gradients(network: nn.Module, batches: Batches) -> list[Tensor]:
    by_batch = [_gradients(network, pair) for pair in batches]
    return [torch.stack(of_weight).mean(0) for of_weight in zip(*by_batch, strict=True)]


def _images(batches: Batches) -> Tensor:
    return torch.cat([lr for lr, _ in batches]).float()


# ---- many networks


@dataclass(frozen=True)
class ScoreTable:
    """Scores of many networks: for each name a column `[N]` in the order of the networks, NaN where one has no score.

    failures: a line for each NaN. seconds: what each score took over all networks, building them not included.
    """

    columns: dict[str, list[float]]
    failures: tuple[str, ...]
    seconds: dict[str, float]


def score_batches(
    images: ImageSet, *, patch: int = 16, batch: int = 16, count: int = 4, seed: int = 0, device: str = "cpu"
) -> list[tuple[Tensor, Tensor]]:
    """`count` batches of patches to score networks with: the same for all networks, a function of the seed alone.

    `patch` is the side in low-resolution pixels, at least the `minimum_size` of every network (15 with `esa`).
    """
    patches = Patches(images, patch, batch, seed, device)
    return [patches.batch(step) for step in range(count)]


def score_table(
    designs: Sequence[Design],
    batches: Batches,
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> ScoreTable:
    """The scores called `names` (all, if not given) of the networks of `designs`, each built anew from the seed.

    `batches` lie on `device`. A network that has no such score gets NaN and a line in `failures`.
    """
    names = tuple(SCORES) if names is None else tuple(names)
    columns: dict[str, list[float]] = {name: [] for name in names}
    seconds, failures = dict.fromkeys(names, 0.0), []
    for design in designs:
        network = build(design, seed=seed, device=device)
        for name in names:
            started = time.perf_counter()
            try:
                value = score(name, network, batches)
            except ScoreFailed as error:
                value = math.nan
                failures.append(f"{design.summary()}: {error}")
            columns[name].append(value)
            seconds[name] += time.perf_counter() - started
    return ScoreTable(columns, tuple(failures), seconds)


_COUNT = "Zhang et al. 2020, AIM 2020 Efficient Super-Resolution"
SCORES: dict[str, Score] = {
    "parameters": Score("parameters (M)", "shapes", _COUNT, parameters, control=True),
    "flops": Score("FLOPs (G)", "shapes", _COUNT, flops, control=True),
    "activations": Score("activations (M)", "shapes", _COUNT, activations, control=True),
    "convolutions": Score("convolutions", "shapes", _COUNT, convolutions, control=True),
    "gradient_norm": Score("gradient norm", "images", "Abdelfattah et al. 2021", gradient_norm),
    "snip": Score("SNIP", "images", "Lee et al. 2019", snip),
    "synflow": Score("log SynFlow", "weights", "Tanaka et al. 2020", synflow),
    "nwot": Score("NWOT", "images", "Mellor et al. 2021", nwot),
    "swap": Score("SWAP", "images", "Peng et al. 2024", swap),
    "zico": Score("ZiCo", "images", "Li et al. 2023", zico),
}
