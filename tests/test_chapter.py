import pytest
import torch

from shallowpaths.pages import chapter as chapters


@pytest.mark.parametrize("profile", chapters.PROFILES)
def test_good_parameters(profile, capsys):
    chapter = chapters.start_chapter(profile, seed=3, device="cpu")
    assert (chapter.profile, chapter.seed, chapter.device) == (profile, 3, torch.device("cpu"))
    assert chapter.pick(quick="quick", gpu="gpu", paper="paper") == profile
    assert f"profile {profile}, seed 3" in capsys.readouterr().out


def test_the_profile_follows_the_device():
    assert chapters.start_chapter(device="cpu").profile == "quick"


def test_bad_parameters_are_refused_with_the_good_ones():
    with pytest.raises(ValueError, match="'nonsense' is unknown: choose from quick, gpu, paper"):
        chapters.start_chapter("nonsense")
    with pytest.raises(ValueError, match="device 'tpu' is unknown: choose from auto, cpu"):
        chapters.start_chapter(device="tpu")
    for seed in (-1, 1.5, "1", True, 2**63):
        with pytest.raises(ValueError, match="seed"):
            chapters.start_chapter(seed=seed)


def test_pick_wants_every_profile_and_no_other():
    chapter = chapters.start_chapter("quick", device="cpu")
    with pytest.raises(TypeError, match="paper"):
        chapter.pick(quick=1, gpu=2)
    with pytest.raises(TypeError, match="slow"):
        chapter.pick(quick=1, gpu=2, paper=3, slow=4)
