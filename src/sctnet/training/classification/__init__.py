"""Training of classifiers, whose backbones then start segmentation networks."""
