"""What an architecture says of itself: JSON both ways, strict errors, one form and one hash per graph."""

import dataclasses
import json
import pickle
from typing import Any

import pytest

from paretosr.spaces import (
    SYSTEMS,
    Architecture,
    Block,
    Design,
    Frame,
    InputError,
    build,
    published_architecture,
    unknown,
)

RICH = Architecture(
    width=24,
    blocks=(Block.of("imdb", attention="cca"), Block.of("inverted_residual", expansion=6), Block.of("rfdb")),
    fusion="concat",
    upsampler="light_two_step",
    upsampler_width=16,
    image_skip="bilinear",
    frame=Frame(head_depth=2, body_conv="after_skip", slope=0.1, mean_shift=True, value_range=255),
)
ONE = Architecture(16, (Block("scpa"),))


def error_of(data: Any) -> str:
    with pytest.raises(InputError) as caught:
        Architecture.from_json(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


# JSON


PUBLISHED = [system.network for system in SYSTEMS.values() if isinstance(system.network, Architecture)]


@pytest.mark.parametrize("architecture", [RICH, ONE, *PUBLISHED])
def test_json_both_ways(architecture: Architecture) -> None:
    text = json.dumps(architecture.to_json())
    assert Architecture.from_json(json.loads(text)) == architecture
    design = Design(architecture)
    assert Design.from_json(json.loads(json.dumps(design.to_json()))) == design
    assert design.hash == architecture.hash
    assert design.summary() == architecture.summary()
    assert pickle.loads(pickle.dumps(architecture)) == architecture  # noqa: S301


def test_what_json_leaves_out_takes_its_plain_value() -> None:
    short = Architecture.from_json({"width": 16, "blocks": [{"type": "scpa"}]})
    assert short == ONE
    assert short.frame == Frame()
    assert dict(Block("imdb").choices) == {"distilled": 0.25, "kernel": "3x3", "attention": "none"}


def test_the_order_of_choices_does_not_matter() -> None:
    one = Block.of("imdb", attention="cca", distilled=0.5)
    other = Block.of("imdb", distilled=0.5, attention="cca")
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks": [{"type": "imbd"}]}, "architecture: blocks[0]: no block 'imbd'; did you mean 'imdb'?"),
        ({"blocks": [{"type": "scpa"}, {"type": "rfdb", "atention": "esa"}]}, "blocks[1]: no choice of block 'rfdb'"),
        ({"blocks": [{"type": "rfdb", "atention": "esa"}]}, "'atention'; did you mean 'attention'?"),
        ({"blocks": [{"type": "rfdb", "attention": "ess"}]}, "no attention of block 'rfdb' 'ess'; did you mean 'esa'?"),
        ({"blocks": [{"type": "imdb", "distilled": True}]}, "no distilled of block 'imdb' 'True'"),
        ({"blocks": [{"type": ["imdb"]}]}, "no block '['imdb']'"),
        ({"blocks": [{"type": "imdb", "kernel": {}}]}, "no kernel of block 'imdb' '{}'; known: 1x3+3x1, 3x3"),
        ({"blocks": ["imdb"]}, "blocks[0] must be a mapping with a 'type', not 'imdb'"),
        ({"blocks": [{"kernel": "3x3"}]}, "blocks[0] must be a mapping with a 'type'"),
        ({"blocks": "imdb"}, "blocks must be a list"),
        ({"blocks": []}, "needs at least one block"),
        ({"width": 3}, "width must be a whole number from 4 to 1024, not 3"),
        ({"width": 24.0}, "width must be a whole number from 4 to 1024, not 24.0"),
        ({"width": True}, "width must be a whole number"),
        ({"width": 1025}, "not 1025"),
        ({"widht": 24}, "architecture: no key 'widht'; did you mean 'width'?"),
        ({"fusion": "concatenate"}, "no fusion 'concatenate'; did you mean 'concat'?"),
        ({"upsampler": "two_steps"}, "no upsampler 'two_steps'; did you mean 'two_step'?"),
        ({"upsampler": "two_step", "upsampler_width": 0}, "upsampler_width must be a whole number from 1 to 1024"),
        ({"upsampler": "light_two_step", "upsampler_width": 7}, "must be a multiple of 2, not 7"),
        ({"upsampler_width": "wide"}, "upsampler_width must be a whole number from 0"),
        ({"image_skip": "bicubik"}, "no image_skip 'bicubik'; did you mean 'bicubic'?"),
        ({"frame": {"slop": 0.1}}, "frame: no key 'slop'; did you mean 'slope'?"),
        ({"frame": {"slope": 1}}, "frame.slope must be a number from 0 to below 1, not 1"),
        ({"frame": {"slope": float("nan")}}, "frame.slope must be a number"),
        ({"frame": {"slope": False}}, "frame.slope must be a number"),
        ({"frame": {"slope": "0.1"}}, "frame.slope must be a number"),
        ({"frame": {"value_range": 256}}, "no frame.value_range '256'; did you mean '255'?"),
        ({"frame": {"value_range": True}}, "no frame.value_range 'True'"),
        ({"frame": {"mean_shift": 1}}, "frame.mean_shift must be true or false, not 1"),
        ({"frame": {"body_conv": "after"}}, "no frame.body_conv 'after'"),
        ({"frame": {"head_depth": 0}}, "frame.head_depth must be a whole number from 1 to 4, not 0"),
        ({"frame": []}, "frame: must be a mapping, not list"),
        ({"frame": None}, "frame: must be a mapping, not NoneType"),
    ],
)
def test_a_slip_is_named(change: dict[str, Any], said: str) -> None:
    assert said in error_of({**ONE.to_json(), **change})


@pytest.mark.parametrize("data", [None, [], "imdb", 3])
def test_what_is_no_mapping_is_no_architecture(data: Any) -> None:
    assert error_of(data).startswith("architecture: must be a mapping")
    with pytest.raises(InputError, match="must be a mapping with the key 'architecture'"):
        Design.from_json(data)


def test_width_and_blocks_are_needed() -> None:
    assert error_of({"blocks": [{"type": "scpa"}]}) == "architecture: 'width' is missing"
    assert error_of({"width": 16}) == "architecture: blocks must be a list"


def test_a_design_is_strict_too() -> None:
    with pytest.raises(InputError, match="plan: the key 'architecture' is missing"):
        Design.from_json({"architecture": ONE.to_json(), "plan": {}})
    with pytest.raises(InputError, match="no key of a design 'plann'; did you mean 'plan'"):
        Design.from_json({"architecture": ONE.to_json(), "plann": None})


def test_unknown_names_what_was_meant() -> None:
    assert unknown("block", "imbd", ["rfdb", "imdb"]) == "no block 'imbd'; did you mean 'imdb'? (known: imdb, rfdb)"
    assert unknown("block", "xyz", ["rfdb", "imdb"]) == "no block 'xyz'; known: imdb, rfdb"


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ONE.width = 8  # type: ignore[misc]


# One form, one hash


def test_hashes_are_the_same_on_every_machine_and_in_every_version() -> None:
    """They name networks in records: a change here orphans every run there is."""
    assert ONE.hash == "b698244224b6"
    assert RICH.hash == "a087e93d027d"


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (dataclasses.replace(ONE, fusion="backward"), ONE),
        (dataclasses.replace(ONE, upsampler_width=32), ONE),
        (dataclasses.replace(ONE, frame=Frame(slope=0)), dataclasses.replace(ONE, frame=Frame(slope=0.0))),
        (
            dataclasses.replace(ONE, frame=Frame(body_conv="after_skip", feature_skip=False)),
            dataclasses.replace(ONE, frame=Frame(feature_skip=False)),
        ),
        (
            Architecture(16, (Block.of("inverted_residual", expansion=3.0),)),
            Architecture(16, (Block("inverted_residual"),)),
        ),
    ],
    ids=["backward of one", "unused upsampler width", "slope 0", "body convolution without a skip", "3.0 for 3"],
)
def test_choices_that_build_one_graph_are_one(written: Architecture, plain: Architecture) -> None:
    assert written.canonical() == plain
    assert written.hash == plain.hash
    mine, theirs = build(written, device="meta"), build(plain, device="meta")
    assert str(mine) == str(theirs)
    assert [tuple(p.shape) for p in mine.parameters()] == [tuple(p.shape) for p in theirs.parameters()]


@pytest.mark.parametrize("architecture", [RICH, ONE])
def test_the_form_is_final_and_building_follows_it(architecture: Architecture) -> None:
    assert architecture.canonical().canonical() == architecture.canonical()
    assert architecture.hash == architecture.canonical().hash
    assert len(architecture.hash) == 12
    assert int(architecture.hash, 16) >= 0


def test_what_changes_the_graph_changes_the_hash() -> None:
    different = [
        RICH,
        dataclasses.replace(RICH, width=32),
        dataclasses.replace(RICH, blocks=RICH.blocks[::-1]),
        dataclasses.replace(RICH, blocks=(Block.of("imdb"), *RICH.blocks[1:])),
        dataclasses.replace(RICH, fusion="none"),
        dataclasses.replace(RICH, fusion="backward"),
        dataclasses.replace(RICH, upsampler="two_step"),
        dataclasses.replace(RICH, upsampler_width=18),
        dataclasses.replace(RICH, image_skip="bicubic"),
        *(
            dataclasses.replace(RICH, frame=dataclasses.replace(RICH.frame, **{name: value}))
            for name, value in (
                ("head_depth", 1),
                ("head_activation", True),
                ("body_conv", "none"),
                ("feature_skip", False),
                ("slope", 0.2),
                ("mean_shift", False),
                ("value_range", 1),
            )
        ),
    ]
    assert len({architecture.hash for architecture in different}) == len(different)


# In words


def test_the_summary_is_one_line() -> None:
    assert ONE.summary() == "16 wide: scpa; direct"
    assert RICH.summary() == (
        "24 wide: imdb(cca), inverted_residual(expansion 6), rfdb; concat fusion; light_two_step 16; bilinear skip"
    )
    assert published_architecture("rfdn").summary() == "50 wide: 4 x rfdb; concat fusion; direct"
    assert dataclasses.replace(ONE, upsampler_width=32).summary() == ONE.summary()
