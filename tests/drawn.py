"""Pictures that several tests draw."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from sctnet.data.dataset import FileDataset, Files, SegmentationDataset
from sctnet.data.images import read_mask


def street(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise, so that label maps have regions."""
    small = np.random.default_rng(seed).integers(0, 256, (1, 3, 6, 8)).astype(np.float32)
    large = F.interpolate(torch.from_numpy(small), (height, width), mode="bilinear")
    return large[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def written(data: SegmentationDataset, count: int, folder: Path) -> FileDataset:
    """Write the first pictures of a data set and their masks; return them as files."""
    items = []
    for number in range(count):
        image, labels = data.pair(number)
        item = Files(f"{number}.png", folder / f"{number}.png", folder / f"{number}_mask.png")
        cv2.imwrite(str(item.image), image)
        cv2.imwrite(str(item.mask), labels)
        items.append(item)
    return FileDataset("files", data.classes, data.colours, items, read_mask)
