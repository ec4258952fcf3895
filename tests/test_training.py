"""Training goes on from a checkpoint exactly, and sees data drawn from the seed alone."""

import numpy as np
import pytest

from nodebench.bench.checkpoints import TrainingCheckpoint
from nodebench.bench.tracking import Moments, moments
from nodebench.bench.worker import training as module
from nodebench.bench.worker.subject import load_inputs
from nodebench.bench.worker.training import Training
from nodebench.frameworks.base import Optimizer
from nodebench.tasks.base import GradientInputs, Metric, Recipe, Splits
from nodebench.testing import FakeModel, FakeTrainer


class Killed(Exception):
    """Stands for a kill."""


class MortalTrainer(FakeTrainer):
    """Dies after so many steps."""

    def __init__(self, model, learning_rate, life):
        FakeTrainer.__init__(self, model, learning_rate)
        self.life = life
        self.seen = []

    def step(self, batch):
        if self.life == 0:
            raise Killed
        self.life -= 1
        self.seen.append(batch["x"].copy())
        return FakeTrainer.step(self, batch)


def make_training(url, life=10**6, kept=None, n_moments=0, **recipe):
    """A training of three epochs of five steps, which keeps its rate at some moments."""
    trainer = MortalTrainer(FakeModel(rate=0.0), 0.1, life)
    x = np.random.default_rng(0).standard_normal(20)
    part = {"x": x, "sleep_s": np.zeros(20)}
    return Training(
        trainer=trainer,
        recipe=Recipe(Optimizer(), **{"batch_size": 4, "epochs": 3, **recipe}),
        splits=Splits("x", part, part, part),
        metric=Metric("distance", "1", "lower"),
        seed=1,
        checkpoint=TrainingCheckpoint(str(url), kept=kept),
        n_params=1,
        count=None,
        moments=Moments(
            moments(3, n_moments), kept, lambda: GradientInputs({"rate": np.array(trainer.model.rate)}, {})
        ),
        report=lambda *_: None,
    )


def jitter(batch, rng):
    return {**batch, "x": batch["x"] + rng.standard_normal(batch["x"].shape)}


@pytest.mark.parametrize("life", [1, 5, 7, 14])
@pytest.mark.parametrize("place", ["{tmp_path}", "memory://{tmp_path}"])
def test_a_killed_training_ends_the_same(tmp_path, monkeypatch, life, place):
    """Killed after any number of steps, with a checkpoint after each, the result is that of an undisturbed training."""
    monkeypatch.setattr(module, "CHECKPOINT_S", (0.0, 0.0))
    folder = place.format(tmp_path=tmp_path)
    undisturbed = make_training(f"{folder}/a", augment=jitter)
    expected = undisturbed.run()
    with pytest.raises(Killed):
        make_training(f"{folder}/b", life, augment=jitter).run()
    resumed = make_training(f"{folder}/b", augment=jitter)
    found = resumed.run()
    assert resumed.trainer.model.rate == undisturbed.trainer.model.rate
    assert [e["train_loss"] for e in found.history] == [e["train_loss"] for e in expected.history]
    assert np.array_equal(resumed.trainer.seen, undisturbed.trainer.seen[life:])
    assert (expected.parts, found.parts) == ([], [life])


@pytest.mark.parametrize(
    ("epochs", "n", "expected"),
    [(30, 0, ()), (30, 1, (0, 30)), (30, 3, (0, 10, 20, 30)), (5, 2, (0, 3, 5)), (3, 3, (0, 1, 2, 3)),
     (3, 99, (0, 1, 2, 3)), (1, 2, (0, 1))],
)  # fmt: skip
def test_moments_are_spread_over_the_epochs(epochs, n, expected):
    """The initial weights, and n moments whose last is the end; of fewer epochs than n each has one."""
    assert moments(epochs, n) == expected


def rates(folder):
    """What was kept, by epoch; None of a moment that had passed."""
    sizes = {path: path.stat().st_size for path in folder.iterdir()}
    return {int(p.stem): float(load_inputs(p).weights["rate"]) if size else None for p, size in sizes.items()}


def folders(tmp_path, *names):
    """Empty folders."""
    made = [tmp_path / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.parametrize("life", [0, 3, 5, 7, 10, 14])
def test_a_killed_training_has_kept_the_same_moments(tmp_path, monkeypatch, life):
    """Wherever it was killed, and though what it had written is gone with its machine: its checkpoint has it all."""
    monkeypatch.setattr(module, "CHECKPOINT_S", (0.0, 0.0))
    whole, killed, resumed = folders(tmp_path, "whole", "killed", "resumed")
    make_training(tmp_path / "a", kept=whole, n_moments=2).run()
    with pytest.raises(Killed):
        make_training(tmp_path / "b", life, kept=killed, n_moments=2).run()
    make_training(tmp_path / "b", kept=resumed, n_moments=2).run()
    assert rates(resumed) == rates(whole)
    assert sorted(rates(killed)) == [epoch for epoch in (0, 2, 3) if 5 * epoch <= life]
    assert sorted(rates(whole)) == [0, 2, 3]
    assert len(set(rates(whole).values())) == 3


def test_a_training_that_is_tracked_from_its_checkpoint_on_says_what_has_passed(tmp_path, monkeypatch):
    """The weights of earlier moments are not known, nor are others put in their place."""
    monkeypatch.setattr(module, "CHECKPOINT_S", (0.0, 0.0))
    whole, resumed = folders(tmp_path, "whole", "resumed")
    make_training(tmp_path / "a", kept=whole, n_moments=3).run()
    with pytest.raises(Killed):
        make_training(tmp_path / "b", 7).run()
    make_training(tmp_path / "b", kept=resumed, n_moments=3).run()
    assert rates(resumed) == {0: None, 1: None, 2: rates(whole)[2], 3: rates(whole)[3]}


def test_a_training_that_is_stopped_soon_has_a_checkpoint(tmp_path, monkeypatch):
    """The first comes early and later ones seldom: of one stopped at any moment at least half is there."""
    clock = iter(np.arange(0.0, 1000.0, 0.25))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    saved = []
    monkeypatch.setattr(TrainingCheckpoint, "save", lambda _self, _trainer, progress: saved.append(progress.step))
    make_training(tmp_path / "c", epochs=1, steps_per_epoch=400).run()
    within = np.array([step for step in saved if step])
    assert len(within) > 10
    assert within[0] < 8
    assert (within[1:] <= 2 * within[:-1] + 8).all()
    assert len(set(np.diff(within)[-4:])) == 1  # a pause that no longer grows


def test_an_epoch_sees_every_example_once(tmp_path):
    """Batches of an epoch are a permutation of the data; two epochs have two orders."""
    training = make_training(tmp_path / "c", epochs=2)
    training.run()
    epochs = np.concatenate(training.trainer.seen).reshape(2, 20)
    data = np.sort(training.splits.train["x"])
    assert np.array_equal(np.sort(epochs[0]), data)
    assert np.array_equal(np.sort(epochs[1]), data)
    assert not np.array_equal(epochs[0], epochs[1])


def test_root_mean_square_is_over_all_examples(tmp_path):
    """The root-mean-square of a split does not depend on how it is cut into batches."""
    values = []
    for size in (3, 20):
        training = make_training(tmp_path / "c", evaluation_batch=size)
        metric = Metric("rmse", "1", "lower", "root-mean-square")
        values.append(Training(**{**vars(training), "metric": metric}).evaluate(training.splits.test))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert values[0] == pytest.approx(np.sqrt(np.mean(training.splits.test["x"] ** 2)), rel=1e-12)
