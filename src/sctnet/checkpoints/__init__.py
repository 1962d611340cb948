"""Models on disk: folders, exported files' descriptions, released checkpoints and starts."""
