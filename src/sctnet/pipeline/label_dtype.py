"""The type of a label map's values, which depends on the number of classes alone."""

import numpy as np

UINT8_CLASSES = 255
"""A uint8 label map holds up to this many classes, and 255 for pixels that have none."""


def label_dtype(classes: int) -> np.dtype:
    """Return uint8 up to 255 classes, else uint16."""
    return np.dtype(np.uint8 if classes <= UINT8_CLASSES else np.uint16)
