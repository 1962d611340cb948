"""From a picture's bytes to its label map: training, inference and export share these steps."""
