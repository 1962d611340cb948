"""Data sets, augmentation and loading: from files on disk to the bytes a training step takes."""
