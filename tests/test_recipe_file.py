"""Recipe files: what is read, what is refused and how, `--set`, paths, recipes compared, and the network of one."""

import json
import os
from pathlib import Path

import pytest

from paretosr.runs import recipe_file
from paretosr.runs.recipe_file import differences, network_of, parse_recipe, read_recipe, recipe_names
from paretosr.runs.recipe_yaml import plain
from paretosr.spaces import Design, InputError, published, published_architecture

LEAST = "space:\n  blocks: [imdb]\n  widths: [16]\n  depths: [2]\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(name: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        read_recipe(name, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(folder: Path, content: str | bytes) -> str:
    (folder / "my.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return "my.yaml"


# ---- files


def test_a_file_that_is_not_there_is_refused_with_what_was_meant(here):
    (here / "mine.yaml").write_text(LEAST)
    assert refused("quikc").startswith("quikc: no such file, and no shipped recipe; did you mean 'quick'? (shipped: ")
    assert "did you mean 'quick'?" in refused("quick.yml")
    assert "did you mean 'mine.yaml'?" in refused("mine")
    assert refused("elsewhere/x.yaml").startswith("elsewhere/x.yaml: no such file, and no shipped recipe (shipped: ")
    assert refused("two\nlines").startswith("two lines: no such file")


def test_what_is_no_file_is_refused(here):
    assert refused(str(here)) == f"{here}: is a folder, not a recipe file"
    assert refused("") == "'': is a folder, not a recipe file"
    assert refused("a\0b").endswith(f": no such file, and no shipped recipe (shipped: {', '.join(recipe_names())})")
    assert refused("x" * 5000).endswith(": cannot be read: File name too long")


def test_a_file_that_may_not_be_read_is_refused(here, monkeypatch):
    written(here, LEAST)

    def forbid(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    assert refused("my.yaml") == "my.yaml: cannot be read: Permission denied"


def test_a_folder_of_a_shipped_name_hides_nothing_and_a_file_does(here):
    (here / "quick").mkdir()
    assert read_recipe("quick").data.source == "embedded"
    (here / "quick").rmdir()
    (here / "quick").write_text(LEAST)
    assert read_recipe("quick").space == read_recipe(written(here, LEAST)).space


NOT_YAML = {
    "": "is empty; `paretosr recipes` lists recipes to start from",
    "# a comment\n": "is empty; ",
    "---\n": "is empty; ",
    "hello": "must be a mapping of keys like 'space:' and 'train:', not 'hello'",
    "- a\n- b\n": "must be a mapping of keys like 'space:' and 'train:', not [\"a\", \"b\"]",
    "5": "must be a mapping of keys like 'space:' and 'train:', not 5",
    "a: b: c": "line 1: not valid YAML: a ':' too many or too few, or a wrong indentation",
    "a: 1\n b: 2": "line 2: not valid YAML: a ':' too many or too few, or a wrong indentation",
    "a: [1, 2\n": "line 2: not valid YAML: a bracket [ is not closed",
    "a: {b: 1\n": "line 2: not valid YAML: a bracket { is not closed",
    "a: 'x\n": "line 2: not valid YAML: a quote is not closed",
    "a:\n\tb: 1": "line 2: not valid YAML: indent with spaces, not tabs, and put text with special characters in ",
    "a: 1\n---\nb: 2": "line 2: not valid YAML: a recipe is one document, and here a second one begins",
    "limits:\n  psnr_db: >= 29": (
        "line 2: not valid YAML: text that begins with > or | must be in quotes, like '>= 29.0'"
    ),
    "a: *x": "line 1: not valid YAML: found undefined alias 'x'",
    "train:\n  steps: 1\n  steps: 2": "line 3: key 'steps' stands twice",
    "5: x": "line 1: a key must be a word, not 5",
    "? [a]\n: b": "line 1: a key must be a word, not a list or a mapping",
    "seed: " + 5000 * "9": "line 1: the number 999999999... is too long",
    "seed: !!int x": "line 1: the tag !!int is not allowed; a recipe holds plain values",
    "seed: !mine x": "line 1: the tag !mine is not allowed; a recipe holds plain values",
    "a: &a [*a]": "line 1: an alias stands for what it is a part of",
    "a: " + 5000 * "[": "is nested too deeply",
    "#" * 300_000: "is too long for a recipe (more than 200,000 characters)",
    b"\x00\x01": "holds control characters; a recipe is YAML text",
    b"seed: 1\x00": "holds control characters; a recipe is YAML text",
    b"\x89PNG\r\n\x1a\n": "is not UTF-8 text (byte 0); a recipe is YAML text",
    b"\xff\xfea\x00": "is not UTF-8 text (byte 0); a recipe is YAML text",
    b"description: caf\xe9": "is not UTF-8 text (byte 16); a recipe is YAML text",
}


@pytest.mark.parametrize(("content", "said"), NOT_YAML.items(), ids=lambda value: repr(value)[:20])
def test_what_is_no_yaml_of_a_recipe_is_one_line(here, content, said):
    assert refused(written(here, content)).startswith(f"my.yaml: {said}")


@pytest.mark.parametrize("tag", ["object/apply:os.system", "object/new:os.system", "name:os.system", "module:os"])
def test_a_tag_that_would_run_code_runs_nothing(here, monkeypatch, tag):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    for content in (f"!!python/{tag} ['touch ran']", f"{LEAST}seed: !!python/{tag} ['touch ran']"):
        assert f"the tag !!python/{tag} is not allowed" in refused(written(here, content))
    assert f"the tag !!python/{tag} is not allowed" in refused("quick", f"seed=!!python/{tag} [touch ran]")
    assert not ran
    assert not (here / "ran").exists()


def test_a_small_file_cannot_become_large_in_memory(here):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    said = "is too large for a recipe (more than 20,000 values, aliases written out)"
    assert refused(written(here, "\n".join(lines))) == f"my.yaml: {said}"


def test_aliases_and_merged_mappings_are_read(here):
    text = f"{LEAST}train: &all\n  batch: 4\n  patch: 32\n"
    assert read_recipe(written(here, text)).train.batch == 4
    merged = plain("a: &all {batch: 4, patch: 32}\nb:\n  <<: *all\n  batch: 8\n")
    assert merged["b"] == {"batch": 8, "patch": 32}


def test_yaml_is_read_as_people_mean_it():
    text = "[1e-3, 5e4, 3_000, 010, -7, .5, no, on, 4:30, 2020-01-01, true, ~, '1e3']"
    assert plain(text) == [0.001, 50000.0, 3000, 10, -7, 0.5, "no", "on", "4:30", "2020-01-01", True, None, "1e3"]


@pytest.mark.parametrize("content", ["\ufeff" + LEAST, LEAST.replace("\n", "\r\n"), LEAST + "description: 超解像 🙂\n"])
def test_text_files_of_all_systems_are_read(here, content):
    assert read_recipe(written(here, content)).space is not None


# ---- overrides


def test_an_override_changes_a_key(here):
    written(here, LEAST + "limits: {macs_g: '<= 9'}\n")
    overrides = ["search.candidates=50", "train.learning_rate=1e-3", "space.blocks=[imdb, {rfdb: {attention: [esa]}}]"]
    overrides += ["limits.psnr_db=>= 26", "winner.fastest.psnr_db=>= 27", "search.minutes=", "search.candidates=60"]
    given = read_recipe("my.yaml", overrides)
    assert (given.search.candidates, given.train.learning_rate, given.search.minutes) == (60, 0.001, None)
    assert [next(iter(block)) for block in given.model_dump()["space"]["blocks"]] == ["imdb", "rfdb"]
    assert given.limits == {"macs_g": "<= 9", "psnr_db": ">= 26"}
    assert given.winner == {"fastest": {"psnr_db": ">= 27"}}


WRONG_SETS = {
    "search.candidates": "must be written like --set search.candidates=50",
    "=5": "must be written like --set search.candidates=50",
    "search..candidates=5": "must be written like --set search.candidates=50",
    "search.candidates=-5": "search.candidates: must be a whole number of at least 1, not -5",
    "search.candidates=many": "search.candidates: must be a whole number of at least 1, not 'many'",
    "search.candidates=": "search.candidates: must be a whole number of at least 1, not nothing",
    "search.candidats=5": "search: no key 'candidats'; did you mean 'candidates'? (known: ",
    "serach.candidates=5": "no key 'serach'; did you mean 'search'? (known: ",
    "candidates=5": "no key 'candidates'; did you mean 'search.candidates'?",
    "train.steps.many=5": 'train.steps: must be a whole number of at least 1, not {"many": 5}',
    "space.blocks=[imdb, rfdbb]": "space.blocks[1]: no block 'rfdbb'; did you mean 'rfdb'? (known: ",
    "space.blocks[0]=rfdb": "space: no key 'blocks[0]'; did you mean 'blocks'? (known: ",
    "space.widths=[16": "not valid YAML: a bracket [ is not closed",
    "limits.psnr=>= 26": "limits: no number to limit 'psnr'; did you mean 'psnr_db'? (known: ",
    "limits.psnr_db>=26": "write it with one '=' more: --set 'limits.psnr_db=>= 26'",
    "winner=fastest": "winner: fastest needs a condition, like {psnr_db: '>= 29.0'}",
    "data.source=~nobody-of-this-name/x": "data.source: '~nobody-of-this-name/x' is no path that can be found",
}


@pytest.mark.parametrize(("override", "said"), WRONG_SETS.items())
def test_a_wrong_override_is_one_line_that_names_it(here, override, said):
    assert refused(written(here, LEAST), override).startswith(f"--set {override}: {said}")


def test_a_mistake_of_the_file_is_not_blamed_on_an_override(here):
    name = written(here, LEAST + "train: {steps: x}\n")
    assert refused(name, "seed=3", "train.batch=4").startswith("my.yaml: train.steps: must be a whole number")


def test_keys_that_do_not_go_together_name_file_and_overrides(here):
    said = refused(written(here, LEAST), "train.fit=true", "seed=3")
    assert said.startswith("my.yaml with --set train.fit=true --set seed=3: train.fit: fits the steps into ")


# ---- paths


def test_paths_are_relative_to_the_file_and_those_of_overrides_to_the_working_folder(here, monkeypatch):
    (here / "deep").mkdir()
    (here / "deep" / "my.yaml").write_text(LEAST + "data: {source: photos, validation: ../judged}\n")
    given = read_recipe("deep/my.yaml").data
    assert (given.source, given.validation) == (str(here / "deep" / "photos"), str(here / "judged"))
    assert read_recipe("deep/my.yaml", ["data.source=mine"]).data.source == str(here / "mine")
    assert read_recipe("deep/my.yaml", ["data={source: mine}"]).data.source == str(here / "mine")
    assert read_recipe("deep/my.yaml", ["data.source=embedded"]).data.source == "embedded"
    assert read_recipe("quick", ["data.source=/abs/photos"]).data.source == "/abs/photos"
    assert read_recipe("div2k").data.source == str(here / "DIV2K")
    monkeypatch.setenv("HOME", "/home/me")
    assert read_recipe("quick", ["data.source=~/photos"]).data.source == "/home/me/photos"


def test_one_folder_written_in_two_ways_is_still_one(here):
    name = written(here, LEAST + "data: {source: photos, validation: ./x/../photos}\n")
    assert "data.validation: is the same as data.source" in refused(name)


# ---- recipes compared


def test_only_keys_that_extend_a_run_may_differ(here):
    old = read_recipe("quick")
    further = ["search.candidates=99", "search.minutes=9", "search.workers=1", "report.title=More", "confirm.seeds=3"]
    assert differences(old, read_recipe("quick", [*further, "winner.fastest.psnr_db=>= 20"])) == []
    assert differences(old, read_recipe("quick", ["train.batch=9"])) == [
        f"train.batch is {old.train.batch} there, 9 here"
    ]
    other = differences(old, read_recipe("quick", ["space.blocks=[imdb]", "limits.macs_g=<= 9", "seed=7"]))
    assert [line.partition(" ")[0] for line in other] == ["seed", "space.blocks", "limits.macs_g"]
    assert other[2] == "limits.macs_g is nothing there, '<= 9' here"


# ---- the network of a recipe


@pytest.mark.parametrize("form", ["architecture", "design"])
def test_the_network_of_a_recipe_is_read_from_its_file(here, form):
    architecture = published_architecture("rfdn")
    content = architecture.to_json() if form == "architecture" else Design(architecture).to_json()
    (here / "net.json").write_text(json.dumps(content))
    written(here, "network: net.json\n")
    assert network_of(read_recipe("my.yaml")) == Design(architecture)


def test_the_network_of_a_recipe_may_be_a_published_one(here):
    written(here, "network: gcsr\n")
    assert network_of(read_recipe("my.yaml")) == published("gcsr")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is not JSON; a network is the architecture.json of an export"),
        (b"\xff\x00", "is not JSON; a network is the architecture.json of an export"),
        (b"[" * 100_000, "is not JSON; a network is the architecture.json of an export"),
        (b"[]", "architecture: must be a mapping, not list"),
        (b"{}", "architecture: "),
        (
            b'{"width": 16, "blocks": [{"type": "imbd"}]}',
            "architecture: blocks[0]: no block 'imbd'; did you mean 'imdb'?",
        ),
        (b'{"width": 16, "blocks": [], "foo": 1}', "architecture: no key 'foo'; "),
        (b'{"width": -1, "blocks": [{"type": "imdb"}]}', "width must be a whole number from 4 to "),
    ],
)
def test_a_network_file_that_is_wrong_is_one_line(here, content, said):
    if content is not None:
        (here / "net.json").write_bytes(content)
    recipe = parse_recipe({"network": str(here / "net.json")}, "my.yaml")
    with pytest.raises(InputError) as caught:
        network_of(recipe)
    assert str(caught.value).startswith(f"{here / 'net.json'}: {said}")
    assert "\n" not in str(caught.value)


def test_a_recipe_without_a_network_has_none_to_train():
    with pytest.raises(InputError, match=r"^network: the recipe names no network to train"):
        network_of(read_recipe("full"))


def test_the_schema_is_part_of_the_door():
    assert recipe_file.recipe_schema()["properties"]["space"]
