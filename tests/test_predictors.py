"""Features by hand; predictors: closed forms, intervals that hold what they promise, and one-line mistakes."""

import math
import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from paretosr.proxies.complexity import complexity
from paretosr.proxies.features import (
    ADDITIVE,
    Features,
    curve_features,
    genome_features,
    score_features,
    structure_features,
)
from paretosr.proxies.launches import work
from paretosr.proxies.predictors import (
    FEWEST_ROWS,
    PREDICTORS,
    Predictor,
    cross_validate,
    fit,
    rank_correlation,
)
from paretosr.proxies.scores import score_table
from paretosr.spaces import Architecture, Block, BlockChoices, Design, InputError, Space, published

every_model = pytest.mark.parametrize("model", PREDICTORS)
SPACE = Space(
    blocks=(BlockChoices("residual", (("norm", ("none",)),)), BlockChoices("scpa"), BlockChoices("mobilenetv3")),
    widths=(8, 12, 16),
    depths=(1, 2),
    fusions=("none", "concat"),
    upsamplers=("direct", "two_step"),
    upsampler_widths=(8, 16),
)

# Features


def test_genome_features_by_hand() -> None:
    one = Architecture(12, (Block.of("scpa", kernel="1x3+3x1"),))
    two = Architecture(
        16, (Block.of("residual"), Block.of("mobilenetv3", expansion=6)), "concat", "two_step", upsampler_width=16
    )
    found = genome_features(SPACE, [one, two])
    as_dict = [dict(zip(found.names, row, strict=True)) for row in found.values]
    shown = [{name for name, value in row.items() if value} for row in as_dict]
    assert shown[0] == {
        *("width=12", "width", "depth=1", "depth", "fusion=none", "upsampler=direct"),
        *("block0.type=scpa", "block0.kernel=1x3+3x1"),
    }
    assert as_dict[0]["width"] == 12
    assert as_dict[1]["upsampler_width"] == 16
    assert {
        "block1.type=mobilenetv3",
        "block1.inner=6",
        "block1.attention=se",
        "depth=2",
        "upsampler_width=16",
    } < shown[1]
    assert not any(name.startswith("block1") for name in shown[0])
    assert not any(name.startswith("block0.attention") for name in shown[0]), "scpa has no attention"
    assert all(value == 1 for row in as_dict for name, value in row.items() if "=" in name and value)


def test_genome_features_tell_networks_apart_and_have_the_same_columns_for_all() -> None:
    drawn = {(a := SPACE.sample(random.Random(seed))).hash: a for seed in range(60)}
    found = genome_features(SPACE, list(drawn.values()))
    assert len({tuple(row) for row in found.values}) == len(drawn)
    assert genome_features(SPACE, []).names == found.names
    with pytest.raises(InputError, match="does not lie in the space"):
        genome_features(SPACE, [Architecture(24, (Block.of("scpa"),))])


def test_structure_features_are_the_counts() -> None:
    designs = [published("span"), Design(Architecture(8, (Block.of("scpa"), Block.of("scpa"), Block.of("imdb"))))]
    found = structure_features(designs, (24, 20))
    for design, row in zip(designs, found.values, strict=True):
        known, counts = work(design, (24, 20)), complexity(design, (24, 20))
        named = dict(zip(found.names, row, strict=True))
        assert [named[name] for name in ADDITIVE] == [getattr(known, name) for name in ADDITIVE]
        assert named["channels"] == known.channels
        assert (named["parameters_m"], named["activations_m"]) == (counts.parameters / 1e6, counts.activations_m)
        assert named["convolutions"] == counts.convolutions
    of_blocks = [column for column, name in enumerate(found.names) if name.startswith("blocks.")]
    blocks = [{found.names[column]: row[column] for column in of_blocks if row[column]} for row in found.values]
    assert blocks == [{}, {"blocks.scpa": 2, "blocks.imdb": 1}]


def test_score_and_curve_features() -> None:
    found = score_features({"snip": [0.01, 100], "nwot": [3, -4]})
    assert found.names == ("score.snip", "score.nwot")
    assert found.values.tolist() == [[-2, 3], [2, -4]]
    assert len(score_features({"synflow": []})) == 0
    with pytest.raises(InputError, match=r"'score.nwot' of row 1 is nan"):
        score_features({"nwot": [3, math.nan]})

    curves = [[25.0, 26.0, 26.5], [24.0, 24.5]]
    assert curve_features(curves, 0).values.shape == (2, 0)
    assert curve_features(curves, 1).names == ("psnr_db.rung0",)
    assert curve_features(curves, 2).values.tolist() == [[25, 26, 1], [24, 24.5, 0.5]]
    with pytest.raises(InputError, match="row 1 has a PSNR at 2 rungs, not at 3"):
        curve_features(curves, 3)


def test_tables_beside_each_other() -> None:
    left, right = Features(("a",), np.array([[1.0], [2.0]])), Features(("b",), np.array([[3.0], [4.0]]))
    both = left.beside(right)
    assert both.names == ("a", "b")
    assert both.rows([1, 0]).values.tolist() == [[2, 4], [1, 3]]
    with pytest.raises(InputError, match="one name"):
        left.beside(left)
    with pytest.raises(InputError, match="2 rows beside 1"):
        left.beside(right.rows([0]))
    with pytest.raises(InputError, match=r"2 names for a table of \[2, 1\]"):
        Features(("a", "b"), left.values)


def test_all_that_is_known_of_a_network_goes_into_one_table() -> None:
    architectures = list({(a := SPACE.sample(random.Random(seed))).hash: a for seed in range(30)}.values())
    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = score_table([Design(a) for a in architectures], [(noise, noise)], ["synflow", "nwot"])
    depths = [float(len(a.blocks)) for a in architectures]
    known = genome_features(SPACE, architectures).beside(score_features(scores.columns))
    with_curve = known.beside(curve_features([[20 + depth] for depth in depths], 1))
    mean, low, high = fit(with_curve, depths, "ridge").predict(with_curve)
    assert mean == pytest.approx(depths, abs=0.1)
    assert (low < high).all()


# Predictors: `drawn` makes tables with the columns that every model can use, and a target that is a positive sum of
# them, with noise that is a share of it.


def drawn(rows: int, seed: int, noise: float = 0.1) -> tuple[Features, NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.1, 2, (rows, len(ADDITIVE) + 2))
    factors = np.array([3.0, 5, 1, 0.5, 2, 1, 0, 0])
    targets = (values @ factors + 4) * (1 + noise * generator.uniform(-1, 1, rows))
    return Features((*ADDITIVE, "idle", "other"), values), targets


@every_model
def test_intervals_cover_what_was_held_out(model: str) -> None:
    inside: list[NDArray[np.bool_]] = []
    for seed in range(2):
        features, targets = drawn(360, seed)
        mean, low, high = fit(features.rows(range(60)), targets[:60], model, seed).predict(
            features.rows(range(60, 360))
        )
        assert (low <= mean).all()
        assert (mean <= high).all()
        inside.append((low <= targets[60:]) & (targets[60:] <= high))
        assert (high - low).mean() < targets.max() - targets.min(), "an interval that says nothing"
    # 95 % are asked for; what a fit on 60 rows covers is itself uncertain by some percent.
    assert 0.90 <= np.mean(inside) < 1


@every_model
def test_prediction_is_better_than_the_mean(model: str) -> None:
    features, targets = drawn(120, 9)
    found = cross_validate(features, targets, model, folds=3)
    means = {name: mean for name, (mean, _) in found.summary().items()}
    assert means["r2"] > 0.4
    assert means["spearman"] > 0.7
    assert means["rmse"] < targets.std()
    assert 0.85 <= means["coverage"] <= 1
    assert all(len(values) == 3 for values in (found.r2, found.spearman, found.rmse, found.coverage, found.width))
    assert found.summary()["rmse"] == (found.rmse.mean(), found.rmse.std(ddof=1))


@every_model
def test_what_says_nothing_predicts_nothing(model: str) -> None:
    features, targets = drawn(100, 3)
    shuffled = np.random.default_rng(0).permutation(targets)
    assert cross_validate(features, shuffled, model, folds=2).r2.mean() < 0.1


@every_model
def test_a_fit_is_a_function_of_its_arguments(model: str) -> None:
    features, targets = drawn(30, 1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    first = fit(features, targets, model, 7).predict(features)
    np.random.seed(2)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    second = fit(features, targets, model, 7).predict(features)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002
    other = fit(features, targets, model, 8).predict(features)
    assert not np.array_equal(first[1], other[1]), "the folds of the residuals are drawn by the seed"


def test_the_sum_finds_the_factors() -> None:
    features, targets = drawn(60, 2, noise=0)
    mean, low, high = fit(features, targets, "sum").predict(features)
    assert mean == pytest.approx(targets, rel=0.005)
    assert (high / low).max() < 1.02
    # It goes on beyond what it has seen, where trees stop, and an interval is a factor.
    far = Features(features.names, 10 * features.values)
    assert fit(features, targets, "sum").predict(far)[0] == pytest.approx(10 * (targets - 4) + 4, rel=0.02)
    assert fit(features, targets, "extra_trees").predict(far)[0].max() <= targets.max()


class Told:
    """A model that says the first column, whatever it was fitted on, and a constant more."""

    def __init__(self, more: float) -> None:
        self.more = more

    def predict(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        return table[:, 0] + self.more


def test_the_interval_by_hand() -> None:
    # Two parts, which say 1 less and 1 more; of 40 rows the errors of the one are 1, 3, ... 39, of the other 2, ... 40.
    errors, part_of = np.arange(1.0, 41), np.arange(40) % 2
    predictor = Predictor(PREDICTORS["ridge"], ("a",), Told(0), (Told(-1), Told(1)), part_of, errors)
    mean, low, high = predictor.predict(Features(("a",), np.array([[5.0]])))
    # The 39th of 40 ends on each side: after 6 + 40 comes 6 + 38, after 4 - 39 comes 6 - 40.
    assert (mean[0], low[0], high[0]) == (5, -34, 44)
    relative = Predictor(PREDICTORS["sum"], ADDITIVE, Told(0), (Told(-1), Told(1)), part_of, errors / 100)
    _, low, high = relative.predict(Features(ADDITIVE, np.full((1, len(ADDITIVE)), 5.0)))
    # Factors: the highest are 6 x 1.40 and 6 x 1.38, the lowest 4 x 0.61 and 4 x 0.63.
    assert (low[0], high[0]) == pytest.approx((4 * 0.63, 6 * 1.38))


def test_rank_correlation() -> None:
    a = np.array([1.0, 2, 3, 4])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, np.array([1.0, 3, 2, 4])) == pytest.approx(0.8)
    assert rank_correlation(a, np.ones(4)) == 0


# Mistakes


@every_model
def test_too_few_networks_are_refused_in_one_line(model: str) -> None:
    features, targets = drawn(FEWEST_ROWS + 4, 0)
    few = features.rows(range(FEWEST_ROWS - 1))
    with pytest.raises(InputError, match=f"predictor '{model}': needs 20 networks to learn from, not 19"):
        fit(few, targets[: FEWEST_ROWS - 1], model)
    fit(features.rows(range(FEWEST_ROWS)), targets[:FEWEST_ROWS], model)
    with pytest.raises(InputError, match="24 networks are too few for 5 folds"):
        cross_validate(features, targets, model)


def test_mistakes_are_one_line() -> None:
    features, targets = drawn(30, 0)
    with pytest.raises(InputError, match="no predictor 'rige'; did you mean 'ridge'"):
        fit(features, targets, "rige")
    with pytest.raises(InputError, match="30 networks and 29 numbers"):
        fit(features, targets[1:], "ridge")
    with pytest.raises(InputError, match="must be finite"):
        fit(features, [math.inf, *targets[1:]], "ridge")
    with pytest.raises(InputError, match="must be positive"):
        fit(features, [0, *targets[1:]], "sum")
    with pytest.raises(InputError, match="needs the columns of structure_features; not there: launches"):
        fit(Features(features.names[1:], features.values[:, 1:]), targets, "sum")
    fitted = fit(features, targets, "ridge")
    with pytest.raises(InputError, match="not in both: launches, odd"):
        fitted.predict(Features(("odd", *features.names[1:]), features.values))
    with pytest.raises(InputError, match="their order differs"):
        fitted.predict(Features(features.names[::-1], features.values))
