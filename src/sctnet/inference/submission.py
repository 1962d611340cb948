"""Submission files for benchmark servers: label maps with the data set's own values."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.pictures.palette import Colour, save_label_map


def save_prediction(
    dataset: SegmentationDataset,
    index: int,
    labels: Integer[np.ndarray, "h w"],
    colours: tuple[Colour, ...],
    folder: Path,
) -> None:
    """Save the label map of a picture below ``folder``, under the picture's name, as a PNG.

    Its values are the data set's raw ones; it is shown in the data set's colours or, where there
    are none, in ``colours``. Raises :class:`SctnetError` where it cannot be written.
    """
    raw_values = dataset.raw_values or tuple(range(len(dataset.classes)))
    palette: list[Colour] = [(0, 0, 0)] * (max(raw_values) + 1)
    for value, colour in zip(raw_values, dataset.colours or colours, strict=True):
        palette[value] = colour
    file = folder / Path(dataset.item_name(index)).with_suffix(".png")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SctnetError(f"{file.parent}: cannot be written ({error.strerror})") from error
    save_label_map(np.array(raw_values, np.uint8).take(labels), palette, file)
