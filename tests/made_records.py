"""Records that no run made, for tests of what is done with records."""

import math

from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord


def validated(rate, accuracy, images=45000, loss=1.0, **settings):
    """A run at an effective rate, with a tenth of the training set held out; its test accuracy is a point below."""
    config = RunConfig.at_effective_rate(rate, validation=0.1, **settings)
    if accuracy is None:
        return RunRecord(config, "diverged", [], diverged_step=3, train_images=images)
    point = {"epoch": 1, "learning_rate": rate, "train_loss": loss, "train_accuracy": accuracy, "validation_accuracy": accuracy}
    return RunRecord(config, "finished", [point], test_accuracy=accuracy - 0.01, test_loss=loss, train_images=images)


def with_curve(losses, batch_size=16, images=160, rate=0.05, seconds=0.0, **settings):
    """A finished run whose epochs had these training losses."""
    config = RunConfig(learning_rate=rate, batch_size=batch_size, **{"epochs": len(losses)} | settings)
    curve = [{"epoch": e, "learning_rate": rate, "train_loss": x, "train_accuracy": 0.5} for e, x in enumerate(losses, 1)]
    return RunRecord(config, "finished", curve, test_accuracy=0.5, test_loss=1.0, train_images=images, seconds=seconds)


def record(rate=0.05, seed=0, loss=1.0, accuracy=0.5, **settings):
    """A run of one epoch; diverged, where the loss is not finite."""
    config = RunConfig(learning_rate=rate, seed=seed, **settings)
    if not math.isfinite(loss):
        return RunRecord(config, "diverged", [], diverged_step=3)
    point = {"epoch": 1, "learning_rate": rate, "train_loss": loss, "train_accuracy": accuracy}
    return RunRecord(config, "finished", [point], test_accuracy=accuracy, test_loss=loss)
