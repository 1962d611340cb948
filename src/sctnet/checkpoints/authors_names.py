"""What the authors of other networks call the tensors in their checkpoints."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from sctnet.models import SegmentationNetwork
from sctnet.models.afformer import AFFormer
from sctnet.models.bisenet import BiSeNet
from sctnet.models.bisenetv2 import BiSeNetV2
from sctnet.models.internimage import InternImage
from sctnet.models.ocrnet import OCRNet
from sctnet.models.pidnet import PIDNet
from sctnet.models.rtformer import RTFormer
from sctnet.models.seaformer import SeaFormer
from sctnet.models.stdc import STDC
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
    backbone: str = "backbone."
    """How the keys of the backbone begin, which alone in a file come without it."""
    absent: tuple[str, ...] = ()
    """Ends of our keys that theirs lack; what they start with computes the same."""
    changed: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor
    """From our key and their tensor to ours."""

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

_BLOCK: Rules = (
    # ResNet's names of a residual block's parts.
    (r"\.norm(\d)\.", r".bn\1."),
    (r"\.shortcut\.", ".downsample."),
    *(
        (rf"\.residual\.{index}\.", f".{part}.")
        for index, part in zip(
            (0, 1, 3, 4, 6, 7), ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"), strict=True
        )
    ),
)
_BISENET: Rules = (
    (r"^context\.average\.", "cp.conv_avg."),
    (r"^context\.smooth4\.", "cp.conv_head32."),
    (r"^context\.smooth3\.", "cp.conv_head16."),
    (r"^context\.refine4\.", "cp.arm32."),
    (r"^context\.refine3\.", "cp.arm16."),
    (r"^(cp\.arm\d+)\.attention\.0\.", r"\1.conv_atten."),
    (r"^(cp\.arm\d+)\.attention\.1\.", r"\1.bn_atten."),
    (r"^fusion\.fusion\.", "ffm.convblk."),
    (r"^(cp\..*(?:conv_avg|conv_head\d+|arm\d+\.conv)|ffm\.convblk)\.0\.", r"\1.conv."),
    (r"^(cp\..*(?:conv_avg|conv_head\d+|arm\d+\.conv)|ffm\.convblk)\.1\.", r"\1.bn."),
    (r"^head\.", "conv_out."),
    (r"^auxiliary_head\.context8\.", "conv_out16."),
    (r"^auxiliary_head\.context16\.", "conv_out32."),
    (r"^auxiliary_head\.boundary\.", "conv_out_sp8."),
    (r"^(conv_out\w*)\.conv\.", r"\1.conv.conv."),
    (r"^(conv_out\w*)\.norm2\.", r"\1.conv.bn."),
    (r"^(conv_out\w*)\.classifier\.", r"\1.conv_out."),
)
_STDC: Rules = (
    (r"^stem\.(\d)\.0\.", r"cp.backbone.features.\1.conv."),
    (r"^stem\.(\d)\.1\.", r"cp.backbone.features.\1.bn."),
    (r"^stage\d\.(\d+)\.", r"cp.backbone.features.\1."),
    (r"\.down\.", ".avd_layer."),
    (r"\.first\.0\.", ".conv_list.0.conv."),
    (r"\.first\.1\.", ".conv_list.0.bn."),
    *(
        (rf"\.further\.{index}\.{place}\.", f".conv_list.{index + 1}.{part}.")
        for index in range(3)
        for place, part in enumerate(("conv", "bn"))
    ),
    (r"^fusion\.attention\.0\.", "ffm.conv1."),
    (r"^fusion\.attention\.2\.", "ffm.conv2."),
    *_BISENET,
)
_PIDNET: Rules = (
    (r"^stem\.", "model.conv1."),
    (r"^stage(\d)\.", r"model.layer\1."),
    (r"^context5\.", "model.layer5."),
    (r"^detail5\.", "model.layer5_.0."),
    (r"^detail(\d)\.", r"model.layer\1_."),
    (r"^boundary3\.", "model.layer3_d."),
    (r"^boundary(\d)\.", r"model.layer\1_d.0."),
    (r"^compression(\d)\.", r"model.compression\1."),
    (r"^difference(\d)\.", r"model.diff\1."),
    (r"^attention(\d)\.detail\.", r"model.pag\1.f_x."),
    (r"^attention(\d)\.context\.", r"model.pag\1.f_y."),
    (r"^pappm\.scales\.0\.", "model.spp.scale0."),
    # Their pooling is the first entry of the sequence; ours stands apart.
    (r"^pappm\.scales\.(\d)\.0\.", r"model.spp.scale\1.1."),
    (r"^pappm\.scales\.(\d)\.2\.", r"model.spp.scale\1.3."),
    (r"^pappm\.process\.", "model.spp.scale_process."),
    (r"^pappm\.", "model.spp."),
    (r"^fusion\.detail\.", "model.dfm.conv_p."),
    (r"^fusion\.context\.", "model.dfm.conv_i."),
    (r"^head\.", "model.final_layer."),
    (r"^auxiliary_head\.detail\.", "model.seghead_p."),
    (r"^auxiliary_head\.boundary\.", "model.seghead_d."),
    (r"^model\.((?:final_layer|seghead_.))\.conv\.", r"model.\1.conv1."),
    (r"^model\.((?:final_layer|seghead_.))\.classifier\.", r"model.\1.conv2."),
    *_BLOCK[:1],
    (r"^model\.(layer.*)\.shortcut\.", r"model.\1.downsample."),
    *_BLOCK[2:],
)


_BISENET_R18: Rules = (
    (r"^stem\.0\.", "cp.resnet.conv1."),
    (r"^stem\.1\.", "cp.resnet.bn1."),
    (r"^stage(\d)\.", r"cp.resnet.layer\1."),
    (r"^(cp\.resnet\..*)\.norm(\d)\.", r"\1.bn\2."),
    (r"\.shortcut\.", ".downsample."),
    *((rf"^spatial\.{index}\.", f"sp.conv{index + 1}.") for index in range(3)),
    (r"^spatial\.3\.", "sp.conv_out."),
    (r"^(sp\.\w+)\.0\.", r"\1.conv."),
    (r"^(sp\.\w+)\.1\.", r"\1.bn."),
    (r"^fusion\.attention\.0\.", "ffm.conv."),
    (r"^fusion\.attention\.1\.", "ffm.bn."),
    *_BISENET,
)
_WITH_RELU = (
    r"(detail\.\w+\.\d|segment\.S1S2\.(?:conv|left\.\d|fuse)|segment\..*\.conv1"
    r"|segment\.S5_5\.conv_\w+|aux\w+\.conv|aux\w+\.conv_out\.0\.1)"
)
"""What BiSeNetV2's code builds as a convolution with norm and ReLU, by the names of its parts."""
_BISENETV2: Rules = (
    *(
        (rf"^detail\.{index}\.", f"detail.{place}.")
        for index, place in enumerate(
            ("S1.0", "S1.1", "S2.0", "S2.1", "S2.2", "S3.0", "S3.1", "S3.2")
        )
    ),
    (r"^stem\.first\.", "segment.S1S2.conv."),
    (r"^stem\.convolved\.", "segment.S1S2.left."),
    (r"^stem\.fusion\.", "segment.S1S2.fuse."),
    (r"^stage2\.", "segment.S3."),
    (r"^stage3\.", "segment.S4."),
    (r"^stage4\.", "segment.S5_4."),
    (r"\.gather\.", ".conv1."),
    (r"\.expand\.", ".dwconv1."),
    (r"\.0\.depthwise\.", ".0.dwconv2."),
    (r"\.depthwise\.", ".dwconv."),
    (r"\.project\.", ".conv2."),
    (r"\.shortcut\.0\.(\d)\.", r".shortcut.\1."),
    (r"\.shortcut\.1\.0\.", ".shortcut.2."),
    (r"\.shortcut\.1\.1\.", ".shortcut.3."),
    (r"^context\.norm\.", "segment.S5_5.bn."),
    (r"^context\.average\.", "segment.S5_5.conv_gap."),
    (r"^context\.fusion\.", "segment.S5_5.conv_last."),
    (r"^fusion\.detail_same\.", "bga.left1."),
    (r"^fusion\.detail_down\.", "bga.left2."),
    (r"^fusion\.semantic_up\.", "bga.right1."),
    (r"^fusion\.semantic_same\.", "bga.right2."),
    (r"^fusion\.fusion\.", "bga.conv."),
    (r"^head\.conv\.", "head.conv.conv."),
    (r"^head\.norm2\.", "head.conv.bn."),
    (r"^head\.classifier\.", "head.conv_out.1."),
    (r"^auxiliary_head\.3\.", "aux5_4."),
    *((rf"^auxiliary_head\.{index}\.", f"aux{index + 2}.") for index in range(3)),
    (r"^(aux\w+)\.up\.", r"\1.conv_out.0.1."),
    (r"^(aux\w+)\.classifier\.", r"\1.conv_out.1."),
    (rf"^{_WITH_RELU}\.0\.", r"\1.conv."),
    (rf"^{_WITH_RELU}\.1\.", r"\1.bn."),
)


_OCRNET: Rules = (
    (r"^stem\.0\.", "backbone.conv1."),
    (r"^stem\.1\.", "backbone.bn1."),
    (r"^stem\.3\.", "backbone.conv2."),
    (r"^stem\.4\.", "backbone.bn2."),
    (r"^stage1\.", "backbone.layer1."),
    (r"^transition1\.0\.", "backbone.transition1.0."),
    (r"^transition1\.1\.", "backbone.transition1.1.0."),
    (r"^transition2\.", "backbone.transition2.2.0."),
    (r"^transition3\.", "backbone.transition3.3.0."),
    (r"^stage(\d)\.", r"backbone.stage\1."),
    (r"\.exchange\.", ".fuse_layers."),
    *_BLOCK,
    (r"^head\.regions\.", "decode_head.0.convs.0."),
    (r"^head\.region_classifier\.", "decode_head.0.conv_seg."),
    (r"^head\.classifier\.", "decode_head.1.conv_seg."),
    (r"^head\.pixels\.", "decode_head.1.bottleneck."),
    *(
        (rf"^head\.{ours}\.", f"decode_head.1.object_context_block.{theirs}.")
        for ours, theirs in (
            ("query", "query_project"),
            ("key", "key_project"),
            ("value", "value_project"),
            ("expand", "out_project"),
            ("fusion", "bottleneck"),
        )
    ),
    (r"^(decode_head\..*)\.0\.(weight)$", r"\1.conv.\2"),
    (r"^(decode_head\..*)\.1\.(\w+)$", r"\1.bn.\2"),
)
_INTERNIMAGE: Rules = (
    (r"^stages\.0\.down\.0\.", "backbone.patch_embed.conv1."),
    (r"^stages\.0\.down\.1\.", "backbone.patch_embed.norm1.1."),
    (r"^stages\.0\.down\.3\.", "backbone.patch_embed.conv2."),
    (r"^stages\.0\.down\.4\.", "backbone.patch_embed.norm2.1."),
    *(
        (rf"^stages\.{stage}\.down\.{place}\.", f"backbone.levels.{stage - 1}.downsample.{part}.")
        for stage in (1, 2, 3)
        for place, part in enumerate(("conv", "norm.1"))
    ),
    (r"^stages\.(\d)\.norm\.", r"backbone.levels.\1.norm.0."),
    (r"^stages\.", "backbone.levels."),
    (r"\.convolution_norm\.", ".norm1.0."),
    (r"\.feed_forward_norm\.", ".norm2.0."),
    (r"\.convolution_scale$", ".gamma1"),
    (r"\.feed_forward_scale$", ".gamma2"),
    (r"\.feed_forward\.0\.", ".mlp.fc1."),
    (r"\.feed_forward\.2\.", ".mlp.fc2."),
    (r"\.convolution\.neighbours\.", ".dcn.dw_conv.0."),
    (r"\.convolution\.norm\.", ".dcn.dw_conv.1.1."),
    (r"\.convolution\.offsets\.", ".dcn.offset."),
    (r"\.convolution\.weights\.", ".dcn.mask."),
    (r"\.convolution\.project_in\.", ".dcn.input_proj."),
    (r"\.convolution\.project_out\.", ".dcn.output_proj."),
    (r"^head\.pooled\.(\d)\.", r"decode_head.psp_modules.\1.1."),
    (r"^head\.bottleneck\.", "decode_head.bottleneck."),
    (r"^head\.laterals\.", "decode_head.lateral_convs."),
    (r"^head\.smooth\.", "decode_head.fpn_convs."),
    (r"^head\.fusion\.", "decode_head.fpn_bottleneck."),
    (r"^auxiliary_head\.0\.", "auxiliary_head.convs.0."),
    (r"^auxiliary_head\.2\.", "auxiliary_head.conv_seg."),
    (r"^(auxiliary_head\..*)\.0\.(weight)$", r"\1.conv.\2"),
    (r"^(auxiliary_head\..*)\.1\.(\w+)$", r"\1.bn.\2"),
    *_CONV_MODULE,
)


def _stdc_gain(key: str, tensor: Tensor) -> Tensor:
    """Return a norm's gain as they compute it outside of the backbone: in-place norms."""
    in_backbone = key.startswith(("stem.", "stage"))
    is_gain = tensor.ndim == 1 and key.endswith(".weight")
    return tensor.abs() + 1e-5 if is_gain and not in_backbone else tensor


AUTHORS_NAMES: dict[type[SegmentationNetwork], AuthorsNames] = {
    STDC: AuthorsNames(
        _STDC,
        {
            "classifier of the pre-training": tuple(
                f"cp.backbone.{part}." for part in ("conv_last", "fc", "bn", "linear")
            ),
            "head for details of another stride": tuple(
                f"conv_out_sp{stride}." for stride in (2, 4, 16)
            ),
        },
        backbone="cp.backbone.",
        copies=((r"\.x\d+\.0\.", ".features."),),
        absent=("classifier.bias",),
        changed=_stdc_gain,
    ),
    PIDNet: AuthorsNames(_PIDNET, {"loss": ("sem_loss.", "bd_loss.")}, backbone="model."),
    BiSeNet: AuthorsNames(_BISENET_R18, {}),
    BiSeNetV2: AuthorsNames(_BISENETV2, {}),
    OCRNet: AuthorsNames(_OCRNET, {}),
    InternImage: AuthorsNames(
        _INTERNIMAGE,
        {"classifier of the pre-training": ("backbone.conv_head.", "backbone.head.")},
    ),
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
