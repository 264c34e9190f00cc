"""The masking test on a model whose estimate can be read off the picture."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.houses.estimates import (
    Answers,
    log_estimates,
    measure_masking,
    run,
    summarize,
)
from foldcam.benchmarks.evaluation.localization.perturbation import CellBlur, hottest
from foldcam.runtime.system.errors import FoldcamError

SIDE, CELLS = 70, 7


class RedAgainstBlue:
    """`log estimate = mean(red) / 255 - mean(blue) / 255`, and says so in its heat."""

    def run_batch(self, images):
        return [self.result(image.astype(np.float64) / 255) for image in images]

    def result(self, image):
        signed = (image[..., 0] - image[..., 2]).reshape(CELLS, 10, CELLS, 10).mean(axis=(1, 3))
        scaled = (signed / max(np.abs(signed).max(), 1e-9)).astype(np.float32)
        return SimpleNamespace(
            estimate=float(np.exp(signed.mean())),
            heatmap=np.maximum(scaled, 0),
            heatmap_lower=np.maximum(-scaled, 0),
        )


@pytest.fixture
def images():
    """Twelve grey pictures, each with ten red and ten blue cells of its own, well apart."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(12):
        cells = np.full((CELLS, CELLS, 3), 128, np.uint8)
        order = generator.permutation(CELLS * CELLS)
        cells.reshape(-1, 3)[order[:10]] = (255, 0, 0)
        cells.reshape(-1, 3)[order[10:20]] = (0, 0, 255)
        made.append(np.repeat(np.repeat(cells, 10, axis=0), 10, axis=1))
    return made


def _answers(model, images):
    results = run(model, images)
    heat = np.stack([r.heatmap - r.heatmap_lower for r in results])
    return Answers(images, results, log_estimates(results), np.zeros((len(images), 1)), heat)


def test_a_true_picture_passes_and_a_swapped_one_fails(images):
    model = RedAgainstBlue()
    honest = _answers(model, images)
    found = summarize({"frontal": measure_masking(model, honest, 0)}, 200)["all"]
    assert found["raising"].high < 0
    assert found["lowering"].low > 0
    for control in ("random", "other"):
        assert found[f"raising_minus_{control}"].high < 0
        assert found[f"lowering_minus_{control}"].low > 0
        assert found[f"raising_below_{control}"].mean > 0.9
        assert found[f"lowering_above_{control}"].mean > 0.9
    swapped = Answers(
        honest.images, honest.results, honest.log_estimates, honest.embeddings, -honest.signed_heat
    )
    lie = summarize({"frontal": measure_masking(model, swapped, 0)}, 200)["all"]
    assert lie["raising_minus_random"].low > 0
    assert lie["raising_below_other"].mean < 0.1


def test_a_picture_that_knows_nothing_is_undecided(images):
    model = RedAgainstBlue()
    honest = _answers(model, images)
    noise = np.random.default_rng(5).normal(size=honest.signed_heat.shape)
    blind = Answers(images, honest.results, honest.log_estimates, honest.embeddings, noise)
    found = summarize({"frontal": measure_masking(model, blind, 0)}, 500)["all"]
    for own in ("raising", "lowering"):
        for control in ("random", "other"):
            interval = found[f"{own}_minus_{control}"]
            assert interval.low < 0.01
            assert interval.high > -0.01


def test_the_same_seed_gives_the_same_controls(images):
    model = RedAgainstBlue()
    answers = _answers(model, images)
    first, again, other = (measure_masking(model, answers, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["random"], other["random"])


def test_another_houses_map_is_never_the_houses_own(images):
    """Two houses: each is masked by the other's map alone."""
    model = RedAgainstBlue()
    answers = _answers(model, images[:2])
    found = measure_masking(model, answers, 0)
    for own, other in ((0, 1), (1, 0)):
        cells = hottest(answers.signed_heat[other], 0.2)
        after = run(model, [CellBlur(images[own])(cells)])
        change = log_estimates(after)[0] - answers.log_estimates[own]
        assert found["other_raising"][own] == pytest.approx(change)


def test_all_is_the_mean_over_a_houses_photographs():
    one, two = (
        {
            name: np.array([value, value])
            for name in ("raising", "lowering", "random", "other_raising", "other_lowering")
        }
        for value in (1.0, 3.0)
    )
    found = summarize({"frontal": one, "kitchen": two}, 10)
    assert set(found) == {"frontal", "kitchen", "all"}
    assert found["all"]["raising"].mean == 2
    assert found["kitchen"]["raising_minus_random"].mean == 0


@pytest.mark.parametrize("estimate", [None, 0.0, -3.0, float("nan")])
def test_an_estimate_that_is_no_price_is_refused(estimate):
    with pytest.raises(FoldcamError, match="no price"):
        log_estimates([SimpleNamespace(estimate=estimate)])
