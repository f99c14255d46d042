"""A photograph under every corruption and severity, at ImageNet's size and at CIFAR's.

    python docs/examples/corruptions.py --out docs/images

draws corruptions.jpg there (about ten seconds on one core). The photograph is scikit-learn's china.jpg, by
danielbuechele (CC BY 2.0).
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from catchment.disturb import CORRUPTIONS, corrupt
from catchment.disturb.corruptions import SEVERITIES

SHOWN = 76  # side of a picture on the page
GAP = 3
LABELS, HEADER = 128, 20
SETS = (("imagenet", 224), ("cifar", 32))


def photograph(side: int) -> NDArray[np.uint8]:
    """The middle of the picture, (1, side, side, 3)."""
    image = Image.fromarray(load_sample_image("china.jpg")[:, 150:577])
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))[None]


def draw_all(corruptions: tuple[str, ...] = CORRUPTIONS) -> Image.Image:
    """A row for each corruption; for each size the clean image and five severities."""
    cell = SHOWN + GAP
    columns = SEVERITIES + 1
    width = LABELS + len(SETS) * columns * cell + 4 * GAP
    page = Image.new("RGB", (width, HEADER + len(corruptions) * cell), "white")
    pen = ImageDraw.Draw(page)
    for number, (size, side) in enumerate(SETS):
        left = LABELS + number * (columns * cell + 4 * GAP)
        clean = photograph(side)
        pen.text((left, 4), f"{size}, {side} x {side}: clean, severity 1 to 5", fill="black")
        for row, name in enumerate(corruptions):
            top = HEADER + row * cell
            pen.text((4, top + SHOWN // 2 - 6), name, fill="black")
            results = [clean, *(corrupt(clean, name, severity, size) for severity in range(1, SEVERITIES + 1))]
            for column, result in enumerate(results):
                how = Image.Resampling.BOX if side > SHOWN else Image.Resampling.NEAREST
                page.paste(Image.fromarray(result[0]).resize((SHOWN, SHOWN), how), (left + column * cell, top))
    return page


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description="A photograph under every corruption and severity.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the picture")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw_all().save(arguments.out / "corruptions.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
