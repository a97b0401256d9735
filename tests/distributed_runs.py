"""What test_distributed.py has torchrun start: each process leaves what it found in the folder that it is given.

In their first life one of the processes dies amid a run; in their second they take that run to its end.
"""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from shallowpaths.cli import main
from shallowpaths.data import Dataset
from shallowpaths.experiments.sweep import sweep
from shallowpaths.training import distributed, train
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import Run
from shallowpaths.training.steps import Step

MLP = {"network": "residual-mlp", "depth": 10, "width": 16, "device": "cpu"}
RUNS = {
    "dropout": RunConfig("regularized-skipinit", **MLP, batch_size=32, steps=60, curvature_images=128, validation=0.1),
    "convolutions": RunConfig("skipinit-1/sqrt(d)", depth=10, device="cpu", batch_size=32, steps=6),
    "images": RunConfig(
        "skipinit-1/sqrt(d)", **MLP, data="imagefolder", image_size=16, batch_size=4, epochs=2, validation=0.2
    ),
    "normalized": RunConfig("batchnorm", depth=10, device="cpu", batch_size=32, steps=6),
    "diverging": RunConfig("unnormalized", **MLP, batch_size=32, steps=60, learning_rate=3.0),
    "killed": RunConfig("batchnorm", **MLP, batch_size=256, epochs=5),
}
KILLED_AT = 12  # of its 28 steps
COMMAND = "train --network residual-mlp --depth 10 --width 16 --batch-size 512 --epochs 1 --device cpu --store"


class KeptRun(Run):
    """A Run of which the last one stays, to be looked at."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        KeptRun.last = self


def trained(config, **options):
    """What came of a run: of its record all that must be equal, its device, its weights and its last gradients."""
    record = train.train(config, progress=False, **options)
    network = KeptRun.last.network
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {
        "result": record.result(),
        "record": record.to_json(),
        "device": record.device_name,
        "weights": network.state_dict(),
        "gradients": gradients,
    }


def refused(function, *arguments, **named):
    """The ValueError's words."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011, they are looked at by the test
        function(*arguments, **named)
    return str(caught.value)


def refusals(config):
    unread = config.replace(data="imagefolder")  # of a folder that is not there, if it were read first
    return {
        "batch": refused(train.train, unread.replace(batch_size=33), "nowhere"),
        "plan": refused(sweep, [unread, config.replace(batch_size=33)], data_folder="nowhere"),
        "lanes": refused(train.train_lanes, [config, config.replace(seed=1)]),
        "sweep": refused(sweep, [config], processes=2),
        "mps": refused(distributed.own_device, torch.device("mps")),
    }


def die_once(take):
    """Step.take, at whose step KILLED_AT the second process of the first life ends at once."""
    taken = []

    def take_or_die(*arguments):
        taken.append(arguments)
        if len(taken) == KILLED_AT and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(*arguments)

    return take_or_die


def run(folder):
    """Both lives."""
    Dataset.evaluation_batch = 100  # so that each process has a part, and the parts differ
    train.Run = KeptRun
    distributed.join()
    mine = folder / f"process-{distributed.rank()}"
    checkpoints = folder / "checkpoints"
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        found = {name: trained(config, data_folder=folder / "images") for name, config in RUNS.items()}
        torch.save(found | {"refusals": refusals(RUNS["killed"])}, mine)
        Step.take = die_once(Step.take)
    (mine.with_suffix(".starts")).open("a").write(f"{len(list(folder.glob('checkpoints/*')))} ")
    options = {"checkpoint_folder": checkpoints, "checkpoint_every": 0}
    found = torch.load(mine, weights_only=False) | {"resumed": trained(RUNS["killed"], **options)}
    calls = [CliRunner().invoke(main, [*COMMAND.split(), str(folder / "store")]) for _ in range(2)]
    torch.save(found | {"printed": [call.output for call in calls]}, mine)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
