"""A `Space` is the set of architectures a search may visit: drawn, mutated, crossed, counted, written as a genome.

Every draw takes a `random.Random` that the caller seeds; a space holds no random state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any

from .architecture import IMAGE_SKIPS, Architecture, Block, Choice, Frame, member, whole
from .blocks import BLOCKS
from .errors import InputError
from .fusion import FUSIONS
from .mutations import MUTATIONS
from .upsampler import UPSAMPLERS

# Choices of different blocks that mean the same share one gene, so that a position has at most five. A choice that is
# not named here has a gene of its own name.
GENES: dict[str, str] = {
    "distilled": "inner",
    "narrowed": "inner",
    "expansion": "inner",
    "activation": "inner",
    "kernel": "kernel",
    "attention": "attention",
    "norm": "norm",
}
DEEPEST = 64
TRIES = 50  # of one kind of mutation, which draws its place at random, before it counts as not applicable

Genome = dict[str, Choice]


def gene_of(choice: str) -> str:
    """The gene that carries a block's choice."""
    return GENES.get(choice, choice)


@dataclass(frozen=True)
class BlockChoices:
    """A block type and, for each of its choices, the values the search may use (those left out: all of them)."""

    type: str
    choices: tuple[tuple[str, tuple[Choice, ...]], ...] = ()

    def __post_init__(self) -> None:
        member("block", self.type, BLOCKS)
        allowed, given = BLOCKS[self.type].CHOICES, {}
        for name, values in self.choices:
            member(f"choice of block '{self.type}'", name, allowed)
            if not values:
                raise InputError(f"{name} of block '{self.type}' needs at least one value")
            known = (member(f"{name} of block '{self.type}'", value, allowed[name]) for value in values)
            given[name] = tuple(dict.fromkeys(known))
        in_order = ((name, given.get(name, tuple(values))) for name, values in allowed.items())
        object.__setattr__(self, "choices", tuple(in_order))

    @property
    def count(self) -> int:
        """How many different blocks this allows."""
        count = 1
        for _, values in self.choices:
            count *= len(values)
        return count

    def holds(self, block: Block) -> bool:
        """Whether `block` is one of them."""
        allowed = dict(self.choices)
        return block.type == self.type and all(value in allowed[name] for name, value in block.choices)

    def sample(self, random: Random) -> Block:
        """One of them, each choice uniformly."""
        return Block(self.type, tuple((name, random.choice(values)) for name, values in self.choices))


@dataclass(frozen=True)
class Space:
    """The architectures whose parts are all among these; `frame` is the same for all of them.

    widths: channels of the body. depths: numbers of blocks. Every other field: the names allowed.
    """

    blocks: tuple[BlockChoices, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    fusions: tuple[str, ...] = ("none",)
    upsamplers: tuple[str, ...] = ("direct",)
    upsampler_widths: tuple[int, ...] = ()
    image_skips: tuple[str, ...] = ("none",)
    frame: Frame = field(default_factory=Frame)

    def __post_init__(self) -> None:
        for name in ("blocks", "widths", "depths", "fusions", "upsamplers", "upsampler_widths", "image_skips"):
            values = getattr(self, name)
            if not values and name != "upsampler_widths":
                raise InputError(f"{name}: at least one is needed")
            if len(set(values)) < len(values):
                raise InputError(f"{name}: one of them stands twice")
        if len({b.type for b in self.blocks}) < len(self.blocks):
            raise InputError("blocks: a block type stands twice; put its choices together")
        for known, names, what in (
            (FUSIONS, self.fusions, "fusion"),
            (UPSAMPLERS, self.upsamplers, "upsampler"),
            (IMAGE_SKIPS, self.image_skips, "image_skip"),
        ):
            for name in names:
                member(what, name, known)
        for depth in self.depths:
            whole("depths: each", depth, 1, DEEPEST)
        for upsampler in self.upsamplers:
            self._check_upsampler(upsampler)
        for width in self.widths:
            Architecture(width, (Block(self.blocks[0].type),))
        for name in ("widths", "depths", "upsampler_widths"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        object.__setattr__(self, "frame", self.frame.canonical())

    def _check_upsampler(self, upsampler: str) -> None:
        if not UPSAMPLERS[upsampler].WIDTH_STEP:
            return
        if not self.upsampler_widths:
            raise InputError(f"upsampler_widths: '{upsampler}' needs at least one")
        for width in self.upsampler_widths:
            Architecture(8, (Block(self.blocks[0].type),), upsampler=upsampler, upsampler_width=width)

    # ---- how many, and which

    @property
    def size(self) -> int:
        """How many distinct networks the space holds, exactly (architectures that build one graph count once)."""
        per_position = sum(block.count for block in self.blocks)
        bodies = sum(per_position**depth * len(self.fusions_at(depth)) for depth in self.depths)
        return len(self.widths) * bodies * len(self.upsampler_pairs()) * len(self.image_skips)

    def fusions_at(self, depth: int) -> list[str]:
        """The fusions that differ at this depth: `backward` of one block is `none`."""
        return list(dict.fromkeys("none" if f == "backward" and depth == 1 else f for f in self.fusions))

    def upsampler_pairs(self) -> list[tuple[str, int]]:
        """All (upsampler, width) that differ."""
        return [
            (upsampler, width)
            for upsampler in self.upsamplers
            for width in (self.upsampler_widths if UPSAMPLERS[upsampler].WIDTH_STEP else (0,))
        ]

    def __contains__(self, architecture: object) -> bool:
        if not isinstance(architecture, Architecture):
            return False
        a = architecture.canonical()
        return (
            a.width in self.widths
            and len(a.blocks) in self.depths
            and all(any(choices.holds(block) for choices in self.blocks) for block in a.blocks)
            and a.fusion in self.fusions_at(len(a.blocks))
            and (a.upsampler, a.upsampler_width) in self.upsampler_pairs()
            and a.image_skip in self.image_skips
            and a.frame == self.frame
        )

    # ---- the genome: fixed length, every gene always there

    def genes(self) -> dict[str, tuple[Choice, ...]]:
        """Name and options of every gene; those with a single option are left out, they are no choice."""
        return dict(self._genes)

    @cached_property
    def _genes(self) -> Mapping[str, tuple[Choice, ...]]:
        genes: dict[str, tuple[Choice, ...]] = {
            "width": self.widths,
            "depth": self.depths,
            "fusion": self.fusions,
            "upsampler": self.upsamplers,
            "upsampler_width": self.upsampler_widths,
            "image_skip": self.image_skips,
        }
        for position in range(self.depths[-1]):
            genes[f"block{position}.type"] = tuple(block.type for block in self.blocks)
            genes.update({f"block{position}.{gene}": options for gene, options in self._shared_genes.items()})
        return {name: options for name, options in genes.items() if len(options) > 1}

    @cached_property
    def _shared_genes(self) -> dict[str, tuple[Choice, ...]]:
        """For each gene of a position, the values any block type gives it."""
        genes: dict[str, dict[Choice, None]] = {}
        for block in self.blocks:
            for name, values in block.choices:
                genes.setdefault(gene_of(name), {}).update(dict.fromkeys(values))
        return {gene: tuple(options) for gene, options in genes.items()}

    def decode(self, genome: Mapping[str, Any]) -> Architecture:
        """The canonical architecture of a genome; genes it does not use are ignored, single options filled in."""

        def gene(name: str, options: tuple[Any, ...]) -> Any:
            return genome.get(name, options[0])

        depth = gene("depth", self.depths)
        upsampler_width = gene("upsampler_width", self.upsampler_widths) if self.upsampler_widths else 0
        return Architecture(
            width=gene("width", self.widths),
            blocks=tuple(self._decode_block(genome, position) for position in range(depth)),
            fusion=gene("fusion", self.fusions),
            upsampler=gene("upsampler", self.upsamplers),
            upsampler_width=upsampler_width,
            image_skip=gene("image_skip", self.image_skips),
            frame=self.frame,
        ).canonical()

    def _decode_block(self, genome: Mapping[str, Any], position: int) -> Block:
        by_type = {block.type: block for block in self.blocks}
        block = by_type[genome.get(f"block{position}.type", self.blocks[0].type)]
        choices = []
        for name, values in block.choices:
            options = self._shared_genes[gene_of(name)]
            value = genome.get(f"block{position}.{gene_of(name)}", options[0])
            # A value that only another block type knows stands for one of this type's own.
            choices.append((name, value if value in values else values[options.index(value) % len(values)]))
        return Block(block.type, tuple(choices))

    def encode(self, architecture: Architecture) -> Genome:
        """A genome that decodes to `architecture`; unused genes take their first option. InputError if not inside."""
        used = self.used_genes(architecture)
        return {name: used.get(name, options[0]) for name, options in self._genes.items()}

    def used_genes(self, architecture: Architecture) -> Genome:
        """The genes that say something of `architecture`: none of blocks that it lacks. InputError if not inside."""
        a = architecture.canonical()
        if a not in self:
            raise InputError(f"the architecture {a.hash} does not lie in the space: {a.summary()}")
        genome: Genome = {
            "width": a.width,
            "depth": len(a.blocks),
            "fusion": self._spelled(a).fusion,
            "upsampler": a.upsampler,
            "image_skip": a.image_skip,
        }
        if a.upsampler_width:
            genome["upsampler_width"] = a.upsampler_width
        for position, block in enumerate(a.blocks):
            genome[f"block{position}.type"] = block.type
            genome.update({f"block{position}.{gene_of(name)}": value for name, value in block.choices})
        return {name: value for name, value in genome.items() if name in self._genes}

    def _spelled(self, a: Architecture) -> Architecture:
        """`a` in the space's own words: where only `backward` is allowed, the canonical `none` of one block is that."""
        return a if a.fusion in self.fusions or len(a.blocks) > 1 else replace(a, fusion="backward")

    # ---- draws

    def sample(self, random: Random, only_type: str | None = None) -> Architecture:
        """A random architecture, each part uniform; all its blocks of one type where `only_type` names it."""
        if only_type is not None:
            member("block in the space", only_type, [block.type for block in self.blocks])
        pool = [block for block in self.blocks if only_type in (None, block.type)]
        upsampler, upsampler_width = random.choice(self.upsampler_pairs())
        return Architecture(
            width=random.choice(self.widths),
            blocks=tuple(random.choice(pool).sample(random) for _ in range(random.choice(self.depths))),
            fusion=random.choice(self.fusions),
            upsampler=upsampler,
            upsampler_width=upsampler_width,
            image_skip=random.choice(self.image_skips),
            frame=self.frame,
        ).canonical()

    def mutate(self, architecture: Architecture, random: Random) -> tuple[Architecture, str]:
        """A neighbour of `architecture` in the space, and what was changed, in words; itself where none is found."""
        old = architecture.canonical()
        spelled = self._spelled(old)
        # In the order of weighted draws without replacement (Efraimidis and Spirakis 2006).
        kinds = sorted(MUTATIONS, key=lambda kind: random.random() ** (1 / MUTATIONS[kind][0]), reverse=True)
        for kind in kinds:
            for _ in range(TRIES):
                changed = MUTATIONS[kind][1](self, spelled, random)
                if changed is not None and changed.canonical() != old and changed in self:
                    return changed.canonical(), kind
        return architecture, "nothing"

    def cross(self, first: Architecture, second: Architecture, random: Random) -> Architecture:
        """The head of one and the tail of the other, cut at one relative place; every other part from either.

        Both must lie in the space; then so does the child, which may equal one of them.
        """
        first, second = self._spelled(first.canonical()), self._spelled(second.canonical())
        cut = random.random()
        blocks = first.blocks[: round(cut * len(first.blocks))] + second.blocks[round(cut * len(second.blocks)) :]
        depth = min(self.depths, key=lambda d: abs(d - len(blocks)))
        filler = first.blocks + second.blocks
        while len(blocks) < depth:
            blocks += (random.choice(filler),)
        one = random.choice((first, second))
        return Architecture(
            width=random.choice((first, second)).width,
            blocks=blocks[:depth],
            fusion=random.choice((first, second)).fusion,
            upsampler=one.upsampler,
            upsampler_width=one.upsampler_width,
            image_skip=random.choice((first, second)).image_skip,
            frame=self.frame,
        ).canonical()
