import multiprocessing

import pytest
import torch


@pytest.fixture(scope="session")
def forkserver():
    """Processes that start within a fraction of a second, with torch and the package imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shallowpaths.experiments.sweep", "sklearn.datasets", "torch._dynamo"])
    return context


@pytest.fixture(autouse=True, scope="module")
def seeded_for_the_module():
    """So that what a module makes once is the same too."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers every time, whatever ran before it."""
    torch.manual_seed(0)
