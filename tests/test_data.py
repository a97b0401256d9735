import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from shallowpaths import data
from shallowpaths._torchvision import import_torchvision
from shallowpaths.data import sources
from shallowpaths.data.whole import cropper


def test_digits_are_scikit_learns_each_once():
    digits = data.load("digits")
    ours = torch.cat([digits.train_images, digits.test_images])[:, 0].numpy()
    assert sorted(image.tobytes() for image in ours) == sorted(
        i.astype(np.uint8).tobytes() for i in load_digits().images
    )
    assert (len(digits.train_images), len(digits.test_images), digits.classes) == (1437, 360, 10)
    assert digits.image_shape == (1, 8, 8)


def test_standardized_training_images_have_mean_0_and_deviation_1():
    digits = data.load("digits")
    pixels = digits.standardize(digits.train_images).double()
    assert pixels.mean().item() == pytest.approx(0, abs=1e-6)
    assert pixels.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_held_out_images_leave_the_training_split_and_nothing_else_changes():
    digits = data.load("digits")
    split = digits.hold_out(0.2)
    assert len(split.validation_images) == 287
    together = torch.cat([split.train_images, split.validation_images])
    assert sorted(i.numpy().tobytes() for i in together) == sorted(i.numpy().tobytes() for i in digits.train_images)
    assert torch.equal(split.test_images, digits.test_images)
    assert torch.equal(split.mean, digits.mean)
    assert torch.equal(split.validation_images, digits.hold_out(0.2).validation_images)
    labels = {i.numpy().tobytes(): int(c) for i, c in zip(digits.train_images, digits.train_labels, strict=True)}
    for image, label in zip(split.validation_images, split.validation_labels, strict=True):
        assert labels[image.numpy().tobytes()] == int(label)


def draw_augmentation(count, padding, flips, generator):
    some = dataclasses.replace(data.load("digits"), padding=padding, flips=flips)
    _, offsets, mirrored = some.draw(torch.arange(count)[None], generator)
    return offsets[0], mirrored[0]


def crop_and_flip(images, padding, offsets, flips):
    """By torchvision, image by image."""
    functional = import_torchvision("transforms.v2.functional")  # here: it takes seconds
    height, width = images.shape[-2:]
    crops = [
        functional.crop(functional.pad(image, [padding] * 4), top, left, height, width)
        for image, (top, left) in zip(images, offsets.tolist(), strict=True)
    ]
    return torch.stack([functional.hflip(crop) if flip else crop for crop, flip in zip(crops, flips, strict=True)])


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (2, 5, 7), (3, 32, 32), (4, 6, 4)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_the_one_gather_equals_torchvisions_pad_crop_and_flip(channels, height, width, padding):
    images = torch.randint(0, 256, (60, channels, height, width), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 60, (500,), generator=generator)
    offsets, flips = draw_augmentation(500, padding, flips=True, generator=generator)
    mean, std = 255 * torch.rand(2, channels, 1, 1, generator=generator)
    standardized = cropper(images, padding, mean, std)(index, offsets, flips)
    expected = crop_and_flip(images[index], padding, offsets, flips)
    assert torch.equal(standardized, (expected.float() - mean) / std)
    assert standardized.is_contiguous(memory_format=torch.channels_last)


def test_standardizing_leaves_the_images_alone_in_any_layout():
    digits = data.load("digits")
    images = digits.train_images[:64].clone()
    expected = (images.float() - digits.mean) / digits.std
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(digits.standardize(images.to(memory_format=layout)), expected)
    assert torch.equal(images, digits.train_images[:64])


def test_offsets_and_flips_are_uniform_and_independent_per_image():
    offsets, flips = draw_augmentation(81_000, 4, flips=True, generator=torch.Generator().manual_seed(1))
    cells = torch.bincount(offsets[:, 0] * 9 + offsets[:, 1], minlength=81)
    assert (cells > 0).all()  # all 81 occur
    assert ((cells - 1000).abs() < 5 * math.sqrt(1000)).all()
    assert abs(flips.float().mean() - 0.5) < 5 * 0.5 / math.sqrt(81_000)
    for a in (
        offsets[:, 0],
        offsets[:, 1],
        flips,
    ):  # an image's draw says nothing about the next image's, nor about its others
        for b in (offsets[1:, 0], offsets[1:, 1], flips[1:]):
            correlation = np.corrcoef(a[:-1].numpy(), b.numpy())[0, 1]
            assert abs(correlation) < 5 / math.sqrt(81_000)
    assert abs(np.corrcoef(offsets[:, 0].numpy(), flips.numpy())[0, 1]) < 5 / math.sqrt(81_000)


def test_images_in_one_batch_are_cropped_differently():
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(200, 1, 8, 8)
    offsets, flips = draw_augmentation(200, 1, flips=False, generator=torch.Generator().manual_seed(0))
    cropped = cropper(image, 1, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert len({i.numpy().tobytes() for i in cropped(torch.arange(200), offsets, flips)}) == 9
    assert not flips.any()


def write_cifar(folder, images_a_batch=20):
    """A small data set in CIFAR-10's own format, with torchvision's checksums adjusted to it by the caller."""
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        content = {
            "data": rng.integers(0, 256, (images_a_batch, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(images_a_batch)],
        }
        (base / name).write_bytes(pickle.dumps(content))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return base


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    datasets = import_torchvision("datasets")
    base = write_cifar(tmp_path)
    md5 = datasets.utils.calculate_md5
    for attribute in ("train_list", "test_list"):
        files = [[name, md5(base / name)] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, files)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5(base / "batches.meta")})
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://localhost:9/cifar-10-python.tar.gz")  # no network in tests
    sources._cifar10.cache_clear()
    yield tmp_path
    sources._cifar10.cache_clear()


def test_cifar_is_read_from_torchvisions_files(cifar_folder, monkeypatch):
    cifar = data.load("cifar10", folder=cifar_folder)
    assert cifar.train_images.shape == (100, 3, 32, 32)
    assert (len(cifar.test_images), cifar.padding, cifar.flips) == (20, 4, True)
    raw = pickle.loads((cifar_folder / "cifar-10-batches-py" / "data_batch_1").read_bytes())["data"]
    assert torch.equal(cifar.train_images[0].flatten(), torch.from_numpy(raw[0]))
    pixels = cifar.train_images.double()
    torch.testing.assert_close(cifar.mean.flatten().double(), pixels.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(cifar.std.flatten().double(), pixels.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(cifar_folder))
    assert data.load("cifar10").checksum == cifar.checksum


def test_cifar_at_half_its_size_averages_blocks_of_pixels(cifar_folder):
    whole, half = (data.load(name, folder=cifar_folder) for name in ("cifar10", "cifar10-16x16"))
    assert (half.name, half.image_shape, half.padding, half.flips) == ("cifar10-16x16", (3, 16, 16), 2, True)
    assert torch.equal(half.train_labels, whole.train_labels)
    assert half.checksum != whole.checksum
    for small, large in ((half.train_images, whole.train_images), (half.test_images, whole.test_images)):
        blocks = large.numpy().astype(int).reshape(len(large), 3, 16, 2, 16, 2).sum(axis=(3, 5))
        assert np.array_equal(small.numpy(), (2 * blocks + 4) // 8), "a fourth of the sum, halves up"


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_truncated_file_is_named(cifar_folder, name):
    path = cifar_folder / "cifar-10-batches-py" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        data.load("cifar10", folder=cifar_folder)
    assert path.exists()  # what the user has is not taken away


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_missing_file_without_network_names_the_folder(cifar_folder):
    (cifar_folder / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(ValueError, match=r"not in .*could not be downloaded") as error:
        data.load("cifar10", folder=cifar_folder)
    assert str(cifar_folder) in str(error.value)


def test_without_a_home_folder_the_default_is_named(monkeypatch):
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr("pathlib.Path.expanduser", _no_home)
    with pytest.raises(ValueError, match=r"CIFAR-10 in ~/.cache/shallowpaths cannot be read: .*home"):
        data.load("cifar10")


def _no_home(*_):
    raise RuntimeError("Could not determine home directory.")


def test_files_that_cannot_be_read_are_named(cifar_folder, monkeypatch):
    def forbidding(path, _md5):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(import_torchvision("datasets").utils, "check_integrity", forbidding)
    with pytest.raises(ValueError, match=r"CIFAR-10 in .* cannot be read: .*Permission denied: .*data_batch_1"):
        data.load("cifar10", folder=cifar_folder)


@pytest.mark.parametrize("fraction", [math.nan, -0.1, 1, "half"])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        data.load("digits").hold_out(fraction)


def test_a_second_split_would_lose_the_first():
    with pytest.raises(ValueError, match="already"):
        data.load("digits").hold_out(0.2).hold_out(0.2)


@pytest.mark.parametrize("fraction", [1e-6, 0.99999])
def test_an_empty_split_is_refused(fraction):
    with pytest.raises(ValueError, match="to validate on"):
        data.load("digits").hold_out(fraction)


def test_images_of_many_channels_are_refused():
    with pytest.raises(ValueError, match="5 channels"):
        cropper(torch.zeros(2, 5, 8, 8, dtype=torch.uint8), 1, *torch.ones(2, 5, 1, 1))


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(ValueError, match="digits, cifar10, cifar10-16x16"):
        data.load("imagenet")
