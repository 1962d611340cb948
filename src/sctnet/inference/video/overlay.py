"""The overlay of a labelled frame."""

from collections.abc import Sequence

import av
import cv2
import numpy as np
from jaxtyping import Integer

from sctnet.inference.video.source import VideoFrame
from sctnet.inference.video.yuv import from_rgb, planes_of
from sctnet.pictures.legend import find_legend
from sctnet.pictures.palette import Colour
from sctnet.pictures.yuv_overlay import Standard, overlay_planes


def tinted(
    frame: VideoFrame,
    standard: Standard,
    labels: Integer[np.ndarray, "h w"],
    seen: Integer[np.ndarray, "k"],
    colours: Sequence[Colour],
    classes: Sequence[str],
    alpha: float,
) -> av.VideoFrame:
    """Return a tinted frame, yuv420p of even sides, with a legend of the classes ``seen``.

    The overlay is drawn in the decoded planes if possible, else in planes of the RGB picture, both
    in the ``standard`` of the frame's source.
    """
    source = frame.native or from_rgb(frame.picture, standard)
    result = av.VideoFrame(source.width, source.height, "yuv420p")
    height, width = labels.shape
    if height % 2 or width % 2:
        labels = cv2.copyMakeBorder(labels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    legend = find_legend((source.height, source.width), seen, colours, classes)
    overlay_planes(planes_of(source), planes_of(result), labels, colours, alpha, standard, legend)
    return result
