"""Label maps and probabilities by any runtime: whole, in tiles, averaged over scales and flip."""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float32, UInt8, UInt16
from torch import Tensor

from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.errors import SctnetError
from sctnet.inference.picture_plan import TILE, Plan, PlannedPicture, plan_picture
from sctnet.inference.runtimes.runtime import Runtime
from sctnet.inference.sources import Picture
from sctnet.inference.test_time_augmentation import MultiScaleFlip
from sctnet.inference.tiling import (
    ComposedLogits,
    composed_labels,
    composed_probabilities,
)
from sctnet.pipeline.argmax_torch import resize_logits
from sctnet.pipeline.label_dtype import label_dtype
from sctnet.pipeline.label_map import label_map

LabelMap = UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]
Probabilities = Float32[np.ndarray, "_ _ _"]
Sizes = tuple[tuple[int, int], ...]

# At the working size, where SCTNet-S needs some 0.1 GB for a million.
_BATCH_PIXELS = 4_000_000  # of several pictures or windows together

_MAX_PROBABILITIES = 2_000_000_000  # of four bytes each


class Predictor:
    """Computes label maps and probabilities for a :class:`~sctnet.inference.segmenter.Segmenter`.

    ``scales`` multiply each picture's working size; with ``flip`` the mirrored picture is added.
    The logits of all versions are resized to the picture's own size, and their softmaxes are
    averaged there. This holds one probability per class and pixel: about 160 MB for 19 classes at
    1024 x 2048. In tiles, which are for pictures that are too large for that, the logits of all
    versions of a window are averaged at the network's stride.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: ModelConfig,
        tile: int | None,
        overlap: int | None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        if tile is not None and tile < 32:
            raise SctnetError(f"tile {tile}: a window has 32 pixels at least")
        if overlap is not None and not 0 <= overlap <= (tile or TILE) // 2:
            raise SctnetError(f"overlap {overlap}: give 0 to half of a tile's {tile or TILE}")
        self.runtime = runtime
        self.tile, self.overlap = tile, overlap
        self.versions = MultiScaleFlip(scales, flip)
        self._rule = config.preparation.working_size
        self._classes = len(config.classes)
        self._dtype = label_dtype(self._classes)
        if self.averages:
            runtime.require_logits("an average of scales or mirrored pictures")

    @property
    def averages(self) -> bool:
        """Whether several predictions are averaged."""
        return bool(self.versions)

    def plan(self, image: Picture, probabilities: bool = False) -> PlannedPicture:
        """Return a picture with the way it is processed.

        Raises :class:`SctnetError` for a picture that cannot be labelled, or whose
        ``probabilities`` cannot be computed.
        """
        if probabilities:
            self._require_probabilities(image)
        height, width = image.shape[:2]
        plan = plan_picture((height, width), self._rule, self.tile, self.overlap)
        seen, taken = (height, width) if plan.grid is None else plan.grid.window, self.runtime.size
        if taken not in (None, seen):
            assert taken is not None
            raise SctnetError(
                f"a picture of {width} x {height}: the exported file takes pictures of "
                f"{taken[1]} x {taken[0]} alone; export it without --size"
            )
        if plan.grid is not None:
            self.runtime.require_logits(f"tiles, in which a picture of {width} x {height} is taken")
        return PlannedPicture(image, plan)

    def most(self, plan: Plan) -> int:
        """Return how many pictures of this plan may pass the network together."""
        return max(1, _BATCH_PIXELS // (plan.working[0] * plan.working[1]))

    def _require_probabilities(self, image: Picture) -> None:
        self.runtime.require_logits("probabilities")
        height, width = image.shape[:2]
        if height * width * self._classes > _MAX_PROBABILITIES:
            raise SctnetError(
                f"the probabilities of {self._classes} classes for a picture of "
                f"{width} x {height} would take more than 8 GB: ask for labels alone"
            )

    def labels(self, pictures: Sequence[PlannedPicture]) -> list[LabelMap]:
        """Return the label map of each picture, at its size."""

        def labels(mean: np.ndarray) -> np.ndarray:
            found: np.ndarray = mean.argmax(axis=0).astype(self._dtype)
            return found

        return self._predict(pictures, self.label_map, composed_labels, labels)

    def probabilities(self, pictures: Sequence[PlannedPicture]) -> list[Probabilities]:
        """Return the probability of each class and pixel, K x H x W, of each picture."""
        self.runtime.require_logits("probabilities")

        def probabilities(logits: Tensor, image: Picture) -> np.ndarray:
            return resize_logits(logits.float(), self._sizes(image)).softmax(dim=1)[0].cpu().numpy()

        return self._predict(pictures, probabilities, composed_probabilities, lambda mean: mean)

    def label_map(self, found: Tensor, image: Picture) -> LabelMap:
        """Return the label map of one whole picture, at its size, from the runtime's output."""
        by_class = self.runtime.output != "labels"
        labels = label_map(found, *self._sizes(image)) if by_class else found
        return labels[0].cpu().numpy().astype(self._dtype, copy=False)

    def _sizes(self, image: Picture, scale: float = 1.0) -> Sizes:
        """Return the sizes to which the runtime's logits are resized, one after the other."""
        size = image.shape[0], image.shape[1]
        at_stride = self.runtime.output == "logits8"
        return (self._rule.apply_scaled(*size, scale), size) if at_stride else (size,)

    def pixels(self, image: Picture) -> UInt8[Tensor, "1 3 h w"]:
        """Return a picture as a tensor on the runtime's device."""
        # PyTorch cannot take read-only arrays or negative strides; only those are copied.
        usable = np.require(image, requirements=["C", "W"])
        return torch.from_numpy(usable).to(self.runtime.device).permute(2, 0, 1)[None]

    def _mean_probabilities(self, image: Picture) -> Tensor:
        pixels = self.pixels(image)

        def probabilities(scale: float, mirrored: bool) -> Tensor:
            (logits,) = self.runtime([pixels], scale, mirrored)
            sizes = self._sizes(image, scale)
            return resize_logits(logits.float().contiguous(), sizes).softmax(dim=1)[0]

        return self.versions.mean(probabilities)

    def _mean_logits(self, windows: Sequence[UInt8[Tensor, "1 3 h w"]]) -> Tensor:
        """Return the mean logits of all versions of windows, at the cells of the first version."""
        first, *others = self.versions.versions
        logits = torch.cat(self.runtime(windows, *first))
        for version in others:
            found = torch.cat(self.runtime(windows, *version)).float()
            logits = logits + resize_logits(found, ((logits.shape[2], logits.shape[3]),))
        return logits / len(self.versions.versions) if others else logits

    @torch.inference_mode()
    def _predict(
        self,
        pictures: Sequence[PlannedPicture],
        of_found: Callable[[Tensor, Picture], np.ndarray],
        of_composed: Callable[[ComposedLogits], np.ndarray],
        of_mean: Callable[[Probabilities], np.ndarray],
    ) -> list[np.ndarray]:
        """Run the pictures; pass each output to one of three functions.

        ``of_composed`` takes that of tiles, ``of_mean`` the averaged probabilities of several
        versions, ``of_found`` all else.
        """
        results: list[np.ndarray] = []
        try:
            for plan, group in groupby(pictures, key=lambda picture: picture.plan):
                images = [picture.image for picture in group]
                if plan.grid is not None:
                    results += [of_composed(self._composed(image, plan)) for image in images]
                    continue
                if self.averages:
                    likely = map(self._mean_probabilities, images)
                    results += [of_mean(each.cpu().numpy()) for each in likely]
                    continue
                # The network takes the batch; before and after it, one picture at a time.
                together = self.runtime([self.pixels(image) for image in images])
                for image, found in zip(images, together, strict=True):
                    results.append(of_found(found, image))
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise SctnetError(
                f"out of memory on {self.runtime.device}: take smaller batches or tiles"
            ) from error
        return results

    def _composed(self, image: Picture, plan: Plan) -> ComposedLogits:
        assert plan.grid is not None

        def window_logits(windows: UInt8[Tensor, "n 3 h w"]) -> Tensor:
            return self._mean_logits(torch.split(windows, 1))

        return ComposedLogits(
            self.pixels(image)[0],
            self._classes,
            plan.grid,
            # Logits that already have the window's size are not resized to the working size.
            plan.working if self.runtime.output == "logits8" else plan.grid.window,
            window_logits,
            1 if self.runtime.device.type == "cpu" else self.most(plan),
        )
