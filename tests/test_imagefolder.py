"""Images that stream from a disk: what a network sees of them, and what becomes of bad ones."""

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from image_folders import CLASSES, write_images
from shallowpaths._torchvision import import_torchvision
from shallowpaths.data import load_folder
from shallowpaths.training import checkpoints
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import answers
from shallowpaths.training.train import train, train_lanes

RUN = RunConfig(
    recipe="regularized-skipinit", network="residual-mlp", depth=6, width=8, data="imagefolder", image_size=16, epochs=2,
    batch_size=5, learning_rate=0.01, validation=0.2, device="cpu",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def plain_images(data, part):
    images, labels = (torch.cat(parts) for parts in zip(*data.plain(part, 10), strict=True))
    return (images * data.std + data.mean).round().byte(), labels


def test_evaluation_sees_the_resized_middle_of_every_image(folder):
    functional = import_torchvision("transforms.v2.functional")
    data = load_folder(folder, size=14)
    assert (data.classes, data.image_shape, len(data.train_images), len(data.test_images)) == (7, (3, 14, 14), 35, 14)
    images, labels = plain_images(data, "test")
    assert labels.tolist() == [label for label in range(7) for _ in range(2)]
    for number, found in enumerate(images):
        with Image.open(folder / "val" / CLASSES[number // 2] / f"{number % 2}.png") as image:
            resized = functional.resize(functional.pil_to_tensor(image), [16], antialias=True)  # 256/224 of 14; 21 wide
        assert (found.int() - resized[:, 1:15, 4:18].int()).abs().max() <= 1, "PIL and torch resize alike, to rounding"


def test_mean_and_deviation_are_the_training_images_own(folder):
    data = load_folder(folder, size=14)
    pixels = plain_images(data, "train")[0].double()
    torch.testing.assert_close(data.mean.flatten().double(), pixels.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(data.std.flatten().double(), pixels.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)


def test_what_an_image_becomes_follows_from_its_seed(folder):
    v2 = import_torchvision("transforms.v2")
    data = load_folder(folder, size=14)
    order, seeds = data.draw(torch.arange(35).repeat(2).view(7, 10), torch.Generator().manual_seed(3))
    before = torch.get_rng_state()
    steps = list(data.feed(order, seeds))
    assert torch.equal(torch.get_rng_state(), before), "dropout draws what it draws without images"
    images, labels = (torch.cat(parts) for parts in zip(*steps, strict=True))
    assert torch.equal(labels, data.train_labels[order.flatten()])
    assert not torch.equal(images[:35], images[35:]), "each time another crop"
    usual = v2.Compose([v2.RandomResizedCrop(14), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    for place in (0, 17, 69):
        with Image.open(folder / os.fsdecode(data.train_images[place % 35])) as image:
            torch.manual_seed(int(seeds.flatten()[place]))
            assert torch.equal(usual(image), images[place])
    later = list(data.feed(order[5:, :3], seeds[5:, :3]))
    assert all(torch.equal(mine, whole[:3]) for mine, whole in zip(later[1], steps[6], strict=True)), "a part is that part"


def test_the_number_of_workers_changes_nothing(folder):
    here, elsewhere = (train(RUN, folder, progress=False, workers=workers) for workers in (0, 2))
    assert here.result() == elsewhere.result()
    assert here.outcome == "finished"


def test_a_record_counts_the_five_likeliest(folder):
    record = train(RUN.replace(epochs=20, augment=False), folder, progress=False)
    assert record.curve[-1]["train_loss"] < 0.7 * record.curve[0]["train_loss"], "it learns"
    assert (record.train_images, len(record.data_checksum)) == (28, 64)
    assert 5 / 7 - 0.3 < record.test_top5_accuracy <= 1
    for part in ("train", "validation"):
        assert all(point[f"{part}_accuracy"] <= point[f"{part}_top5_accuracy"] for point in record.curve)
    assert all(point["train_top5_accuracy"] < 1 for point in record.curve[:1])


def test_answers_against_a_sort():
    logits, labels = torch.randn(200, 9), torch.randint(9, (200,))
    first, five = answers(logits, labels, counts_top5=True)
    places = (logits > logits[torch.arange(200), labels][:, None]).sum(1)  # classes that are likelier than the label
    assert torch.equal(first, places == 0)
    assert torch.equal(five, places < 5)
    assert len(answers(logits, labels, counts_top5=False)) == 1


def test_other_data_keeps_its_records(folder):
    record = train(RUN.replace(data="digits", image_size=None, batch_size=500), progress=False)
    assert record.test_top5_accuracy is None
    assert not any("top5" in key for point in record.curve for key in point)
    for name in CLASSES[5:]:
        for part in ("train", "val"):
            for file in (folder / part / name).iterdir():
                file.unlink()
            (folder / part / name).rmdir()
    assert not load_folder(folder, size=14).counts_top5, "of five classes all are among the five"


@pytest.mark.parametrize("after", [2, 7])  # of 11 steps: in the first epoch and in the second
def test_a_killed_run_ends_bitwise_as_the_uninterrupted_one(folder, tmp_path_factory, monkeypatch, after):
    class Killed(BaseException):
        pass

    saved, save, where = [], checkpoints.save, tmp_path_factory.mktemp("checkpoint")

    def save_and_stop(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == after:
            raise Killed

    whole = train(RUN, folder, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        with pytest.raises(Killed):
            train(RUN, folder, progress=False, checkpoint_folder=where, checkpoint_every=0)
    assert train(RUN, folder, progress=False, checkpoint_folder=where).result() == whole.result()


def test_the_checksum_follows_names_and_sizes(folder):
    before = load_folder(folder, size=14).checksum
    assert load_folder(folder, size=28).checksum == before
    with (folder / "val" / "c" / "1.png").open("ab") as file:
        file.write(b" ")
    longer = load_folder(folder, size=14).checksum
    (folder / "val" / "c" / "1.png").rename(folder / "val" / "c" / "2.png")
    assert len({before, longer, load_folder(folder, size=14).checksum}) == 3


def test_greys_and_palettes_become_colours(folder):
    for mode in ("L", "1", "P", "CMYK"):
        file = folder / "val" / "a" / f"mode_{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new("RGB", (20, 20), (128, 128, 128)).convert(mode).save(file)
    images, _ = plain_images(load_folder(folder, size=14), "test")
    assert images.shape == (18, 3, 14, 14)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-400])


def transparent(file):
    Image.new("RGBA", (20, 20)).save(file)


def deep(file):
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(file)


def no_image(file):
    file.write_text("not found")


def unreachable(file):
    """As in a folder without permission: its size is not to be had either."""
    file.unlink()
    file.symlink_to("x" * 300)


BAD = {"truncated": truncate, "RGBA": transparent, "I;16": deep, "cannot identify": no_image, "too long": unreachable}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_bad_image_is_named_and_refused_or_skipped(folder, caplog, reason, part):
    bad = folder / part / "c" / "1.png"
    BAD[reason](bad)
    with pytest.raises(ValueError, match=reason) as error:
        train(RUN, folder, progress=False)
    assert str(bad) in str(error.value)
    with caplog.at_level(logging.WARNING):
        record = train(RUN.replace(bad_images="skip"), folder, progress=False)
    assert record.outcome == "finished"
    assert [str(bad) in message for message in caplog.messages] == [True], "named once"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_without_permission_is_named(folder, monkeypatch, workers):
    opened = Image.open

    def forbidding(path):
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(Image, "open", forbidding)  # for who may read everything has no file without permission
    with pytest.raises(ValueError, match=r"the image .*3\.png cannot be read: Permission denied\. Repair"):
        load_folder(folder, size=14, workers=workers)


def test_the_next_good_image_stands_in_for_a_skipped_one(folder):
    for name in ("a/3.png", "a/4.png", "g/4.png"):
        truncate(folder / "train" / name)
    data = load_folder(folder, size=14, skip=True, augment=False)
    seeds = torch.zeros(1, 4, dtype=torch.int64)
    ((images, labels),) = data.feed(torch.tensor([[2, 3, 4, 34]]), seeds)
    assert labels.tolist() == [0, 1, 1, 0]
    ((others, _),) = data.feed(torch.tensor([[2, 5, 5, 0]]), seeds)
    assert torch.equal(images, others)
    assert len(plain_images(data, "train")[1]) == 32, "in evaluation nothing stands in"


def test_without_any_good_image_there_is_nothing_to_train_on(folder):
    for file in (folder / "train").rglob("*.png"):
        no_image(file)
    with pytest.raises(ValueError, match="none of 35 images for training"):
        load_folder(folder, size=14, skip=True)


def test_an_empty_class_is_named_and_refused_or_skipped(folder, caplog):
    (folder / "train" / "h").mkdir()
    (folder / "val" / "h").mkdir()
    with pytest.raises(ValueError, match="has no image") as error:
        load_folder(folder, size=14)
    assert str(folder / "train" / "h") in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert load_folder(folder, size=14, skip=True).classes == 8
    assert [str(folder / part / "h") in text for part, text in zip(("train", "val"), caplog.messages, strict=True)] == [True] * 2


def test_what_is_no_folder_of_classes_is_refused(folder, tmp_path_factory, monkeypatch):
    monkeypatch.delenv("SHALLOWPATHS_DATA", raising=False)
    with pytest.raises(ValueError, match="--data-folder"):
        train(RUN, progress=False)
    with pytest.raises(ValueError, match="train is no folder"):
        load_folder(tmp_path_factory.mktemp("empty"))
    (folder / "val" / "c").rename(folder / "val" / "z")
    with pytest.raises(ValueError, match="differ: c, z"):
        load_folder(folder)


def test_runs_on_a_folder_are_no_lanes(folder):
    with pytest.raises(ValueError, match="streams"):
        train_lanes([RUN.replace(recipe="skipinit", seed=seed) for seed in range(2)], folder)
