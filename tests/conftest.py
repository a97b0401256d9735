import multiprocessing

import pytest


@pytest.fixture(scope="session")
def forkserver():
    """Processes that start within a fraction of a second, with torch and the package imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shallowpaths.sweeping", "sklearn.datasets", "torch._dynamo"])
    return context
