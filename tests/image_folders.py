"""A small folder of images, written by the tests that read it."""

import numpy as np
from PIL import Image

CLASSES = "abcdefg"


def write_images(folder):
    """Seven classes, in train five images of each, in val two: a colour of the class's own, with noise, 24 x 32 pixels."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (24, 32, 3)) + np.array([20 * label, 60, 135 - 20 * label])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{number}.png")
    return folder
