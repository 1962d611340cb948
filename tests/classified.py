"""Pictures of four kinds, drawn for classification."""

from pathlib import Path

import cv2
import numpy as np

KINDS = ("bars", "disc", "plain", "tiles")


def picture(kind: str, seed: int, size: tuple[int, int] = (48, 56)) -> np.ndarray:
    """Draw a picture of a kind in random colours, RGB."""
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    image = np.full((*size, 3), generator.integers(0, 80, 3), np.uint8)
    colour = generator.integers(150, 256, 3).tolist()
    first = int(generator.integers(0, 8))
    match kind:
        case "bars":
            image[:, first::8] = image[:, first + 1 :: 8] = 0
            for column in range(first, size[1], 8):
                image[:, column : column + 4] = colour
        case "disc":
            cv2.circle(image, (size[1] // 2 + first, size[0] // 2), 14, colour, -1)
        case "tiles":
            rows, columns = np.indices(size) // 8
            image[(rows + columns + first) % 2 == 0] = colour
    noisy = image + generator.normal(0, 6, image.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def image_folder(root: Path, counts: dict[str, int], ending: str = ".png") -> Path:
    """Write ``counts`` pictures of each kind for each split: ROOT/SPLIT/KIND/number.png."""
    for split, count in counts.items():
        for kind in KINDS:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                seed = number + 1000 * (split == "val")
                cv2.imwrite(str(folder / f"{number}{ending}"), picture(kind, seed)[..., ::-1])
    return root
