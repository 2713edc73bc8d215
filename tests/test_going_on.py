"""What a run must not go on with: another device, other judges, a death that is counted twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretosr.proxies.work import Data, mark_running
from paretosr.runs.engines.workplace import ThisMachine
from paretosr.runs.folder import RunFolder
from paretosr.runs.inspection import read_run
from paretosr.runs.recipe_file import read_recipe
from paretosr.runs.story import Clock, refuse_other_device, settings_of
from paretosr.runs.summary import machine_facts
from paretosr.runs.training_story import data_facts, refuse_other_judges
from paretosr.search import loop as loop_room
from paretosr.search.loop import died_at
from paretosr.search.study import Record
from paretosr.spaces import InputError


@pytest.fixture
def record() -> Iterator[Record]:
    record = Record("sqlite://", ("psnr_db",))
    yield record
    record.close()


@pytest.mark.parametrize(("part", "other"), [("device", "cuda:0"), ("cpu", "Another CPU"), ("gpu", "A GPU")])
def test_another_device_is_refused_by_name(record: Record, tmp_path: Path, part: str, other: str):
    settings = settings_of(read_recipe("quick"))
    refuse_other_device(RunFolder(tmp_path), settings, record)  # a fresh run has no device yet
    record.set_attribute("machine", machine_facts("cpu"))
    refuse_other_device(RunFolder(tmp_path), settings, record)
    record.set_attribute("machine", {**machine_facts("cpu"), part: other})
    with pytest.raises(InputError, match=rf"began on {part} {other}, and this is"):
        refuse_other_device(RunFolder(tmp_path), settings, record)


def test_for_a_gpu_another_cpu_beside_it_is_as_good(record: Record, tmp_path: Path):
    """Nodes of one kind of GPU are one kind while a run lasts, so they are when it goes on."""

    class OfAGpu(ThisMachine):
        def facts(self, device: str) -> list[dict[str, str]]:
            return [{**machine_facts("cpu"), "device": device, "gpu": "A GPU", "cpu": "Another CPU"}]

    settings = replace(settings_of(read_recipe("quick")), device="cuda:0")
    assert settings.needs("timed")
    began = {**machine_facts("cpu"), "device": "cuda:0", "gpu": "A GPU"}
    record.set_attribute("machine", began)
    refuse_other_device(RunFolder(tmp_path), settings, record, OfAGpu())
    record.set_attribute("machine", {**began, "gpu": "Another GPU"})
    with pytest.raises(InputError, match="began on gpu Another GPU, and this is A GPU"):
        refuse_other_device(RunFolder(tmp_path), settings, record, OfAGpu())


def test_without_timings_another_cpu_is_as_good(record: Record, tmp_path: Path):
    settings = settings_of(read_recipe("quick", ["objectives=[psnr_db, activations_m]", "limits={}"]))
    record.set_attribute("machine", {**machine_facts("cpu"), "cpu": "Another CPU"})
    refuse_other_device(RunFolder(tmp_path), settings, record)


def test_a_child_is_judged_on_its_parents_images(record: Record, tmp_path: Path):
    data = Data()
    record.set_attribute("first", {"data": data_facts(data)})
    refuse_other_judges(RunFolder(tmp_path), data, record)
    facts = data_facts(data)
    facts["hash"]["validation"] = "0" * 64
    record.set_attribute("first", {"data": facts})
    with pytest.raises(InputError, match="judged on other images"):
        refuse_other_judges(RunFolder(tmp_path), data, record)


def test_a_death_while_deaths_are_counted_is_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mark_running(tmp_path, "training, step 0")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop_room, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            died_at(tmp_path)
    assert died_at(tmp_path) is None
    mark_running(tmp_path, "training, step 0")
    assert died_at(tmp_path) is None
    mark_running(tmp_path, "training, step 0")
    assert died_at(tmp_path) == "training, step 0"


def test_a_life_that_got_further_says_nothing_against_its_candidate(tmp_path: Path):
    torch.save({"step": 5}, tmp_path / "state.pt")
    for place in ("training, step 3", "training, step 0", "training, step 4", "measuring a.png, step 4"):
        mark_running(tmp_path, place)
        assert died_at(tmp_path) is None
    for place, verdict in (
        ("training, step 5", None),
        ("measuring a.png, step 5", None),
        ("training, step 5", "training, step 5"),
    ):
        mark_running(tmp_path, place)
        assert died_at(tmp_path) == verdict
    assert not (tmp_path / "running").exists()


def test_the_clock_goes_on_where_it_stood(record: Record, monkeypatch: pytest.MonkeyPatch):
    record.set_attribute("wall_s", 100.0)
    clock = Clock(record)
    clock.started -= 7
    clock.tick()
    assert record.attribute("wall_s") == 100.0  # not more often than every few seconds
    clock.tick(now=True)
    assert 107 <= record.attribute("wall_s") < 110
    clock.stop()
    clock.started -= 50
    clock.tick(now=True)
    assert record.attribute("wall_s") < 110


@pytest.mark.parametrize("name", ["what?", "a?b/c"])
def test_a_path_that_no_database_url_can_hold_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="must not hold"):
        _ = RunFolder(tmp_path / name).url


def test_a_record_that_is_none_is_said_to_be(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.begin(read_recipe("quick"), "quick", "paretosr search quick")
    with pytest.raises(InputError, match="has no record yet"):
        read_run(tmp_path)
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="is not the record of a run"):
        read_run(tmp_path)
