"""Small random models of transformers that label pixels, one of each kind, in folders."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers as T

NAMES = ("road", "lane marking", "car", "tree", "sky")
_LABELS: dict[str, Any] = {
    "id2label": dict(enumerate(NAMES)),
    "label2id": {name: number for number, name in enumerate(NAMES)},
}
_VIT = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16,
    "image_size": 64, "patch_size": 16,
}  # fmt: skip
_EOMT = {**_VIT, "mlp_ratio": 1, "num_blocks": 2, "num_queries": 6}
_SQUARE = {"size": {"height": 64, "width": 64}}
_EDGE = {"size": {"shortest_edge": 64, "longest_edge": 128}, "ignore_index": 255}
_CENTRE = {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}
_SPLIT = {"size": {"shortest_edge": 64, "longest_edge": None}, "do_split_image": True}

SEMANTIC = (
    "segformer", "upernet", "beit", "data2vec-vision", "dpt", "mobilevit", "mobilevitv2",
    "mobilenet_v2",
)  # fmt: skip
UNIVERSAL = ("maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3")


def _swin() -> Any:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return T.SwinConfig(
        out_features=stages, embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 3, 4],
        window_size=3,
    )  # fmt: skip


def _detr() -> Any:
    return T.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        num_queries=6, decoder_attention_heads=2, encoder_attention_heads=2,
    )  # fmt: skip


def _queried(**more: Any) -> dict[str, Any]:
    """Return the sizes that Mask2Former and OneFormer share."""
    return {
        "backbone_config": _swin(), "hidden_dim": 32, "mask_feature_size": 32,
        "encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1,
        "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 6, **more, **_LABELS,
    }  # fmt: skip


def _model(kind: str) -> tuple[Any, Any]:
    """Return a model and its processor of images."""
    match kind:
        case "segformer":
            own = T.SegformerConfig(
                hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=12, **_LABELS
            )
            return T.SegformerForSemanticSegmentation(own), T.SegformerImageProcessorPil(**_SQUARE)
        case "upernet":
            own = T.UperNetConfig(
                backbone_config=_swin(), hidden_size=12, auxiliary_channels=8, **_LABELS
            )
            return T.UperNetForSemanticSegmentation(own), T.SegformerImageProcessorPil(**_SQUARE)
        case "beit":
            own = T.BeitConfig(
                out_indices=[1, 2, 3, 4], use_relative_position_bias=True, pool_scales=(1, 2),
                **_VIT, **_LABELS,
            )  # fmt: skip
            return T.BeitForSemanticSegmentation(own), T.BeitImageProcessorPil(**_SQUARE)
        case "data2vec-vision":
            own = T.Data2VecVisionConfig(out_indices=[0, 1, 2, 3], **_VIT, **_LABELS)
            return T.Data2VecVisionForSemanticSegmentation(own), T.BeitImageProcessorPil(**_SQUARE)
        case "dpt":
            own = T.DPTConfig(
                backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8],
                fusion_hidden_size=16, **_VIT, **_LABELS,
            )  # fmt: skip
            return T.DPTForSemanticSegmentation(own), T.DPTImageProcessorPil(**_SQUARE)
        case "mobilevit":
            own = T.MobileViTConfig(
                image_size=64, hidden_sizes=[16, 24, 32], aspp_out_channels=16,
                neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], **_LABELS,
            )  # fmt: skip
            return T.MobileViTForSemanticSegmentation(own), T.MobileViTImageProcessorPil(**_CENTRE)
        case "mobilevitv2":
            own = T.MobileViTV2Config(
                image_size=64, width_multiplier=0.25, aspp_out_channels=16, **_LABELS
            )
            model = T.MobileViTV2ForSemanticSegmentation(own)
            return model, T.MobileViTImageProcessorPil(**_CENTRE)
        case "mobilenet_v2":
            own = T.MobileNetV2Config(depth_multiplier=0.25, image_size=64, **_LABELS)
            model = T.MobileNetV2ForSemanticSegmentation(own)
            return model, T.MobileNetV2ImageProcessorPil(**_CENTRE)
        case "maskformer":
            own = T.MaskFormerConfig(
                backbone_config=_swin(), decoder_config=_detr(), fpn_feature_size=32,
                mask_feature_size=16, **_LABELS,
            )  # fmt: skip
            return T.MaskFormerForInstanceSegmentation(own), T.MaskFormerImageProcessorPil(**_EDGE)
        case "mask2former":
            own = T.Mask2FormerConfig(**_queried(feature_size=32))
            model = T.Mask2FormerForUniversalSegmentation(own)
            return model, T.Mask2FormerImageProcessorPil(**_EDGE)
        case "oneformer":
            own = T.OneFormerConfig(
                **_queried(
                    conv_dim=32, mask_dim=32, text_encoder_width=32, text_encoder_num_layers=1,
                    text_encoder_context_length=8, text_encoder_vocab_size=600, task_seq_len=8,
                    max_seq_len=8, use_task_norm=True, query_dec_layers=1, num_heads=2,
                    is_training=False,
                )
            )  # fmt: skip
            return T.OneFormerForUniversalSegmentation(own), T.OneFormerImageProcessorPil(**_EDGE)
        case "eomt":
            own = T.EomtConfig(**_EOMT, **_LABELS)
            return T.EomtForUniversalSegmentation(own), T.EomtImageProcessorPil(**_SPLIT)
        case "eomt_dinov3":
            own = T.EomtDinov3Config(**_EOMT, **_LABELS)
            return T.EomtDinov3ForUniversalSegmentation(own), T.EomtImageProcessorPil(**_SPLIT)
    raise AssertionError(kind)


def foreign_folder(kind: str, folder: Path) -> Path:
    """Write a model as transformers does: configuration, safetensors, processor."""
    torch.manual_seed(0)
    model, processor = _model(kind)
    # Many activations in a row damp what MobileViT sees.
    gain = {"mobilevit": 6.0, "mobilevitv2": 2.0}.get(kind, 1.0)
    with torch.no_grad():  # so that classes differ by more than rounding
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=gain * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    if kind == "oneformer":
        processor = T.OneFormerProcessor(processor, _tokenizer(folder), 8, 8)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> Any:
    """Return a CLIP tokenizer of letters alone."""
    letters = [chr(number) for number in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return T.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
