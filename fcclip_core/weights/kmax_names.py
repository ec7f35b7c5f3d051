"""Maps the names of our kMaX decoders to the keys of kMaX-DeepLab's checkpoints.

Not there: kMaX's own classifiers for fixed classes (`CLASS_HEAD`) and its auxiliary semantic head (`AUXILIARY`), which
FC-CLIP's class branch replaces and a frozen backbone makes useless. Only here: that class branch, under FC-CLIP's keys.
"""

from __future__ import annotations

import re

CLASS_HEAD = "._transformer_class_head."
AUXILIARY = "._auxiliary_semantic_predictor."

_OURS = re.compile(
    r"^(pixel_decoder\.(in_norms|stages|fuses)|"
    r"mask_decoder\.(centers|kmeans_layers|class_projection|mask_projection|predictor))\."
)
# Applied one after the other; parts of the name that none of them changes are equal in both.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^pixel_decoder\.in_norms\.", "sem_seg_head.pixel_decoder._in_norms."),
        (r"^pixel_decoder\.stages\.(\d+)\.(\d+)\.", r"sem_seg_head.pixel_decoder._stages.\1._blocks.\2."),
        (r"^pixel_decoder\.fuses\.(\d+)\.(low|high)\.", r"sem_seg_head.pixel_decoder._resized_fuses.\1._conv_bn_\2."),
        (r"\.conv(1|2)\.", r"._conv\1_bn_act."),
        (r"\.conv3\.", "._conv3_bn."),
        (r"\.shortcut\.", "._shortcut."),
        (r"\.attention\.(height|width)\.", r"._attention._\1_axis."),
        (r"_axis\.qkv\.conv\.", "_axis.qkv_transform.conv."),
        (r"_axis\.qkv\.norm\.", "_axis._batch_norm_qkv."),
        (r"_axis\.similarity_norm\.", "_axis._batch_norm_similarity."),
        (r"_axis\.output_norm\.", "_axis._batch_norm_retrieved_output."),
        (r"\.(query|key|value)_position\.", r"._\1_rpe._embeddings."),
        (r"^mask_decoder\.centers\.", "sem_seg_head.predictor._cluster_centers."),
        (r"^mask_decoder\.kmeans_layers\.(\d+)\.", r"sem_seg_head.predictor._kmax_transformer_layers.\1."),
        (r"^mask_decoder\.(class|mask)_projection\.", r"sem_seg_head.predictor._\1_embedding_projection."),
        (r"^mask_decoder\.predictor\.", "sem_seg_head.predictor.predictor."),
        (r"\.predictor\.depthwise\.", "._predcitor._pixel_space_head_conv0bnact."),
        (r"\.predictor\.expand\.", "._predcitor._pixel_space_head_conv1bnact."),
        (r"\.predictor\.reduce\.", "._predcitor._pixel_space_head_last_convbn."),
        (r"\.predictor\.kernel\.", "._predcitor._transformer_mask_head."),
        (r"\.predictor\.mask_norm\.", "._predcitor._pixel_space_mask_batch_norm."),
        (r"\.pixel_projection\.", "._pixel_conv1_bn_act."),
        (r"\.query_projection\.", "._query_conv1_bn_act."),
        (r"(layers\.\d+)\.value\.", r"\1._pixel_v_conv_bn."),
        (r"\.sum_norm\.", "._kmeans_query_batch_norm_retrieved_value."),
        (r"\.update\.", "._kmeans_query_conv3_bn."),
        (r"\.attention\.qkv\.", "._query_qkv_conv_bn."),
        (r"\.attention\.similarity_norm\.", "._query_self_attention._batch_norm_similarity."),
        (r"\.attention\.output_norm\.", "._query_self_attention._batch_norm_retrieved_value."),
        (r"\.attention_out\.", "._query_conv3_bn."),
        (r"\.expand\.", "._query_ffn_conv1_bn_act."),
        (r"\.contract\.", "._query_ffn_conv2_bn."),
    )
)


def kmax_name(name: str) -> str | None:
    """kMaX-DeepLab's key of our parameter `name`, a key of `FCCLIP.state_dict`; None for one that it does not have."""
    if not _OURS.match(name):
        return None
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name
