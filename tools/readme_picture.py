"""Make docs/street.jpg: a street, and what the bundled model sees in it.

    python tools/readme_picture.py lund-street-25.jpg

The picture is Mapillary's (OpenSfM, data/lund, BSD 2-clause); its number plates were made
unreadable by its publisher.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

import sctnet
from sctnet.data.images import read_image
from sctnet.pictures.contact_sheet import contact_sheet
from sctnet.pictures.encoding import write_picture

WIDTH = 1000


def main() -> None:
    """Read the picture, label it, and write both side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    image = read_image(parser.parse_args().picture)
    tinted = np.asarray(sctnet.Segmenter("sctnet-s-camvid")(image).overlay())
    sheet = contact_sheet([[image, tinted]], ["a street", "what sctnet-s-camvid sees"])
    size = WIDTH, round(sheet.shape[0] * WIDTH / sheet.shape[1])
    small = np.asarray(cv2.resize(sheet, size, interpolation=cv2.INTER_AREA))
    write_picture(small, Path(__file__).parents[1] / "docs" / "street.jpg")


if __name__ == "__main__":
    main()
