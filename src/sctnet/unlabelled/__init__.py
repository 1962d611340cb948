"""Pictures without labels: what a model makes of them, and which are worth labelling."""
