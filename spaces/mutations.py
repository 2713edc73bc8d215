"""The single changes by which a search moves from an architecture to its neighbours.

A mutation takes the space, an architecture in it and a seeded `random.Random`, and gives a changed architecture, which
may lie outside (`Space.mutate` then asks again), or None where it does not apply. A new one: write it, name it in
`MUTATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from .architecture import Architecture, Block

if TYPE_CHECKING:
    from .space import Space


def _with_block(a: Architecture, position: int, block: Block) -> Architecture:
    return replace(a, blocks=(*a.blocks[:position], block, *a.blocks[position + 1 :]))


def _change_choice(space: Space, a: Architecture, random: Random) -> Architecture | None:
    position = random.randrange(len(a.blocks))
    block = a.blocks[position]
    pool = next((c for c in space.blocks if c.type == block.type), None)
    free = [(name, values) for name, values in pool.choices if len(values) > 1] if pool else []
    if not free:
        return None
    name, values = random.choice(free)
    chosen = random.choice([value for value in values if value != dict(block.choices)[name]])
    return _with_block(a, position, Block(block.type, tuple({**dict(block.choices), name: chosen}.items())))


def _swap_type(space: Space, a: Architecture, random: Random) -> Architecture | None:
    position = random.randrange(len(a.blocks))
    others = [choices for choices in space.blocks if choices.type != a.blocks[position].type]
    return _with_block(a, position, random.choice(others).sample(random)) if others else None


def _insert(space: Space, a: Architecture, random: Random) -> Architecture | None:
    """Grows to the next depth of the space; half of the new blocks are copies of their neighbours."""
    deeper = [depth for depth in space.depths if depth > len(a.blocks)]
    if not deeper:
        return None
    blocks = list(a.blocks)
    while len(blocks) < deeper[0]:
        place = random.randrange(len(blocks) + 1)
        copied = blocks[min(place, len(blocks) - 1)]
        blocks.insert(place, copied if random.random() < 0.5 else random.choice(space.blocks).sample(random))
    return replace(a, blocks=tuple(blocks))


def _delete(space: Space, a: Architecture, random: Random) -> Architecture | None:
    """Shrinks to the next depth of the space."""
    shallower = [depth for depth in space.depths if depth < len(a.blocks)]
    if not shallower:
        return None
    kept = sorted(random.sample(range(len(a.blocks)), shallower[-1]))
    return replace(a, blocks=tuple(a.blocks[position] for position in kept))


def _change_width(space: Space, a: Architecture, random: Random) -> Architecture | None:
    """To the next narrower or wider one."""
    narrower = [width for width in space.widths if width < a.width]
    wider = [width for width in space.widths if width > a.width]
    near = narrower[-1:] + wider[:1]
    return replace(a, width=random.choice(near)) if near else None


def _replace_type(space: Space, a: Architecture, random: Random) -> Architecture | None:
    old = random.choice(a.blocks).type
    others = [choices for choices in space.blocks if choices.type != old]
    if not others:
        return None
    new = random.choice(others).sample(random)
    return replace(a, blocks=tuple(new if block.type == old else block for block in a.blocks))


def _move(space: Space, a: Architecture, random: Random) -> Architecture | None:
    blocks = list(a.blocks)
    block = blocks.pop(random.randrange(len(blocks)))
    blocks.insert(random.randrange(len(blocks) + 1), block)
    return replace(a, blocks=tuple(blocks))


def _change_fusion(space: Space, a: Architecture, random: Random) -> Architecture | None:
    return replace(a, fusion=random.choice(space.fusions))


def _change_upsampler(space: Space, a: Architecture, random: Random) -> Architecture | None:
    upsampler, width = random.choice(space.upsampler_pairs())
    return replace(a, upsampler=upsampler, upsampler_width=width)


def _change_image_skip(space: Space, a: Architecture, random: Random) -> Architecture | None:
    return replace(a, image_skip=random.choice(space.image_skips))


# Name: (weight, change). The weights are those of the prototype that came out best on a synthetic landscape.
MUTATIONS: dict[str, tuple[float, Callable[[Space, Architecture, Random], Architecture | None]]] = {
    "change a choice": (0.20, _change_choice),
    "swap a type": (0.16, _swap_type),
    "insert a block": (0.14, _insert),
    "delete a block": (0.14, _delete),
    "change the width": (0.12, _change_width),
    "replace a type": (0.08, _replace_type),
    "move a block": (0.06, _move),
    "change the fusion": (0.05, _change_fusion),
    "change the upsampler": (0.05, _change_upsampler),
    "change the image skip": (0.03, _change_image_skip),
}
