"""`paretosr proxies`: the rank table on a recording and on a run, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from recorded import RUNGS, SPACE, made

from paretosr.analysis.proxy_ranks import Sample, predictors, ranks
from paretosr.proxies.predictors import FEWEST_VALIDATED
from paretosr.proxies.score_work import ScoreWork
from paretosr.proxies.scores import SCORES, score_batches, score_table
from paretosr.proxies.work import Data
from paretosr.search.recording import write_recording
from paretosr.spaces import Design, InputError

RECORDING = made(count=30)
NETWORKS = list(RECORDING.networks.values())
EARLY = tuple(f"psnr_db@{steps}" for steps in RUNGS[:-1])
SAMPLE = Sample(
    SPACE,
    tuple(Design(n.architecture) for n in NETWORKS),
    tuple(n.trainings[0].psnr_db[-1] for n in NETWORKS),
    {name: tuple(n.numbers[name] for n in NETWORKS) for name in ("latency_ratio", "activations_m")},
    RUNGS[:-1],
    tuple(n.trainings[0].psnr_db[:-1] for n in NETWORKS),
)


def test_each_number_has_a_row_and_later_rungs_rank_better():
    sizes = [float(n.architecture.width * len(n.architecture.blocks)) for n in NETWORKS]
    nothing = [float("nan"), *np.random.default_rng(0).normal(size=29)]
    found = {rank.name: rank for rank in ranks(SAMPLE, {"parameters": sizes, "nwot": nothing})}
    assert list(found) == [
        "latency_ratio",
        "activations_m",
        "parameters",
        "nwot",
        *(f"psnr_db@{s}" for s in RUNGS[:-1]),
    ]
    assert found["nwot"].plain.rows == 29
    assert found["latency_ratio"].partial.rho is None  # given itself it says nothing
    early, late = found[f"psnr_db@{RUNGS[0]}"], found[f"psnr_db@{RUNGS[-2]}"]
    assert early.plain.rho is not None
    assert late.plain.rho is not None
    assert late.plain.rho > early.plain.rho
    assert late.partial.rho is not None
    assert late.partial.rho > 0.5
    assert found["parameters"].control
    assert not found["nwot"].control


def test_predictors_are_validated_from_the_genome_to_the_curve():
    sizes = [float(n.architecture.width) for n in NETWORKS]
    rows = list(predictors(SAMPLE, {"parameters": sizes}, psnr_models=("ridge",), latency_models=("sum",)))
    by_features = {}
    for row in rows:
        if row.target == "psnr_db" and row.validation.model == "ridge":
            by_features[row.features] = row.validation.summary()["spearman"][0]
    assert len(by_features) == 2 + len(RUNGS) - 1
    values = list(by_features.values())
    assert values[-1] > values[0]  # a curve says more than the genome
    assert {row.target for row in rows} == {"psnr_db", "latency_ratio"}


def test_too_few_networks_are_refused():
    with pytest.raises(InputError, match="19 networks are trained to the end; a ranking needs 20"):
        Sample(SPACE, SAMPLE.designs[:19], SAMPLE.psnr_db[:19], {})


def test_a_score_work_gives_what_the_table_does():
    names = ("parameters", "snip", "nwot")
    work = ScoreWork(SAMPLE.designs[:2], names, Data(), 16, 4, 2, 5, "cpu")
    found = work.perform(lambda said: None, lambda: False)
    assert found is not None
    batches = score_batches(Data().train(), patch=16, batch=4, count=2, seed=5)
    assert found["columns"] == score_table(SAMPLE.designs[:2], batches, names, seed=5).columns
    assert work.perform(lambda said: None, lambda: True) is None


@pytest.mark.slow
def test_the_command_ranks_a_recording_and_keeps_its_scores(paretosr, tmp_path):
    write_recording(RECORDING, tmp_path / "recording")
    some = ("--score", "parameters", "--score", "gradient_norm", "--no-predict", "--workers", "1")
    done = paretosr("proxies", "recording", *some)
    assert done.code in (0, None), done.err
    assert "gradient norm" in done.out
    folder = Path("out/proxies-recording")
    rows = {row["number"]: row for row in csv.DictReader((folder / "ranks.csv").read_text().splitlines())}
    assert set(rows) == {"latency_ratio", "activations_m", "parameters", "gradient_norm", *EARLY}
    low, rho, high = (float(rows["parameters"][name]) for name in ("rho_low", "rho", "rho_high"))
    assert low <= rho <= high
    kept = json.loads((folder / "scores.json").read_text())
    assert set(kept["scores"]) == set(RECORDING.networks)
    kept["scores"][next(iter(RECORDING.networks))]["gradient_norm"] = 1e9
    (folder / "scores.json").write_text(json.dumps(kept))
    again = paretosr("proxies", "recording", *some)
    assert again.out != done.out  # what was kept is not computed anew


def test_where_too_few_networks_are_there_to_validate_on_the_ranks_are_all(paretosr, tmp_path):
    for count, validated in ((FEWEST_VALIDATED - 1, False), (FEWEST_VALIDATED, True)):
        write_recording(made(count=count), tmp_path / f"recording{count}")
        done = paretosr(
            "proxies", f"recording{count}", "--score", "parameters", "--score", "convolutions", "--out", f"out{count}"
        )
        assert done.code == 0, done.err
        assert (tmp_path / f"out{count}" / "predictors.csv").exists() == validated
        assert ("24 networks are too few to validate predictors on; that takes 25" in done.out) != validated
        places = [
            done.out.index(words) for words in ("latency, measured", "PSNR after 10 steps", "PSNR after 90 steps")
        ]
        assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["proxies", "nowhere"], ["nowhere: is not the folder of a run"]),
        (["proxies", "recording", "--score", "nwott"], ["no score 'nwott'", "did you mean 'nwot'?"]),
    ],
)
def test_refusals(paretosr, tmp_path, arguments, words):
    write_recording(RECORDING, tmp_path / "recording")
    refused(paretosr(*arguments), *words)


def test_every_score_has_words_for_the_table():
    assert all(score.label for score in SCORES.values())
