"""Recipes: the shipped ones, what a value may be, what does not go together, the schema, and the page on them."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml

from paretosr.proxies.complexity import complexity
from paretosr.runs.recipe import Recipe
from paretosr.runs.recipe_checks import check_device, why_outside
from paretosr.runs.recipe_docs import page
from paretosr.runs.recipe_file import parse_recipe, read_recipe, recipe_names, recipe_schema
from paretosr.runs.recipe_schema import node_at, wanted
from paretosr.runs.recipe_yaml import plain
from paretosr.search.objectives import OBJECTIVES, Limit, broken
from paretosr.search.samplers import SAMPLERS
from paretosr.search.verdict import RANKED_BY, WinnerRule
from paretosr.spaces import (
    BLOCKS,
    BUILDABLE,
    Frame,
    InputError,
    Space,
    published,
    published_architecture,
)

REPOSITORY = Path(__file__).resolve().parents[1]
LEAST = {"space": {"blocks": ["imdb"], "widths": [16], "depths": [2]}}


def recipe(**parts) -> Recipe:
    return parse_recipe({**LEAST, **parts}, "my.yaml")


def refusal(text: str) -> str:
    """What is said of the least recipe with this YAML in it; keys of its space are put beside those that are there."""
    given = plain(text)
    if isinstance(given.get("space"), dict):
        given["space"] = {**LEAST["space"], **given["space"]}
    with pytest.raises(InputError) as caught:
        recipe(**given)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix("my.yaml: ")


# ---- the shipped recipes


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_reads_and_its_parts_can_be_made(name):
    shipped = read_recipe(name)
    assert shipped.description
    assert shipped.make_protocol().size == shipped.latency.size
    assert isinstance(shipped.make_winner(), WinnerRule)
    assert all(isinstance(limit, Limit) for limit in shipped.make_limits())
    assert parse_recipe(shipped.model_dump(mode="json"), "run.json") == shipped


@pytest.mark.parametrize("name", [name for name in recipe_names() if read_recipe(name).space])
def test_a_shipped_space_holds_networks_that_keep_the_limits_on_counts(name):
    shipped = read_recipe(name)
    space = shipped.make_space()
    assert space is not None
    draws = random.Random(0)
    counts = [complexity(space.sample(draws)).numbers() for _ in range(20)]
    assert sum(broken(shipped.make_limits(), numbers) is None for numbers in counts) >= 4


def test_the_shipped_recipes_are_for_what_they_say():
    assert {"quick", "div2k", "full"} <= set(recipe_names())
    full = read_recipe("full")
    assert full.space is None
    assert full.network is None
    assert "data" not in full.model_fields_set, "the images of the full training are the run's"
    assert read_recipe("quick").data.source == "embedded"


def test_what_the_div2k_recipe_says_of_published_networks_holds():
    space = read_recipe("div2k").make_space()
    assert space is not None
    inside = {name for name in BUILDABLE if not list(why_outside(space, published(name).architecture))}
    assert inside & {"imdn", "imdn_paper", "rfdn", "pan", "latticenet", "msrresnet"} == {"imdn", "imdn_paper"}
    framed = read_recipe("div2k", ["space.widths=[50]", "space.frame.value_range=255", "search.seeded_with=[rfdn]"])
    assert published_architecture("rfdn") in (framed.make_space() or ())


def test_a_recipe_gives_the_objects_of_the_floors_below():
    given = recipe(
        space={
            "blocks": ["rfdb", {"imdb": {"distilled": [0.25], "attention": ["cca", "none"]}}],
            "widths": [24, 16],
            "depths": [1],
        },
        limits={"activations_m": "<= 150"},
        winner={"fastest": {"psnr_db": ">= 29.0"}},
        latency={"size": [32, 48], "precision": "bf16", "cudnn_benchmark": False},
    )
    space = given.make_space()
    assert isinstance(space, Space)
    assert [(block.type, block.count) for block in space.blocks] == [("rfdb", 2 * 2 * 4), ("imdb", 2 * 2)]
    assert (space.widths, space.frame) == ((16, 24), Frame())
    assert given.make_limits() == (Limit("activations_m", "<=", 150),)
    assert given.make_winner() == WinnerRule("fastest", Limit("psnr_db", ">=", 29))
    assert given.make_protocol().label() == (
        "steady, bf16, NCHW, eager, batch 1 of 3x32x48, 1 CPU thread, cuDNN benchmark off"
    )


def test_a_number_of_a_block_is_the_blocks_own():
    given = recipe(space={**LEAST["space"], "blocks": [{"inverted_residual": {"expansion": [3.0]}}]})
    (value,) = given.model_dump()["space"]["blocks"][0]["inverted_residual"]["expansion"]
    assert (value, type(value)) == (3, int)


def test_every_winner_rule_of_the_search_can_be_asked_for():
    for rule in RANKED_BY:
        assert recipe(winner={rule: {"psnr_db": ">= 20"}}).make_winner().name == rule


# ---- what a value may be

WRONG_VALUES = {
    "serach: {}": "no key 'serach'; did you mean 'search'? (known: confirm, ",
    "train: {stepz: 3}": "train: no key 'stepz'; did you mean 'steps'? (known: ",
    "space: {frame: {headdepth: 3}}": "space.frame: no key 'headdepth'; did you mean 'head_depth'? (known: ",
    "batch: 3": "no key 'batch'; did you mean 'train.batch' or 'latency.batch'?",
    "search: {limits: {}}": "search: no key 'limits'; did you mean 'limits' at the top level?",
    "confirm: {seed: 1}": "confirm: no key 'seed'; did you mean 'confirm.seeds' or 'seed' at the top level?",
    "foo: 1\nbar: 2": "no key 'foo'; known: confirm, ",
    "space: 5": "space: must be a mapping of keys (blocks, widths, ",
    "search:": "; leave the key out, or give it keys",
    "report: title": "report: must be a mapping of keys (title, tensorboard), not 'title'",
    "description: 5": "description: must be text, not 5; put it in quotes",
    "seed: -1": "seed: must be a whole number of at least 0, not -1",
    "seed: true": "seed: must be a whole number of at least 0, not true",
    "seed: '1'": "seed: must be a whole number of at least 0, not '1'; write it without quotes",
    "seed:": "seed: must be a whole number of at least 0, not nothing",
    "device: gpu": "device: no device 'gpu'; did you mean 'cpu'? (known: auto, cpu, cuda, cuda:0)",
    "device: 0": "device: must be auto, cpu, cuda or cuda:0, not 0",
    "search: {candidates: 0}": "search.candidates: must be a whole number of at least 1, not 0",
    "search: {candidates: -50}": "search.candidates: must be a whole number of at least 1, not -50",
    "search: {candidates: 2.5}": "search.candidates: must be a whole number of at least 1, not 2.5",
    "search: {candidates: 1e3}": "search.candidates: must be a whole number of at least 1, not 1000.0; write 1000",
    "search: {candidates: [5]}": "search.candidates: must be a whole number of at least 1, not [5]",
    "search: {minutes: 0}": "search.minutes: must be a number above 0, not 0",
    "search: {minutes: .inf}": "search.minutes: must be a number above 0, not Infinity",
    "search: {minutes: 1e400}": "search.minutes: must be a number above 0, not Infinity",
    "search: {minutes: .nan}": "search.minutes: must be a number above 0, not NaN",
    "search: {minutes: 4:30}": "search.minutes: must be a number above 0, not '4:30'",
    "search: {workers: 1000000}": "search.workers: must be a whole number from 1 to 256, not 1000000",
    "search: {sampler: evolutoin}": "search.sampler: no sampler 'evolutoin'; did you mean 'evolution'? (known: ",
    "search: {seeded_with: [imdm]}": "search.seeded_with[0]: no system 'imdm'; did you mean 'imdn'? (known: ",
    "reference: zzz": "reference: no system 'zzz'; known: ",
    "reference: [imdn]": "reference: must be one of msrresnet, ",
    "objectives: []": "objectives: must not be empty",
    "objectives: psnr_db": "not 'psnr_db'; write [psnr_db]",
    "objectives: [psnr]": "objectives[0]: no objective 'psnr'; did you mean 'psnr_db'? (known: ",
    "objectives: [psnr_db, psnr_db]": "objectives: 'psnr_db' stands twice",
    "limits: {psnr: '>= 29'}": "limits: no number to limit 'psnr'; did you mean 'psnr_db'? (known: ",
    "limits: {macs_g: 150}": "limits.macs_g: must be a condition like '<= 150' or '>= 29.0', not 150",
    "limits: {macs_g: '< 150'}": "limits.macs_g: must be a condition like '<= 150' or '>= 29.0', not '< 150'",
    "limits: {macs_g: '<= inf'}": "limits.macs_g: must be a condition like '<= 150' or '>= 29.0', not '<= inf'",
    "limits: {macs_g: '<= 1e999'}": "limits.macs_g: must be a condition like '<= 150' or '>= 29.0', not '<= 1e999'",
    "limits: {macs_g: '<= -5'}": "limits.macs_g: must compare with a number above 0, as every measured number is, ",
    "limits: ['<= 150']": "limits: must be a mapping like {activations_m: '<= 150'}, not [\"<= 150\"]",
    "winner: kneee": "winner: no rule 'kneee'; did you mean 'knee'? (known: best_psnr, fastest, knee)",
    "winner: fastest": "winner: fastest needs a condition, like {psnr_db: '>= 29.0'}",
    "winner: {knee: {}}": "winner: knee takes no condition: write winner: knee",
    "winner: {best_psnr: {latency: '<= 1'}}": "winner.best_psnr: no number 'latency'; did you mean 'latency_ms'? ",
    "winner: {fastest: {psnr_db: 29}}": "winner.fastest.psnr_db: must be a condition like '<= 150' or ",
    "winner: {fastest: {}}": "winner.fastest: must be one condition, like {psnr_db: '>= 29.0'}, not {}",
    "winner: 3": "winner: must be one of knee, fastest, best_psnr, the last two with a condition, not 3",
    "train: {steps: 600.5}": "train.steps: must be a whole number of at least 1, not 600.5",
    "train: {patch: 100000}": "train.patch: must be a whole number from 8 to 1024, not 100000",
    "train: {learning_rate: 5e4}": "train.learning_rate: must be a number above 0 and of at most 1, not 50000.0",
    "train: {learning_rate: fast}": "train.learning_rate: must be a number above 0 and of at most 1, not 'fast'",
    "train: {schedule: cosin}": "train.schedule: no schedule 'cosin'; did you mean 'cosine'? (known: ",
    "train: {fit: yes}": "train.fit: must be true or false, not 'yes'; write true",
    "train: {loss: l3}": "train.loss: no loss 'l3'; known: ",
    "train: {ema: 1}": "train.ema: must be a number above 0 and below 1, not 1",
    "train: {schedule: milestones, milestones: [200000]}": (
        "train.milestones[0]: must be a share of the steps, above 0 and below 1, not 200000"
    ),
    "latency: {size: [64]}": "latency.size: must be two whole numbers, [height, width], not [64]",
    "latency: {size: 64}": "latency.size: must be two whole numbers, [height, width], not 64",
    "latency: {size: [64, 64, 3]}": "latency.size: must be two whole numbers, [height, width], not [64, 64, 3]",
    "latency: {size: [64, -1]}": "latency.size: both must lie between 8 and 4096 LR pixels, not [64, -1]",
    "latency: {precision: fp8}": "latency.precision: no precision 'fp8'; known: bf16, fp16, fp32, tf32",
    "latency: {rounds: 2}": "latency.rounds: must be a whole number from 5 to 10000, not 2",
    "latency: {warmup_s: 0}": "latency.warmup_s: must be a number above 0 and of at most 600, not 0",
    "confirm: {seeds: -1}": "confirm.seeds: must be a whole number from 0 to 100, not -1",
    "data: {source: ''}": "data.source: must not be empty",
    "data: {source: 5}": "data.source: must be embedded, or a path, not 5; put it in quotes",
    "data: {border: mirror}": "data.border: no border 'mirror'; known: edge, symmetric",
    "data: {held_out: 0}": "data.held_out: must be a whole number of at least 1, not 0",
}

WRONG_SPACES = {
    "blocks: []": "blocks: must not be empty",
    "blocks: imdb": "blocks: must be a list, each item a block, not 'imdb'; write [imdb]",
    "blocks: {imdb: {}}": 'blocks: must be a list, each item a block, not {"imdb": {}}',
    "blocks: [imdb, rfdb, imbd]": "blocks[2]: no block 'imbd'; did you mean 'imdb'? (known: ",
    "blocks: [imdb, 5]": "blocks[1]: must be a block, like imdb or imdb: {attention: [cca]}, not 5",
    "blocks: [imdb, {imdb: {kernel: [3x3]}}]": "blocks: 'imdb' stands twice; put its choices together in one item",
    "blocks: [{imdb: , attention: [cca]}]": (
        "blocks[0]: one item is one block, and here are 2 keys (imdb, attention); indent choices more"
    ),
    "blocks: [{imdb: cca}]": "blocks[0].imdb: must hold choices, like {distilled: [0.25]}, not 'cca'",
    "blocks: [{imdb: {atention: [cca]}}]": "blocks[0].imdb: no choice 'atention'; did you mean 'attention'? (known: ",
    "blocks: [{imdb: {attention: cca}}]": "blocks[0].imdb.attention: must be a list, like [none, cca, ",
    "blocks: [{imdb: {attention: []}}]": "blocks[0].imdb.attention: needs at least one of none, cca, ",
    "blocks: [{imdb: {attention: [ccca]}}]": "blocks[0].imdb.attention[0]: no attention 'ccca'; did you mean 'cca'? (",
    "blocks: [{imdb: {attention: [pa, pa]}}]": "blocks[0].imdb.attention: 'pa' stands twice",
    "blocks: [{imdb: {distilled: ['0.25']}}]": "blocks[0].imdb.distilled[0]: must be one of 0.25, 0.5, not '0.25'",
    "blocks: [{mobilenetv3: {expansion: [4]}}]": "blocks[0].mobilenetv3.expansion[0]: must be one of 3, 6, not 4",
    "widths: []": "widths: must not be empty",
    "widths: 16": "widths: must be a list, each item a whole number from 4 to 1024, not 16; write [16]",
    "widths: 16-32": "widths: must be a list, each item a whole number from 4 to 1024, not '16-32'",
    "widths: [2]": "widths[0]: must be a whole number from 4 to 1024, not 2",
    "widths: [16, -8]": "widths[1]: must be a whole number from 4 to 1024, not -8",
    "widths: [16.0]": "widths[0]: must be a whole number from 4 to 1024, not 16.0; write 16",
    "widths: [16, 16]": "widths: 16 stands twice",
    "depths: [1000000]": "depths[0]: must be a whole number from 1 to 64, not 1000000",
    "fusion: [concatt]": "fusion[0]: no fusion 'concatt'; did you mean 'concat'? (known: ",
    "upsampler: [nearest]": "upsampler[0]: no upsampler 'nearest'; did you mean 'nearest_pa'? (known: ",
    "upsampler: [nearest_pa]": "upsampler_width: the upsampler 'nearest_pa' needs at least one width, like [16]",
    "{upsampler: [light_two_step], upsampler_width: [16, 7]}": (
        "upsampler_width[1]: must be a multiple of 2 for 'light_two_step', not 7"
    ),
    "image_skip: [cubic]": "image_skip[0]: no image_skip 'cubic'; did you mean 'bicubic'? (known: ",
    "frame: {slope: 1}": "frame.slope: must be a number of at least 0 and below 1, not 1",
    "frame: {body_conv: no}": "frame.body_conv: no body_conv 'no'; did you mean 'none'? (known: ",
    "frame: {value_range: 2}": "frame.value_range: must be one of 1, 255, not 2",
}


@pytest.mark.parametrize(("text", "said"), WRONG_VALUES.items())
def test_a_wrong_value_is_one_line(text, said):
    assert said in refusal(text)


@pytest.mark.parametrize(("text", "said"), WRONG_SPACES.items())
def test_a_wrong_space_is_one_line(text, said):
    message = refusal("space:\n  " + text if not text.startswith("{") else f"space: {text}")
    assert message.startswith(f"space.{said}")


def test_what_is_missing_is_named_and_more_mistakes_are_counted():
    with pytest.raises(InputError) as caught:
        parse_recipe({"space": {}}, "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: space.blocks: is missing; it must be a list, each item a block")
    assert message.endswith(" (and 2 more mistakes)")


@pytest.mark.parametrize("raw", [None, [], 5, {5: 3}])
def test_what_is_no_recipe_at_all_is_refused(raw):
    with pytest.raises(InputError, match=r"^run\.json: [^\n]+$"):
        parse_recipe(raw, "run.json")


# ---- what does not go together

IMPOSSIBLE = {
    "network: a.json": "network: stands beside 'space'; a recipe searches a space or trains one network, not both",
    "data: {source: a, validation: a}": "data.validation: is the same as data.source, and networks must not be ",
    "data: {source: a, validation: b, held_out: 3}": "data.held_out: says how many images of data.source to hold out, ",
    "data: {held_out: 3}": "data.held_out: is for folders; of the embedded photos always the same two are held out",
    "search: {seeded_with: [imdn]}": (
        "search.seeded_with[0]: 'imdn' does not lie in the space: space.widths lacks 64, space.depths lacks 8"
    ),
    "search: {steps: 5}": "search.steps: 5 are fewer than one network takes (train.steps: 20000)",
    "train: {gpus: 3}": "train.gpus: a batch of 16 (train.batch) cannot be shared evenly by 3",
    "train: {gpus: 2, gpu_share: 0.5}": "train.gpus: several whole GPUs, beside train.gpu_share, a part of one",
    "train: {gpus: 2}\ndevice: cpu": "train.gpus: 2 GPUs are to share a training, and device is cpu",
    "search: {halving: {rungs: 4}}\ntrain: {steps: 20}": "search.halving: of 4 rungs with eta 3 the first would be ",
    "search: {halving: {}}\nobjectives: [activations_m]": "search.halving: promotes by PSNR beside the other ",
    "train: {fit: true}": "train.fit: fits the steps into search.minutes, which are not given",
    "train: {schedule: milestones}": "train.milestones: the schedule 'milestones' needs at least one, like [0.5, 0.8]",
    "train: {milestones: [0.5]}": "train.milestones: has no effect with the schedule 'cosine'; leave one of them out",
    "train: {schedule: milestones, milestones: [0.8, 0.5]}": "train.milestones: must rise from one to the next, ",
    "latency: {rounds: 20, max_rounds: 10}": "latency.max_rounds: 10 are fewer than latency.rounds (20)",
    "{device: cpu, latency: {execution: graph}}": (
        "latency.execution: 'graph' replays a CUDA graph, and device is cpu; take eager or compiled"
    ),
    "{device: cpu, latency: {precision: tf32}}": "latency.precision: 'tf32' exists on GPUs only, and device is cpu; ",
    "{device: cpu, objectives: [psnr_db, memory_mb]}": "objectives[1]: 'memory_mb' is measured on GPUs only, and ",
    "{device: cpu, limits: {memory_mb: '<= 9'}}": "limits: 'memory_mb' is measured on GPUs only, and device is cpu",
    "{objectives: [activations_m], winner: {fastest: {psnr_db: '>= 29'}}}": (
        "winner: needs 'psnr_db', which is not measured; add it to objectives or limits"
    ),
    "{objectives: [latency_ms], winner: {best_psnr: {latency_ms: '<= 9'}}}": "winner: needs 'psnr_db', which is not ",
    "{space: {blocks: [rfdb]}, train: {patch: 10}}": "train.patch: rfdb needs at least 15 pixels a side, not 10",
    "{space: {blocks: [rfdb]}, latency: {size: [64, 8]}}": "latency.size: rfdb needs at least 15 pixels a side, not 8",
    "{reference: rfdn, space: {blocks: [scpa]}, latency: {size: [8, 8]}}": (
        "latency.size: the reference rfdn needs at least 15 pixels a side, not 8"
    ),
}


@pytest.mark.parametrize(("text", "said"), IMPOSSIBLE.items())
def test_an_impossible_combination_is_one_line(text, said):
    assert refusal(text).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "{device: cuda, latency: {execution: graph, precision: tf32}, objectives: [memory_mb]}",
        "{space: {blocks: [{rfdb: {attention: [none]}}]}, train: {patch: 10}}",
        "{objectives: [psnr_db], space: {blocks: [rfdb]}, latency: {size: [8, 8]}}",
        "{search: {candidates: 4, at_least: 16, minutes: 1}}",
        "{search: {minutes: 1, steps: 5}, train: {fit: true}}",
        "{data: {source: a, validation: embedded}}",
        "{limits: {psnr_db: '>= 26'}, objectives: [activations_m], winner: {best_psnr: {macs_g: '<= 9'}}}",
    ],
)
def test_what_goes_together_is_taken(text):
    given = plain(text)
    assert recipe(**{**given, "space": {**LEAST["space"], **given.get("space", {})}})


def test_a_device_found_later_is_held_to_the_same():
    auto = recipe(latency={"execution": "graph"})
    check_device(auto, "cuda")
    with pytest.raises(InputError, match=r"^latency\.execution: 'graph' .* this machine shows no GPU to torch"):
        check_device(auto, "cpu")


# ---- the schema and the page


def test_the_schema_knows_every_name_and_describes_every_key():
    schema = recipe_schema()
    json.dumps(schema)
    objectives = schema["properties"]["objectives"]["items"]["enum"]
    assert objectives == list(OBJECTIVES) == list(schema["properties"]["limits"]["properties"])
    alone, chosen = schema["$defs"]["SpacePart"]["properties"]["blocks"]["items"]["anyOf"]
    assert alone["enum"] == list(chosen["properties"]) == list(BLOCKS)
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        assert part["additionalProperties"] is False
        for key, node in part["properties"].items():
            assert "$ref" in node or "anyOf" in node or "description" in node, key


def test_a_schema_node_says_what_it_wants():
    said = {
        ("train", "steps"): "a whole number of at least 1",
        ("space", "widths", 0): "a whole number from 4 to 1024",
        ("space", "frame", "slope"): "a number of at least 0 and below 1",
        ("search", "minutes"): "a number above 0",
        ("train", "fit"): "true or false",
        ("confirm",): "a mapping of keys (seeds)",
    }
    for location, words in said.items():
        node = node_at(location)
        assert node is not None
        assert wanted(node) == words
    assert node_at(("train", "foo", "bar")) is None


def test_the_page_on_recipes_is_current():
    written = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    # A new block, number, sampler or system may be missing there; nothing else may differ.
    due = [line for line in page().splitlines() if line in written or not is_new_member(line, written)]
    assert written.splitlines() == due, "run: python -m paretosr.runs.recipe_docs docs/recipes.md"


def is_new_member(line: str, written: str) -> bool:
    name = re.match(r"[|*] `(\w+)`", line)
    return bool(name) and name[1] in {*BLOCKS, *OBJECTIVES, *SAMPLERS, *BUILDABLE} and f"`{name[1]}`" not in written


def test_the_example_on_the_page_reads():
    example = page().partition("```yaml\n")[2].partition("```")[0]
    assert parse_recipe(yaml.safe_load(example), "example").make_space()
