"""Each kernel of ours at the model's own sizes: against its plain form, and its speed."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from benchmarks.gpu.parts import NoTime
from benchmarks.gpu.run import Run, fastest_sampler
from benchmarks.lib.rates import PRECISIONS as TYPES
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.ownership import FrameTaps, owned_pixels
from fcclip_core.inference.postprocess import ClassifiedMasks, panoptic_segments
from fcclip_core.inference.postprocess_gpu import DeviceMerger
from fcclip_core.inference.preprocess import preprocess
from fcclip_core.inference.preprocess_gpu import DevicePreprocessor
from fcclip_core.model.decoder_config import DeformablePixelDecoderConfig
from fcclip_core.model.deformable_attention import sample_by_grid


def deformable_decoder(run: Run) -> DeformablePixelDecoderConfig:
    """The sizes of the model's deformable attention, whose kernels are measured."""
    decoder = run.model.config.pixel_decoder
    if not isinstance(decoder, DeformablePixelDecoderConfig):
        raise NoTime(f"{run.model.config.name} has no deformable attention")
    return decoder


def check_kernels(run: Run) -> None:
    """Both Triton kernels at the model's own sizes, against their plain forms; and their speed."""
    config, decoder, (height, width) = run.model.config, deformable_decoder(run), run.geometry.padded
    shapes = [(height // stride, width // stride) for stride in (32, 16, 8)]
    tokens = sum(h * w for h, w in shapes)
    normal = run.random
    heads, channels = decoder.heads, decoder.dim // decoder.heads
    value = normal(1, tokens, heads, channels)
    grid = (1, tokens, heads, len(shapes), decoder.points)
    # Around the token itself, some of them over the border, as in the network.
    centers = torch.rand(1, tokens, 1, 1, 1, 2, generator=run.generator, device=run.device)
    locations = centers + normal(*grid, 2) * 0.05
    weights = normal(*grid).flatten(3).softmax(-1).unflatten(3, grid[3:])
    exact = sample_by_grid(value.double(), shapes, locations.double(), weights.double())
    times = run.found.setdefault("sampling_ms", {})
    for precision, limit in (("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 1.5e-2)):
        short = value.to(TYPES[precision])
        for name, sampler in (("grid", sample_by_grid), ("fastest", fastest_sampler(run))):
            found = sampler(short, shapes, locations, weights)
            run.verdict(f"sampling {sampler.__name__} {precision}", relative(exact, found), limit)
            work = functools.partial(sampler, short, shapes, locations, weights)
            times[f"{name} {precision}"] = 1e3 * run.seconds(work)

    queries, mask_size = config.mask_decoder.queries, (height // 4, width // 4)
    coarse = normal(1, queries, height // 32, width // 32) * 10 - 4
    logits = F.interpolate(coarse, size=mask_size, mode="bicubic")[0]
    probs = (normal(queries, len(run.words.seen) + 1) * 2).softmax(-1)
    embeddings, is_thing = normal(queries, config.embed_dim), torch.tensor(run.words.is_thing, device=run.device)
    resizer = MaskResizer(run.geometry, mask_size, run.device)
    scores, kept = probs.max(-1).values, torch.rand(queries, generator=run.generator, device=run.device) < 0.6
    plain = owned_pixels(logits, scores, kept, resizer)
    merging = run.found.setdefault("merging_ms", {})
    if run.on_gpu:
        from fcclip_core.inference.ownership_triton import owned_pixels_by_triton

        taps = FrameTaps.of(run.geometry, mask_size, run.device)
        kernel = owned_pixels_by_triton(logits, scores, kept, taps)
        run.verdict("owners that differ", float((kernel.owner != plain.owner).double().mean()), 1e-4)
        run.verdict("mask areas that differ, pixels", int((kernel.mask_areas - plain.mask_areas).abs().max()), 3)
        merging["owners, kernel"] = 1e3 * run.seconds(lambda: owned_pixels_by_triton(logits, scores, kept, taps))
    merging["owners, bands"] = 1e3 * run.seconds(lambda: owned_pixels(logits, scores, kept, resizer))
    merger = DeviceMerger(run.device)
    masks = ClassifiedMasks(logits, probs, embeddings, is_thing, run.geometry, run.settings)
    merge = functools.partial(merger, masks)
    merge_plainly = functools.partial(panoptic_segments, logits, probs, is_thing, resizer, run.settings)
    differ = merge().segment_map != merge_plainly().segment_map
    run.verdict("merged pixels that differ", float(differ.mean()), 1e-3)
    merging["device"] = 1e3 * run.seconds(merge)
    merging["panoptic_segments"] = 1e3 * run.seconds(merge_plainly)


def check_network_kernels(run: Run) -> None:
    """The network's own kernels at a large model's sizes, against their plain forms; and both forms' speed."""
    if not run.on_gpu:
        raise NoTime("only on a GPU")
    from fcclip_core.kernels.attention_triton import attend_in_parts
    from fcclip_core.kernels.depthwise_triton import depthwise_norm

    normal = run.random
    (height, width), times = run.geometry.padded, run.found.setdefault("network_kernels_ms", {})
    for side, channels in ((4, 192), (8, 384), (16, 768), (32, 1536)):
        x, weight = normal(1, height // side, width // side, channels).bfloat16(), normal(channels, 1, 7, 7) / 7
        bias, scale, shift = normal(channels).bfloat16(), normal(channels), normal(channels)
        taps, short = weight.flatten(1).T.contiguous(), weight.bfloat16()
        image = x.permute(0, 3, 1, 2)
        convolved = F.conv2d(image.float(), weight, bias.float(), padding=3, groups=channels).permute(0, 2, 3, 1)
        expected = F.layer_norm(convolved, (channels,), scale, shift, 1e-6)
        own = functools.partial(depthwise_norm, x, taps, bias, scale, shift, 1e-6)
        run.verdict(f"convolution and norm, {channels} channels", relative(expected.double(), own()), 1e-2)
        times[f"convolution and norm, {channels}"] = 1e3 * run.seconds(own)
        plain = functools.partial(F.conv2d, image, short, bias, padding=3, groups=channels)
        times[f"cuDNN's convolution alone, {channels}"] = 1e3 * run.seconds(plain)
    config, decoder = run.model.config, deformable_decoder(run)
    for side in (8, 16, 32):
        keys, channels = (height // side) * (width // side), decoder.dim // decoder.heads
        query, key, value = (
            normal(1, decoder.heads, count, channels).bfloat16() for count in (config.mask_decoder.queries, keys, keys)
        )
        allowed = normal(1, 1, config.mask_decoder.queries, keys) > 1
        allowed[..., 0] = True
        expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), allowed)
        own = functools.partial(attend_in_parts, query, key, value, allowed)
        run.verdict(f"attention to {keys} keys", relative(expected, own()), 1e-2)
        times[f"attention to {keys} keys"] = 1e3 * run.seconds(own)
        plain = functools.partial(F.scaled_dot_product_attention, query, key, value, allowed)
        times[f"torch's attention to {keys} keys"] = 1e3 * run.seconds(plain)


def check_frames(run: Run) -> None:
    """Pre-processing on the device, bit for bit, and its speed."""
    prepare_frame = DevicePreprocessor(run.device)
    expected, found = preprocess(run.image, run.settings, run.device)[0], prepare_frame(run.image, run.settings)[0]
    run.verdict("input values that differ", float((expected != found).double().mean()), 0.0)
    run.found["preprocess_ms"] = {
        "host": 1e3 * run.seconds(lambda: preprocess(run.image, run.settings, run.device)),
        "device": 1e3 * run.seconds(lambda: prepare_frame(run.image, run.settings)),
    }


def relative(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Length of the difference over the length of what was expected."""
    return float((expected - found.double()).norm() / expected.norm())
