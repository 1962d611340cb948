"""A folder in which the examples of README and site run: drawn streets under the names they use."""

from pathlib import Path

import cv2
import numpy as np
import shared

from sctnet.data.synthetic.streets import open_synthetic
from sctnet.pipeline.preprocessing import WorkingSize

CLASSES = ("road", "car", "person", "tree", "sky")
_OF_DRAWN = {3: 0, 8: 1, 9: 2, 5: 3, 0: 4}
"""Of the drawn streets' classes, those that the examples have; all others are ignored."""
STREETS = f"""images: {{train: images/train, val: images/val, test: images/test}}
masks: {{train: masks/train, val: masks/val, test: masks/test}}
classes: [{", ".join(CLASSES)}]
ignore: 255
"""


def make_world(folder: Path, train: int = 4, others: int = 2) -> None:
    """Write pictures, masks, a video, two models and the layouts that examples mention."""
    counts = {"train": train, "val": others, "test": others}
    table = np.full(256, 255, np.uint8)
    table[list(_OF_DRAWN)] = list(_OF_DRAWN.values())
    for split, count in counts.items():
        drawn = open_synthetic([split])
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        lines = []
        (folder / "CAMVID" / split).mkdir(parents=True)
        (folder / "CAMVID" / f"{split}annot").mkdir()
        for number in range(count):
            image, labels = drawn.pair(number)
            name = f"{number:03}"
            cv2.imwrite(str(folder / f"images/{split}/{name}.jpg"), image)
            cv2.imwrite(str(folder / f"masks/{split}/{name}.png"), table[labels])
            cv2.imwrite(str(folder / f"CAMVID/{split}/{name}.png"), image)
            cv2.imwrite(
                str(folder / f"CAMVID/{split}annot/{name}.png"), np.where(labels == 255, 11, labels)
            )
            place = "/SegNet/CamVid"
            lines.append(f"{place}/{split}/{name}.png {place}/{split}annot/{name}.png\n")
        (folder / "CAMVID" / f"{split}.txt").write_text("".join(lines))
    (folder / "streets.yaml").write_text(STREETS)
    for name in ("photos", "new", "clips"):
        (folder / name).mkdir()
    pictures = [cv2.imread(str(path)) for path in sorted((folder / "images/train").iterdir())]
    for name in ("street.jpg", "a.jpg", "b.jpg", "photos/a.jpg", "photos/b.jpg", "new/a.jpg"):
        cv2.imwrite(str(folder / name), pictures[0])
    for name in ("clip.mp4", "clips/one.mp4"):
        _write_video(folder / name, pictures[:3])
    size = WorkingSize(rule="shorter-side", pixels=64)
    for name in ("runs/streets", "runs/fields"):
        shared.saved(folder / name, size, CLASSES)


def _write_video(path: Path, frames: list[np.ndarray]) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode())
