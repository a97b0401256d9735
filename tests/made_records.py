"""Records that no run made, for tests of what is done with records."""

import math

from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord


def record(rate=0.05, seed=0, loss=1.0, accuracy=0.5, **settings):
    """A run of one epoch; diverged, where the loss is not finite."""
    config = RunConfig(learning_rate=rate, seed=seed, **settings)
    if not math.isfinite(loss):
        return RunRecord(config, "diverged", [], diverged_step=3)
    point = {"epoch": 1, "learning_rate": rate, "train_loss": loss, "train_accuracy": accuracy}
    return RunRecord(config, "finished", [point], test_accuracy=accuracy, test_loss=loss)
