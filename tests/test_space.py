"""The search space: how many networks it holds, the genome, draws, mutations and crossings; all of them stay inside."""

import itertools
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest

from paretosr.spaces import (
    BLOCKS,
    SYSTEMS,
    Architecture,
    Block,
    BlockChoices,
    Frame,
    InputError,
    Space,
    build,
)
from paretosr.spaces.architecture import IMAGE_SKIPS
from paretosr.spaces.fusion import FUSIONS
from paretosr.spaces.mutations import MUTATIONS
from paretosr.spaces.upsampler import UPSAMPLERS

PLAIN = ("kernel", ("3x3",))
SCPA = BlockChoices("scpa", (PLAIN,))
RFDB = BlockChoices("rfdb", (PLAIN, ("distilled", (0.5,)), ("attention", ("esa", "cca"))))
MOBILE = BlockChoices("mobilenetv3", (PLAIN, ("norm", ("none",)), ("attention", ("se", "cca"))))
RESIDUAL = BlockChoices(
    "residual", (PLAIN, ("attention", ("none",)), ("activation", ("leaky_relu",)), ("norm", ("none",)))
)

SMALL = {
    "one network": Space((SCPA,), (8,), (1,)),
    "only image skips": Space((SCPA,), (8,), (2,), image_skips=IMAGE_SKIPS),
    "backward at depth 1 is none": Space((SCPA, RESIDUAL), (8,), (1, 2), fusions=("none", "backward", "concat")),
    "only backward": Space((SCPA, RESIDUAL), (8,), (1, 2), fusions=("backward",)),
    "backward or concat": Space((SCPA, RFDB), (8, 12), (1, 3), fusions=("backward", "concat")),
    "upsamplers with and without a width": Space(
        (SCPA, MOBILE),
        (8,),
        (1,),
        upsamplers=("direct", "light_two_step", "nearest_pa"),
        upsampler_widths=(8, 4, 6),
        image_skips=("none", "nearest"),
    ),
    "an upsampler width that none uses": Space((SCPA,), (8, 16), (1, 2), upsampler_widths=(4, 8)),
    "depths with gaps": Space((SCPA, RESIDUAL), (8,), (4, 1, 6), fusions=("concat",)),
    "values that only one type knows": Space((RFDB, MOBILE, SCPA), (12, 8), (2,)),
}
LARGE = Space(
    tuple(BlockChoices(type_) for type_ in BLOCKS),
    widths=(16, 24, 32, 48),
    depths=tuple(range(1, 9)),
    fusions=tuple(FUSIONS),
    upsamplers=tuple(UPSAMPLERS),
    upsampler_widths=(16, 24),
    image_skips=IMAGE_SKIPS,
)
small_space = pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)
any_space = pytest.mark.parametrize("space", [*SMALL.values(), LARGE], ids=[*SMALL, "large"])


def everything(space: Space) -> Iterator[Architecture]:
    """All architectures that can be written with the space's words, the same graph as often as it can be written."""
    blocks = [
        Block(choices.type, tuple(zip(dict(choices.choices), values, strict=True)))
        for choices in space.blocks
        for values in itertools.product(*dict(choices.choices).values())
    ]
    for depth in space.depths:
        for width, body, fusion, upsampler, upsampler_width, image_skip in itertools.product(
            space.widths,
            itertools.product(blocks, repeat=depth),
            space.fusions,
            space.upsamplers,
            space.upsampler_widths or (0,),
            space.image_skips,
        ):
            yield Architecture(width, body, fusion, upsampler, upsampler_width, image_skip, space.frame)


@cache
def networks(space: Space) -> frozenset[Architecture]:
    return frozenset(architecture.canonical() for architecture in everything(space))


# How many, and which


@small_space
def test_size_is_the_number_of_distinct_networks(space: Space) -> None:
    assert space.size == len(networks(space)) == len({architecture.hash for architecture in networks(space)})
    assert all(architecture in space for architecture in everything(space))


@pytest.mark.parametrize("name", ["backward at depth 1 is none", "upsamplers with and without a width"])
def test_networks_that_count_apart_are_built_apart(name: str) -> None:
    graphs = {(str(build(a, device="meta")), a.image_skip) for a in networks(SMALL[name])}
    assert len(graphs) == SMALL[name].size


def test_the_size_of_a_large_space_by_hand() -> None:
    forms = sum(BlockChoices(type_).count for type_ in BLOCKS)
    fusions = len(FUSIONS)  # at depth 1, `backward` is `none`
    bodies = (fusions - 1) * forms + sum(fusions * forms**depth for depth in range(2, 9))
    upsamplers = sum(2 if upsampler.WIDTH_STEP else 1 for upsampler in UPSAMPLERS.values())
    assert LARGE.size == 4 * bodies * upsamplers * 4


def test_a_network_with_one_foreign_part_lies_outside() -> None:
    space = Space((RFDB,), (8,), (2,), upsamplers=("two_step",), upsampler_widths=(8,))
    inside = Architecture(8, (Block("rfdb"),) * 2, upsampler="two_step", upsampler_width=8)
    assert inside in space
    for change in (
        {"width": 16},
        {"blocks": (Block("rfdb"),)},
        {"blocks": (Block("rfdb"), Block("scpa"))},
        {"blocks": (Block("rfdb"), Block.of("rfdb", attention="pa"))},
        {"fusion": "concat"},
        {"upsampler": "direct"},
        {"upsampler_width": 12},
        {"image_skip": "nearest"},
        {"frame": Frame(slope=0.1)},
    ):
        outside: Architecture = replace(inside, **change)  # type: ignore[arg-type]
        assert outside not in space, change
        with pytest.raises(InputError, match=f"architecture {outside.hash} does not lie in the space"):
            space.encode(outside)


# The genome


@small_space
def test_the_genome_goes_both_ways(space: Space) -> None:
    for architecture in networks(space):
        assert space.decode(space.encode(architecture)) == architecture


def test_the_genome_goes_both_ways_in_a_large_space() -> None:
    random = Random(1)
    for _ in range(300):
        architecture = LARGE.sample(random)
        assert LARGE.decode(LARGE.encode(architecture)) == architecture


@any_space
def test_the_genome_has_the_same_genes_for_every_network(space: Space) -> None:
    genes, random = space.genes(), Random(2)
    for _ in range(50):
        genome = space.encode(space.sample(random))
        assert list(genome) == list(genes)
        assert all(value in genes[name] for name, value in genome.items())
    assert all(len(options) > 1 for options in genes.values())


@any_space
def test_the_used_genes_are_those_that_make_another_network(space: Space) -> None:
    """They alone decode to it, and an unused gene may be anything."""
    random = Random(3)
    for _ in range(20):
        architecture = space.sample(random)
        used = space.used_genes(architecture)
        assert space.decode(used) == architecture
        assert used.items() <= space.encode(architecture).items()
        other = {name: random.choice(options) for name, options in space.genes().items()} | used
        assert space.decode(other) == architecture
    shallow = min((space.sample(random) for _ in range(50)), key=lambda a: len(a.blocks))
    assert not [name for name in space.used_genes(shallow) if name.startswith(f"block{len(shallow.blocks)}.")]


@any_space
def test_every_genome_is_a_network_of_the_space(space: Space) -> None:
    genes, random = space.genes(), Random(3)
    for _ in range(200):
        decoded = space.decode({name: random.choice(options) for name, options in genes.items()})
        assert decoded in space
        assert decoded == decoded.canonical()


@small_space
def test_every_network_has_a_genome_that_a_sampler_can_find(space: Space) -> None:
    genes, random = space.genes(), Random(4)
    draws = 40 * space.size + 200
    found = {space.decode({name: random.choice(options) for name, options in genes.items()}) for _ in range(draws)}
    assert found == networks(space)


def test_a_position_has_at_most_five_genes_and_types_share_them() -> None:
    space = Space(
        tuple(BlockChoices(type_) for type_ in ("imdb", "rfdb", "residual", "lattice", "mobilenetv3")), (8,), (2,)
    )
    genes = space.genes()
    assert list(genes) == [
        f"block{i}.{gene}" for i in range(2) for gene in ("type", "inner", "kernel", "attention", "norm")
    ]
    assert genes["block0.inner"] == (0.25, 0.5, "relu", "leaky_relu", 3, 6)
    assert genes["block1.attention"] == ("none", "cca", "esa", "pa", "se")


def test_a_choice_of_a_new_name_has_a_gene_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dilated:
        CHOICES = {"dilation": (1, 2), "kernel": ("3x3", "1x3+3x1")}

    monkeypatch.setitem(BLOCKS, "dilated", Dilated)
    space = Space((BlockChoices("dilated"), SCPA), (8,), (1, 2))
    assert space.genes()["block1.dilation"] == (1, 2)
    for architecture in networks(space):
        assert space.decode(space.encode(architecture)) == architecture
    assert space.size == len(networks(space)) == 5 + 25


# Draws


@any_space
def test_samples_lie_inside_and_follow_their_seed(space: Space) -> None:
    drawn = [space.sample(Random(seed)) for seed in range(40)]
    assert all(architecture in space for architecture in drawn)
    assert drawn == [space.sample(Random(seed)) for seed in range(40)]


@small_space
def test_sampling_reaches_every_network(space: Space) -> None:
    random = Random(5)
    assert {space.sample(random) for _ in range(40 * space.size)} == networks(space)


@pytest.mark.parametrize("type_", BLOCKS)
def test_only_type_fills_the_body_with_one_type(type_: str) -> None:
    random = Random(6)
    for _ in range(10):
        architecture = LARGE.sample(random, only_type=type_)
        assert architecture in LARGE
        assert {block.type for block in architecture.blocks} == {type_}


def test_only_type_must_be_in_the_space() -> None:
    with pytest.raises(InputError, match="no block in the space 'rfdb'"):
        SMALL["one network"].sample(Random(0), only_type="rfdb")


@any_space
def test_mutations_lie_inside_and_change_something(space: Space) -> None:
    random = Random(7)
    architecture = space.sample(random)
    for _ in range(200):
        changed, words = space.mutate(architecture, random)
        assert changed in space
        assert changed == changed.canonical()
        assert (changed == architecture) == (words == "nothing") == (space.size == 1)
        architecture = changed


def test_mutations_follow_their_seed() -> None:
    start = LARGE.sample(Random(0))
    assert [LARGE.mutate(start, Random(s)) for s in range(30)] == [LARGE.mutate(start, Random(s)) for s in range(30)]


def test_every_mutation_occurs_about_as_often_as_its_weight() -> None:
    random, counts, draws = Random(8), Counter[str](), 3000
    for _ in range(draws):
        start = LARGE.sample(random)
        changed, words = LARGE.mutate(start, random)
        counts[words] += 1
        check = CHECKS.get(words)
        assert check is None or check(start, changed), words
    assert set(counts) == set(MUTATIONS)
    total = sum(weight for weight, _ in MUTATIONS.values())
    for words, (weight, _) in MUTATIONS.items():
        assert 0.6 < counts[words] / (draws * weight / total) < 1.6, words


def types(architecture: Architecture) -> list[str]:
    return [block.type for block in architecture.blocks]


def differences(one: Architecture, other: Architecture) -> int:
    return sum(a != b for a, b in zip(one.blocks, other.blocks, strict=True))


CHECKS: dict[str, Any] = {
    "change a choice": lambda a, b: differences(a, b) == 1 and types(a) == types(b),
    "swap a type": lambda a, b: differences(a, b) == 1 and types(a) != types(b),
    "insert a block": lambda a, b: len(b.blocks) == len(a.blocks) + 1,
    "delete a block": lambda a, b: len(b.blocks) == len(a.blocks) - 1,
    "change the width": lambda a, b: abs(LARGE.widths.index(a.width) - LARGE.widths.index(b.width)) == 1,
    "replace a type": lambda a, b: len(set(types(b)) - set(types(a))) <= 1 and types(a) != types(b),
    "move a block": lambda a, b: sorted(map(str, a.blocks)) == sorted(map(str, b.blocks)) and a.blocks != b.blocks,
    "change the fusion": lambda a, b: a.fusion != b.fusion and a.blocks == b.blocks,
    "change the upsampler": lambda a, b: (a.upsampler, a.upsampler_width) != (b.upsampler, b.upsampler_width),
    "change the image skip": lambda a, b: a.image_skip != b.image_skip and a.blocks == b.blocks,
}


@small_space
def test_mutations_lead_from_any_network_to_all_others(space: Space) -> None:
    random = Random(9)
    seen, unspent = set[Architecture](), [space.sample(random)]
    while unspent:
        architecture = unspent.pop()
        if architecture not in seen:
            seen.add(architecture)
            unspent += [space.mutate(architecture, random)[0] for _ in range(60)]
    assert seen == networks(space)


@any_space
def test_crossings_lie_inside(space: Space) -> None:
    random = Random(10)
    for _ in range(200):
        first, second = space.sample(random), space.sample(random)
        child = space.cross(first, second, random)
        assert child in space
        assert child == child.canonical()
        assert set(child.blocks) <= {*first.blocks, *second.blocks}
        assert child.width in (first.width, second.width)
        assert (child.upsampler, child.upsampler_width) in {(a.upsampler, a.upsampler_width) for a in (first, second)}


def test_a_crossing_has_the_head_of_one_and_the_tail_of_the_other() -> None:
    space = Space((SCPA, RESIDUAL), (8,), (6,))
    first, second = (Architecture(8, (Block(type_),) * 6) for type_ in ("scpa", "residual"))
    random, cuts = Random(11), set[int]()
    for _ in range(100):
        kinds = types(space.cross(first, second, random))
        cut = kinds.count("scpa")
        assert kinds == ["scpa"] * cut + ["residual"] * (6 - cut)
        cuts.add(cut)
    assert cuts == set(range(7))


def test_crossing_and_mutation_mend_the_fusion_that_one_block_hides() -> None:
    space = SMALL["only backward"]
    shallow = Architecture(8, (Block("scpa"),), fusion="none")
    deep = Architecture(8, (Block("residual"),) * 2, fusion="backward")
    random = Random(12)
    assert {len(space.cross(shallow, deep, random).blocks) for _ in range(50)} == {1, 2}
    grown = {space.mutate(shallow, random)[1] for _ in range(50)}
    assert "insert a block" in grown


PUBLISHED = {name: system.network for name, system in SYSTEMS.items() if isinstance(system.network, Architecture)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_lie_in_a_space_of_their_frame(name: str) -> None:
    known = PUBLISHED[name]
    sizes = {"widths": (40, 50, 64), "depths": tuple(range(1, 17)), "upsampler_widths": (24, 64)}
    space = replace(LARGE, **sizes, frame=known.frame)
    assert known in space
    assert space.decode(space.encode(known)) == known


# The space itself


def test_a_space_is_a_value() -> None:
    again = pickle.loads(pickle.dumps(LARGE))  # noqa: S301
    assert again == LARGE
    assert hash(again) == hash(LARGE)
    LARGE.genes()
    assert again.encode(LARGE.sample(Random(0))) == LARGE.encode(LARGE.sample(Random(0)))


def test_left_out_choices_are_all_of_them() -> None:
    assert dict(BlockChoices("rfdb").choices) == BLOCKS["rfdb"].CHOICES
    assert BlockChoices("inverted_residual", (("expansion", (6.0, 6)),)).choices[0] == ("expansion", (6,))
    assert BlockChoices("rfdb").count == 16
