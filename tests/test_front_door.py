"""`import shallowpaths as sp`: fast, light, and every name is there."""

import subprocess
import sys

import pytest

import shallowpaths as sp


def test_importing_the_package_loads_nothing_heavy():
    program = "import shallowpaths, sys; print(sorted({'torch', 'numpy', 'matplotlib', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_settings_and_mistakes_do_not_wait_for_torch():
    program = (
        "import shallowpaths as sp, sys; sp.RunConfig(recipe='skipinit', depth=100); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", sp.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert getattr(sp, name).__doc__
    assert name in dir(sp)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = sp.no_such_name
