"""What the authors of other networks call the tensors in their checkpoints."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from sctnet.models import SegmentationNetwork
from sctnet.models.afformer import AFFormer
from sctnet.models.rtformer import RTFormer
from sctnet.models.seaformer import SeaFormer
from sctnet.models.topformer import TopFormer

Rules = tuple[tuple[str, str], ...]
"""Regular expressions and what takes the place of a match; all are applied, one after the other."""


class AuthorsNames(NamedTuple):
    """How a network's tensors are found in a checkpoint of its authors."""

    rules: Rules
    """From our names to theirs."""
    ignored: Mapping[str, tuple[str, ...]]
    """What a checkpoint may hold beside the network: a word for it, and how the keys begin."""
    copies: Rules = ()
    """From keys that name a tensor once more to the one that counts."""

    def theirs(self, key: str) -> str:
        """Return the authors' name of a tensor of ours."""
        for ours, theirs in self.rules:
            key = re.sub(ours, theirs, key)
        return key

    def original(self, key: str) -> str:
        """Return the key that counts, of the authors' keys for one tensor."""
        for copy, first in self.copies:
            key = re.sub(copy, first, key)
        return key


_CONV_NORM: Rules = (
    # The TopFormer code's convolution with its norm, which SeaFormer's took over.
    (r"^(backbone\..*)\.0\.weight$", r"\1.c.weight"),
    (r"^(backbone\..*)\.1\.(\w+)$", r"\1.bn.\2"),
)
_CONV_MODULE: Rules = (
    # MMSegmentation's, in the heads.
    (r"^(decode_head\..*)\.0\.weight$", r"\1.conv.weight"),
    (r"^(decode_head\..*)\.1\.(\w+)$", r"\1.bn.\2"),
    (r"^head\.classifier\.", "decode_head.conv_seg."),
)
_MOBILE_BLOCK: Rules = (
    (r"\.attention\.(q|k|v)(uery|ey|alue)\.", r".attention.to_\1."),
    (r"\.attention\.project\.", ".attention.proj."),
    (r"\.feed_forward\.expand\.", ".mlp.fc1."),
    (r"\.feed_forward\.depthwise\.", ".mlp.dwconv."),
    (r"\.feed_forward\.squeeze\.", ".mlp.fc2."),
    (r"\.attention\.", ".attn."),
    (r"\.residual\.", ".conv."),
)

_SEAFORMER: Rules = (
    (r"^stages\.0\.0\.", "backbone.smb1.stem_block.0."),
    *((rf"^stages\.0\.{block}\.", f"backbone.smb1.layer{block}.") for block in (1, 2, 3)),
    *(
        (
            rf"^stages\.{stage}\.{block}\.residual\.",
            f"backbone.smb{stage + 1}.layer{block + 1}.conv.",
        )
        for stage in (1, 2, 3, 4)
        for block in (0, 1)
    ),
    *(
        (
            rf"^stages\.{stage}\.{block + 1}\.",
            f"backbone.trans{stage - 2}.transformer_blocks.{block}.",
        )
        for stage in (3, 4)
        for block in range(9)
    ),
    (r"\.(row|column)s\.query_positions$", r".pos_emb_\1q.pos_embed"),
    (r"\.(row|column)s\.key_positions$", r".pos_emb_\1k.pos_embed"),
    (r"\.(row|column)s\.project\.", r".proj_encode_\1."),
    (r"\.attention\.detail\.0\.", ".attention.dwconv."),
    (r"\.attention\.detail\.2\.", ".attention.pwconv."),
    *_MOBILE_BLOCK,
    *_CONV_NORM,
    (r"^head\.fusions\.0\.", "decode_head.fuse1."),
    (r"^head\.fusions\.1\.", "decode_head.fuse2."),
    (r"\.detail\.(\d)", r".local_embedding.\1"),
    (r"\.gate\.(\d)", r".global_act.\1"),
    (r"^head\.scale\.", "decode_head.linear_fuse."),
    *_CONV_MODULE,
)

_TOPFORMER_LAYERS = (
    # Stages of the pyramid, and their blocks; block 0 of the first is the stem.
    *((0, block) for block in (1, 2, 3)),
    *((stage, block) for stage in (1, 2) for block in (0, 1)),
    *((3, block) for block in (0, 1, 2)),
)
_TOPFORMER: Rules = (
    (r"^pyramid\.0\.0\.", "backbone.tpm.stem.0."),
    *(
        (rf"^pyramid\.{stage}\.{block}\.", f"backbone.tpm.layer{layer}.")
        for layer, (stage, block) in enumerate(_TOPFORMER_LAYERS, start=1)
    ),
    (r"^transformer\.", "backbone.trans.transformer_blocks."),
    (r"^injections\.(\d)\.(fusion\.)?detail\.", r"injections.\1.local_embedding."),
    (r"^injections\.(\d)\.(fusion\.)?gate\.", r"injections.\1.global_act."),
    (r"^injections\.(\d)\.semantics\.", r"injections.\1.global_embedding."),
    # The first of their four is empty.
    *((rf"^injections\.{n}\.(\w+)\.0\.", rf"backbone.SIM.{n + 1}.\1.conv.") for n in range(3)),
    *((rf"^injections\.{n}\.(\w+)\.1\.", rf"backbone.SIM.{n + 1}.\1.bn.") for n in range(3)),
    *_MOBILE_BLOCK,
    *_CONV_NORM,
    (r"^head\.fuse\.", "decode_head.linear_fuse."),
    *_CONV_MODULE,
)

_RTFORMER: Rules = (
    (r"^stem\.", "conv1."),
    (r"^stage(\d)\.(\d)\.(\w+(?<!attention)\.)", r"layer\1.\2.\3"),
    *((rf"^(stage4\.{n}|layer4\.{n})\.", f"layer{n + 4}.") for n in (0, 1)),
    (r"^high3\.", "layer3_.0."),
    (r"^compression\.", "compression3."),
    (r"\.low_shortcut\.", ".attn_shortcut_l."),
    (r"^(layer.*)\.shortcut\.", r"\1.downsample."),
    (r"\.low_attention\.keys$", ".attn_l.k"),
    (r"\.low_attention\.values$", ".attn_l.v"),
    (r"\.low_attention\.", ".attn_l."),
    (r"\.high_attention\.low_norm\.", ".cross_kv.0."),
    (r"\.high_attention\.keys_values\.", ".cross_kv.2."),
    (r"\.high_attention\.", ".attn_h."),
    (r"\.(low|high)_feed_forward\.", r".mlp_\1."),
    (r"\.mlp_([lh])\w+\.", r".mlp_\1."),
    (r"^(layer\d_?\.\d)\.norm(\d)\.", r"\1.bn\2."),
    (r"^dappm\.scales\.0\.", "spp.scale0."),
    *((rf"^dappm\.scales\.(\d)\.{n}\.", rf"spp.scale\1.{n + 1}.") for n in (0, 2)),
    *((rf"^dappm\.processes\.{n}\.", f"spp.process{n + 1}.") for n in range(4)),
    (r"^dappm\.", "spp."),
    (r"^head\.", "seghead."),
    (r"^auxiliary_head\.", "seghead_extra."),
    (r"^(seghead\w*)\.norm(\d)\.", r"\1.bn\2."),
    (r"^(seghead\w*)\.conv\.", r"\1.conv1."),
    (r"^(seghead\w*)\.classifier\.", r"\1.conv2."),
    (r"\.running_mean$", "._mean"),
    (r"\.running_var$", "._variance"),
)

_AFFORMER: Rules = (
    (r"^(stem\.\d)\.0\.", r"backbone.\1.conv."),
    (r"^(stem\.\d)\.1\.", r"backbone.\1.bn."),
    (r"^stages\.(\d)\.pixels\.", r"backbone.patch_embed_stages.\1.patch_embeds.0.patch_conv."),
    (r"^stages\.(\d)\.prototypes\.", r"backbone.patch_embed_stages.\1.patch_embeds.1.patch_conv."),
    (r"\.patch_conv\.0\.", ".patch_conv.dwconv."),
    (r"\.patch_conv\.1\.", ".patch_conv.pwconv."),
    (r"\.patch_conv\.2\.", ".patch_conv.bn."),
    (r"^stages\.(\d)\.", r"backbone.mhca_stages.\1."),
    (r"\.describe\.residual\.0\.0\.", ".Restore.conv1.conv."),
    (r"\.describe\.residual\.0\.1\.", ".Restore.conv1.bn."),
    (r"\.describe\.residual\.1\.0\.", ".Restore.dwconv."),
    (r"\.describe\.residual\.1\.1\.", ".Restore.norm."),
    (r"\.describe\.residual\.2\.0\.", ".Restore.conv2.conv."),
    (r"\.describe\.residual\.2\.1\.", ".Restore.conv2.bn."),
    (r"\.aggregate\.0\.", ".aggregate.conv."),
    (r"\.aggregate\.1\.", ".aggregate.bn."),
    (r"\.encoder\.positions\.", ".mhca_blks.0.cpe.proj."),
    (r"\.encoder\.filters\.high_pass\.", ".mhca_blks.0.crpe.conv_list."),
    (r"\.encoder\.blocks\.", ".mhca_blks.0.MHCA_layers."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.feed_forward_norm\.", ".norm2."),
    (r"\.query_key_value\.", ".factoratt_crpe.qkv."),
    (r"\.project\.", ".factoratt_crpe.proj."),
    (r"\.expand\.", ".mlp.fc1."),
    (r"\.depthwise\.", ".mlp.dwconv.dwconv."),
    (r"\.squeeze\.(weight|bias)$", r".mlp.fc2.\1"),
    (r"^head\.squeeze\.0\.", "decode_head.squeeze.conv."),
    (r"^head\.squeeze\.1\.", "decode_head.squeeze.gn."),
    (r"^head\.classifier\.", "decode_head.conv_seg."),
)

AUTHORS_NAMES: dict[type[SegmentationNetwork], AuthorsNames] = {
    SeaFormer: AuthorsNames(_SEAFORMER, {"classifier of the pre-training": ("backbone.linear.",)}),
    TopFormer: AuthorsNames(_TOPFORMER, {}),
    RTFormer: AuthorsNames(_RTFORMER, {}),
    AFFormer: AuthorsNames(
        _AFFORMER,
        {
            "classifier of the pre-training": ("backbone.cls_head.",),
            "convolution that the authors' head leaves unused": ("decode_head.align.",),
        },
        # Every block of a stage lists what they share again.
        copies=(
            (r"\.MHCA_layers\.\d+\.cpe\.", ".cpe."),
            (r"\.MHCA_layers\.\d+\.(factoratt_crpe\.)?crpe\.", ".crpe."),
        ),
    ),
}
"""Of the networks whose authors' checkpoints can be read."""
