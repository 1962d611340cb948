"""The training samples of a classification."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from typing_extensions import override

from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.classification.random_crops import CropConfig, random_resized_crop, to_tensor
from sctnet.data.loading import AUGMENTATION, FIXED_CROP, EpochStream


class ClassifiedSample(NamedTuple):
    """A crop and its class; or, with a leading n, a batch of them."""

    image: UInt8[Tensor, "*n 3 side side"]
    label: Int64[Tensor, "*n"]
    view: Int64[Tensor, "*n"]
    """The number of a fixed crop among all of the data set's; -1 for a random crop."""


class ClassificationStream(EpochStream[ClassifiedSample]):
    """The samples of a classification: random resized crops with their class."""

    dataset: ClassificationDataset

    def __init__(
        self,
        dataset: ClassificationDataset,
        config: CropConfig,
        seed: int,
        skip_broken: bool = False,
    ) -> None:
        super().__init__(dataset, seed, skip_broken)
        self.config = config

    @override
    def draw(self, sample_number: int, picture: int) -> ClassifiedSample:
        view, numbers = -1, [self.seed, AUGMENTATION, sample_number]
        if self.config.fixed_crops is not None:
            turn = sample_number // len(self.dataset) % self.config.fixed_crops
            view = picture * self.config.fixed_crops + turn
            numbers = [self.seed, FIXED_CROP, view]
        image = self.dataset.encoded(picture)
        crop = random_resized_crop(image, self.config, np.random.default_rng(numbers))
        label = torch.tensor(self.dataset.label(picture))
        return ClassifiedSample(to_tensor(crop), label, torch.tensor(view))
