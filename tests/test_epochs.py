import math

import pytest
import torch
from torch import nn

from shallowpaths import data
from shallowpaths.networks import ResidualMLP
from shallowpaths.training import epochs
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import Timetable
from shallowpaths.training.runs import Run


def test_the_papers_schedule_over_200_epochs_by_hand():
    """With 781 steps an epoch: constant for 100 epochs, then a half of it every 10."""
    factors = [epochs.learning_rate_factor("paper", 781 * epoch, 781 * 200) for epoch in range(200)]
    assert factors[:100] == [1.0] * 100
    for tenth in range(10):
        assert factors[100 + 10 * tenth : 110 + 10 * tenth] == [0.5 ** (tenth + 1)] * 10


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 15, 781])
def test_short_schedules_never_rise(steps):
    factors = [epochs.learning_rate_factor("paper", step, steps) for step in range(steps)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert epochs.learning_rate_factor("constant", steps - 1, steps) == 1.0


def test_the_rate_warms_up_in_equal_steps_to_the_schedules():
    """100 images in batches of 20 are 5 steps an epoch; of 30 steps the first 10 warm up, and the second half halves."""
    times = Timetable(RunConfig(batch_size=20, epochs=6, warmup_epochs=2, learning_rate=1.0), 100)
    rates = [rate for epoch in range(6) for rate in times.rates(epoch)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    plain = Timetable(RunConfig(batch_size=20, epochs=6, learning_rate=1.0), 100)
    assert rates[10:] == [rate for epoch in range(6) for rate in plain.rates(epoch)][10:]
    assert epochs.learning_rate_factor("constant", 2, 30, warmup=4) == 0.75


@pytest.mark.parametrize(("images", "batch_size"), [(100, 10), (100, 7), (100, 64), (101, 101), (7, 2)])
def test_every_image_comes_once_an_epoch_and_no_batch_is_short(images, batch_size):
    count = 6
    times = Timetable(RunConfig(batch_size=batch_size, steps=count * images // batch_size, seed=3), images)
    orders = [times.order(epoch) for epoch in range(count)]
    assert all(order.shape[1] == batch_size for order in orders)
    stream = torch.cat(orders).flatten()
    assert len(stream) == count * images // batch_size * batch_size
    for start in range(0, len(stream) - images + 1, images):
        assert sorted(stream[start : start + images].tolist()) == list(range(images))
    assert sum(len(o) for o in orders) == times.steps_before(count)


def test_epochs_and_seeds_have_orders_of_their_own():
    times = [Timetable(RunConfig(batch_size=10, steps=10, seed=seed), 50) for seed in (0, 1)]
    orders = [t.order(epoch).flatten().tolist() for t in times for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(("l2_on_scalars", "alpha_rate"), [(True, 1.0), (False, 1.0), (True, 0.25), (False, 0.0)])
def test_one_epoch_equals_heavy_ball_sgd_written_out_by_hand(l2_on_scalars, alpha_rate):
    """v <- momentum v + gradient + l2 w, w <- w - rate v, over three steps; the alphas' rate has its factor."""
    config = RunConfig(
        network="residual-mlp", recipe="skipinit-0.5", depth=6, width=8, learning_rate=0.1, batch_size=400
    )
    config = config.replace(l2=0.01, l2_on_scalars=l2_on_scalars, alpha_rate=alpha_rate, augment=False)
    digits = data.load("digits")
    ours, theirs = (ResidualMLP(6, 8, "skipinit-0.5", generator=torch.Generator().manual_seed(0)) for _ in range(2))
    (result,) = Run(config, digits, ours).epoch(0)
    velocity = [torch.zeros_like(p) for p in theirs.parameters()]
    losses = []
    for index in Timetable(config, 1437).order(0):
        logits = theirs(digits.standardize(digits.train_images[index]))
        chosen = logits.log_softmax(1)[torch.arange(400), digits.train_labels[index]]
        losses.append(-chosen.mean())
        gradients = torch.autograd.grad(losses[-1], list(theirs.parameters()))
        with torch.no_grad():
            for (name, p), g, v in zip(theirs.named_parameters(), gradients, velocity, strict=True):
                penalty = config.l2 if l2_on_scalars or p.ndim >= 2 else 0.0
                v.mul_(0.9).add_(g + penalty * p)
                p.sub_(0.1 * v * (alpha_rate if name.endswith("scale.alpha") else 1.0))
    assert len(losses) == 3
    assert result.loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert (ours.blocks[0].scale.alpha == 0.5) == (alpha_rate == 0.0)


def test_the_first_loss_that_is_not_finite_is_found():
    class Fuse(nn.Module):
        """Breaks on its third batch."""

        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(64, 10), 0

        def forward(self, x):
            self.calls += 1
            return self.layer(x.flatten(1)) * (math.nan if self.calls == 3 else 1.0)

    network, config = Fuse(), RunConfig(batch_size=100)
    run, calls = Run(config, data.load("digits"), network), []
    (result,) = run.epoch(0, lambda: calls.append(network.calls))
    assert result.first_bad_step == 2
    assert calls == [1, 2], "what came after the bad step is not to be saved"


def test_steps_go_on_behind_those_that_were_taken_and_until_no_run_is_finite():
    losses = torch.tensor([[1.0, 2.0], [3.0, math.nan], [5.0, math.inf], [math.nan, math.inf], [7.0, 8.0]])
    taken = [(losses[0], losses[0] / 10)]
    rates = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 4.0, 8.0]
    steps = [(loss,) for loss in losses[1:]]
    assert epochs.take_steps(lambda loss: (loss, loss / 10), steps, lambda: None, taken, *rates)[0].first_bad_step == 3
    assert len(taken) == 4
    first, second = epochs.take_steps(lambda loss: loss, [], lambda: None, taken[:3], *rates)
    assert (first.loss, first.first_bad_step, first.learning_rate) == (3.0, None, 0.3)
    assert first.accuracy == pytest.approx(0.3)
    assert (second.first_bad_step, second.learning_rate) == (1, 4.0)


@pytest.mark.parametrize("budget", [{"epochs": 7}, {"epochs": None, "steps": 30}])
def test_an_epochs_rates_are_the_schedules_over_all_steps(budget):
    config = RunConfig(batch_size=100, learning_rate=0.3, **budget)
    steps = config.total_steps(1437)
    times = Timetable(config, 1437)
    found = [rate for epoch in range(times.epochs) for rate in times.rates(epoch)]
    assert found == [0.3 * epochs.learning_rate_factor("paper", step, steps) for step in range(steps)]


def test_evaluation_equals_torchs_own_over_one_batch():
    digits = data.load("digits")
    network = ResidualMLP(recipe="batchnorm")
    found = epochs.evaluate(network, digits, "train", "float32")  # two chunks
    network.eval()
    with torch.no_grad():
        logits = network(digits.standardize(digits.train_images))
    assert found["train_loss"] == pytest.approx(nn.CrossEntropyLoss()(logits, digits.train_labels).item(), rel=1e-5)
    assert found["train_accuracy"] == pytest.approx((logits.argmax(1) == digits.train_labels).double().mean().item())
