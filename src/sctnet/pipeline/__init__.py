"""The last step of every prediction: from logits at the network's stride to a label map."""

from sctnet.pipeline.label_map import label_map, label_map_and_confidence, label_map_method

__all__ = ["label_map", "label_map_and_confidence", "label_map_method"]
