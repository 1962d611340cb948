"""From a picture to its label map: ``Segmenter`` predicts, ``Segmentation`` is what it returns."""
