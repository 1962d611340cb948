"""Training: the recipe, the losses, the run."""
