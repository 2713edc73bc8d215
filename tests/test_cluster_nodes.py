"""What is said of a cluster's nodes, in one line each; and which kind of device is timed on."""

from pathlib import Path

import pytest
from commands import refused

from paretosr.proxies.work import Data
from paretosr.runs.engines import nodes as cluster_nodes
from paretosr.runs.engines.nodes import check_token, described, facts_of, hashes, problem_of, the_kind
from paretosr.runs.engines.probe import installed, look
from paretosr.runs.engines.workplace import ThisMachine
from paretosr.spaces import InputError

HERE = {"version": "1.2", "sources": "abc"}
GOOD = {
    "installed": HERE,
    "gpus": [],
    "facts": {"cpu": "A CPU", "threads": "1"},
    "hash": {"train": "t", "validation": "v"},
}
IMAGES = {"train": "t", "validation": "v"}


@pytest.mark.parametrize(
    ("change", "gpus", "words"),
    [
        ({}, 0, None),
        ({"gpus": ["H100", "H100"]}, 2, None),
        ({"installed": {}}, 0, "has no package paretosr; install it"),
        ({"installed": {**HERE, "version": "1.3"}}, 0, "has paretosr 1.3, and here it is 1.2"),
        ({"installed": {**HERE, "sources": "abd"}}, 0, "has other sources of paretosr 1.2"),
        ({"problem": "/data: no such folder of images"}, 0, "/data: no such folder"),
        ({"hash": {"train": "t", "validation": "w"}}, 0, "has other validation images"),
        ({}, 2, "has 2 GPUs by Ray's count, and torch there shows none"),
        ({"gpus": ["H100", "T4"]}, 2, "has GPUs of several kinds (H100, T4)"),
    ],
)
def test_problems_are_one_line(change, gpus, words):
    problem = problem_of({**GOOD, **change}, HERE, IMAGES, gpus)
    assert (problem is None) if words is None else (problem or "").startswith(words)
    assert "\n" not in (problem or "")


def test_a_node_is_of_the_kind_of_its_gpus_or_its_cpu():
    row = {"NodeID": "1", "NodeManagerHostname": "host", "Resources": {"CPU": 4.0, "GPU": 2.0}}
    assert described(row, GOOD, 0).kind == "A CPU"
    node = described(row, {**GOOD, "gpus": ["H100", "H100"]}, 2)
    assert (node.kind, node.cpus, node.gpus, node.facts) == ("H100", 4, 2, {"cpu": "A CPU"})


KINDS = ["NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "Tesla T4", "Tesla T4"]


@pytest.mark.parametrize(
    ("wanted", "kinds", "found"),
    [
        (None, KINDS[2:], "Tesla T4"),
        ("t4", KINDS, "Tesla T4"),
        ("H100 PCIe", KINDS, KINDS[0]),
        ("H100", [*KINDS, "H100"], "H100"),
    ],
)
def test_the_kind_to_time_on(wanted, kinds, found):
    assert the_kind(wanted, kinds, "the cluster has") == found


@pytest.mark.parametrize(
    ("wanted", "words"), [(None, "several kinds, and latencies"), ("H100", "fits 2 of"), ("A100", "fits none of")]
)
def test_a_kind_that_is_not_clear_is_refused_with_those_there_are(wanted, words):
    with pytest.raises(InputError, match=r"^latency\.device_kind: ") as raised:
        the_kind(wanted, KINDS, "the cluster has")
    assert words in str(raised.value)
    assert all(kind in str(raised.value) for kind in KINDS)


def test_this_machine_times_on_its_own_kind_only(tmp_path: Path):
    place, data = ThisMachine(), Data()
    own = place.facts("cpu")[0].get("cpu", "")
    place.check(tmp_path, data, "cpu", own or None, timed=True)
    place.check(tmp_path, data, "cpu", "H100", timed=False)
    with pytest.raises(InputError, match=r"latency\.device_kind: 'H100' fits none of what this machine has"):
        place.check(tmp_path, data, "cpu", "H100", timed=True)


def test_a_node_tells_its_facts_and_the_hash_of_its_images(photos, tmp_path):
    data, token = Data(str(photos)), tmp_path / "token"
    token.write_text("word")
    answer = look(installed(), {"device": "cpu", "token": (str(token), "word"), "data": data})
    assert "problem" not in answer
    assert problem_of(answer, installed(), hashes(data), 0) is None
    assert look({"version": "0"}, None) == {"installed": installed()}, "of another package nothing is imported"
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_a_node_that_does_not_see_the_folder_or_the_images_says_so(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_nodes, "SHARED_DISK_S", 0.3)
    for content in (None, "another run's"):
        if content is not None:
            (tmp_path / "token").write_text(content)
        with pytest.raises(InputError, match="does not see the folder"):
            check_token(tmp_path / "token", "word")
    asked = {"device": "cpu", "token": None, "data": Data(str(photos / "nowhere"))}
    assert "nowhere: no such folder of images" in facts_of(asked)["problem"]


def test_a_folder_that_cannot_be_written_is_said_to_be(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("word")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match="cannot write into the folder"):
        check_token(tmp_path / "token", "word")


def test_more_trainings_at_a_time_than_there_is_room_for_are_refused_before_anything_is_written(
    paretosr, recipe, tmp_path, monkeypatch
):
    def refuse(*_: object) -> int:
        raise InputError("search.workers: 99 trainings at a time, and there is room for 2")

    monkeypatch.setattr(ThisMachine, "slots", refuse)
    refused(paretosr("search", recipe, "--out", "run"), "search.workers: 99")
    assert not (tmp_path / "run").exists()
