"""Videos: decoded, labelled, drawn and encoded at the same time.

``predict_video`` and ``VideoOptions`` can be imported from here; they load on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sctnet.inference.video.prediction import VideoOptions as VideoOptions
    from sctnet.inference.video.prediction import predict_video as predict_video


def __getattr__(name: str) -> Any:
    if name not in {"VideoOptions", "predict_video"}:
        raise AttributeError(f"module 'sctnet.inference.video' has no attribute {name!r}")
    from sctnet.inference.video import prediction

    return getattr(prediction, name)
