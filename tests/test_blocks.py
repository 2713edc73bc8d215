"""Every block of `BLOCKS` in all of its forms: a new block is covered as soon as it stands in that table."""

import itertools
import json

import pytest
import torch
from torch import Tensor, nn

from paretosr.spaces import BLOCKS, Architecture, Block, InputError, build
from paretosr.spaces.space import gene_of

SLOPE = 0.1
SEEDS = range(8)


def forms_of(type_: str) -> list[Block]:
    """The block with all combinations of its choices."""
    choices: dict[str, tuple[str | int | float, ...]] = BLOCKS[type_].CHOICES
    return [Block(type_, tuple(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())]


FORMS = [form for type_ in BLOCKS for form in forms_of(type_)]
every_block = pytest.mark.parametrize("type_", BLOCKS)
every_form = pytest.mark.parametrize("form", FORMS, ids=Block.summary)


def make(form: Block, width: int = 8, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BLOCKS[form.type](width, SLOPE, **dict(form.choices))


def smallest_side(block: nn.Module) -> int:
    return max(getattr(module, "minimum_size", 1) for module in block.modules())


def odd_input(block: nn.Module, width: int = 8, seed: int = 0) -> Tensor:
    """`[2, width, 16, 17]`, larger where the block needs it."""
    side = max(16, smallest_side(block))
    return torch.randn(2, width, side, side + 1, generator=torch.Generator().manual_seed(seed))


@every_form
@pytest.mark.parametrize("width", [4, 13, 16])
def test_shape_is_kept_and_the_input_untouched(form: Block, width: int) -> None:
    block = make(form, width).eval()
    least = smallest_side(block)
    for height, columns in ((least, least), (least + 2, least + 5), (max(16, least), max(17, least))):
        x = torch.rand(2, width, height, columns)
        before = x.clone()
        y = block(x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        assert torch.equal(x, before)


@every_form
def test_gradients_reach_every_parameter(form: Block) -> None:
    unreached = {name for name, _ in make(form).named_parameters()}
    for seed in SEEDS:  # several, because a ReLU may be dead in one
        block = make(form, seed=seed)
        x = odd_input(block, seed=seed).requires_grad_()
        (block(x) * odd_input(block, seed=seed + 100)).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        for name, parameter in block.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if parameter.grad.any():
                unreached.discard(name)
        if not unreached:
            break
    assert not unreached


@every_form
@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_gradients_are_finite_for_flat_inputs(form: Block, value: float) -> None:
    block = make(form)
    x = torch.full_like(odd_input(block), value).requires_grad_()
    y = block(x)
    y.sum().backward()
    assert y.isfinite().all()
    for name, tensor in (("input", x), *block.named_parameters()):
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name


@every_form
def test_minimum_size_is_true(form: Block) -> None:
    network = build(Architecture(8, (form,))).eval()
    least = network.minimum_size
    assert least == smallest_side(make(form))
    assert network(torch.rand(1, 3, least, least)).isfinite().all()
    for height, columns in ((least - 1, least), (least, least - 1)):
        with pytest.raises(InputError, match=f"at least {least}x{least} pixels"):
            network(torch.rand(1, 3, height, columns))


@pytest.mark.parametrize("form", [form for form in FORMS if smallest_side(make(form)) > 1], ids=Block.summary)
def test_minimum_size_asks_for_no_more_than_needed(form: Block) -> None:
    block = make(form).eval()
    side = smallest_side(block) - 1
    try:
        y = block(torch.rand(1, 8, side, side))
    except (RuntimeError, ValueError):
        return
    assert not y.isfinite().all(), f"{form.summary()} works at {side}x{side}"


@every_block
def test_choices_are_plain_values_and_the_first_is_the_default(type_: str) -> None:
    choices = BLOCKS[type_].CHOICES
    for name, values in choices.items():
        assert name.isidentifier()
        assert len(set(values)) == len(values) > 0
        assert all(type(value) in (str, int, float) for value in values)
        assert json.loads(json.dumps(values)) == list(values)
    assert dict(Block(type_).choices) == {name: values[0] for name, values in choices.items()}
    assert Block(type_).summary() == type_


@every_block
def test_every_choice_has_a_gene_of_its_own_in_its_block(type_: str) -> None:
    genes = [gene_of(choice) for choice in BLOCKS[type_].CHOICES]
    assert len(set(genes)) == len(genes), f"two choices of '{type_}' share a gene in GENES: {genes}"


@every_block
def test_docstring_names_the_source(type_: str) -> None:
    assert "Source:" in (BLOCKS[type_].__doc__ or "")


# Blocks that no published network of SYSTEMS counts for us: their parameters, by hand


@pytest.mark.parametrize("expansion", [3, 6])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_inverted_residual_has_the_parameters_of_the_paper(expansion: int, norm: str) -> None:
    width, inner = 10, 10 * expansion
    shifts = inner + inner + width  # a bias, or batch norm's, of each of the three convolutions
    wanted = width * inner + 9 * inner + inner * width + (1 if norm == "none" else 2) * shifts
    assert parameters(Block.of("inverted_residual", expansion=expansion, norm=norm), width) == wanted


def test_mobilenetv3_adds_squeeze_and_excitation_of_a_quarter() -> None:
    width, inner = 8, 48
    plain = parameters(Block.of("inverted_residual", expansion=6), width)
    squeezed = parameters(Block.of("mobilenetv3", expansion=6, attention="se"), width)
    assert squeezed - plain == 2 * inner * (inner // 4) + inner + inner // 4
    assert parameters(Block.of("mobilenetv3", expansion=6, attention="none"), width) == plain


def parameters(form: Block, width: int) -> int:
    return sum(parameter.numel() for parameter in make(form, width).parameters())


# With a factorised kernel the two halves of a stage would share their 1x3: there the two blocks differ.
@pytest.mark.parametrize("attention", BLOCKS["imdb"].CHOICES["attention"])
@pytest.mark.parametrize("distilled", BLOCKS["imdb"].CHOICES["distilled"])
def test_imdb_r_computes_what_imdb_does(distilled: float, attention: str) -> None:
    width, kept = 12, round(12 * distilled)
    imdb = make(Block.of("imdb", distilled=distilled, attention=attention), width)
    rewritten = make(Block.of("imdb_r", distilled=distilled, attention=attention), width)
    theirs, weights = imdb.state_dict(), {}
    for key in rewritten.state_dict():
        part, _, rest = key.partition(".")
        share = {"distil": slice(kept), "refine": slice(kept, None)}.get(part)
        weights[key] = theirs[key] if share is None else theirs[f"stages.{rest}"][share]
    rewritten.load_state_dict(weights)
    x = odd_input(imdb, width)
    torch.testing.assert_close(rewritten(x), imdb(x))
