"""Slips in a search space and its blocks, each named in one line."""

from typing import Any

import pytest

from paretosr.spaces import BlockChoices, InputError, Space

SCPA = BlockChoices("scpa", (("kernel", ("3x3",)),))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"blocks": ()}, "blocks: at least one is needed"),
        ({"blocks": (SCPA, SCPA)}, "blocks: one of them stands twice"),
        ({"blocks": (SCPA, BlockChoices("scpa"))}, "a block type stands twice; put its choices together"),
        ({"widths": ()}, "widths: at least one is needed"),
        ({"widths": (8, 8)}, "widths: one of them stands twice"),
        ({"widths": (2,)}, "width must be a whole number from 4 to 1024, not 2"),
        ({"depths": (0, 2)}, "depths: each must be a whole number from 1 to 64, not 0"),
        ({"depths": (65,)}, "not 65"),
        ({"fusions": ("concatt",)}, "no fusion 'concatt'; did you mean 'concat'?"),
        ({"image_skips": ("cubic",)}, "no image_skip 'cubic'; did you mean 'bicubic'?"),
        ({"upsamplers": ("directt",)}, "no upsampler 'directt'; did you mean 'direct'?"),
        ({"upsamplers": ("two_step",)}, "upsampler_widths: 'two_step' needs at least one"),
        ({"upsamplers": ("two_step",), "upsampler_widths": (8, 8)}, "upsampler_widths: one of them stands twice"),
        ({"upsamplers": ("light_two_step",), "upsampler_widths": (7,)}, "must be a multiple of 2, not 7"),
    ],
)
def test_a_slip_in_a_space_is_named(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Space(**{"blocks": (SCPA,), "widths": (8,), "depths": (1,), **parts})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("type_", "choices", "said"),
    [
        ("imbd", (), "no block 'imbd'; did you mean 'imdb'?"),
        ("imdb", (("attentoin", ("cca",)),), "no choice of block 'imdb' 'attentoin'; did you mean 'attention'?"),
        ("imdb", (("attention", ("cc",)),), "no attention of block 'imdb' 'cc'; did you mean 'cca'?"),
        ("imdb", (("attention", ()),), "attention of block 'imdb' needs at least one value"),
    ],
)
def test_a_slip_in_a_block_is_named(type_: str, choices: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        BlockChoices(type_, choices)
    assert said in str(caught.value)
