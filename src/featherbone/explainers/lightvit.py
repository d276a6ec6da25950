"""LightViT: attention of the global tokens, and the two gates of bi-dimensional attention."""

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from featherbone.backbones.lightvit import BiDimensionalAttention, LightViT
from featherbone.explainers.capture import inputs_of
from featherbone.explainers.figures import (
    DPI,
    HOW_TO_READ,
    WIDTH,
    Panel,
    Picture,
    Section,
    attention_sheet,
    draw_panels,
    render,
)
from featherbone.explainers.view import View


@torch.no_grad()
def lightvit_sections(net: LightViT, x: Tensor, view: View) -> list[Section]:
    """Global attention and gates in the last block of each stage; x is (1, 3, H, W)."""
    blocks = [stage.blocks[-1] for stage in net.stages]
    inputs = inputs_of([module for block in blocks for module in (block.attn, block.mlp.gate)], net, x)
    pictures = []
    for i, block in enumerate(blocks):
        _, height, width = inputs[block.attn]
        maps = block.attn.global_attention(*inputs[block.attn])[0].mean(0).unflatten(1, (height, width))
        titles = [f"token {t + 1}" for t in range(len(maps))]
        drawn = attention_sheet(view, maps, 8 * 2**i, titles, point=False)
        pictures.append(Picture(f"global-stage{i + 1}", drawn, f"Stage {i + 1}, mean of {block.attn.num_heads} heads."))
    text = (
        "A few learned tokens aggregate the image, G = softmax(q_g k_xᵀ / √d) v_x, and broadcast it to every position. "
        f"Each map is the attention of one token in the last block of a stage. {HOW_TO_READ}"
    )
    sections = [Section("Global tokens", text, tuple(pictures))]
    gates = [block.mlp.gate for block in blocks]
    if all(isinstance(gate, BiDimensionalAttention) for gate in gates):
        panels, channels = [], []
        for i, block in enumerate(blocks):
            channel, spatial = block.mlp.gate.gates(*inputs[block.mlp.gate])
            _, height, width = inputs[block.attn]
            gate = spatial[0, -height * width :, 0].unflatten(0, (height, width))  # the global tokens come first
            low, high = gate.min().item(), gate.max().item()
            title, limits = f"stage {i + 1}: {low:.3f} to {high:.3f}", (low, max(high, low + 1e-6))
            panels.append(Panel(title, gate, 8 * 2**i, limits, "viridis"))
            channels.append(channel.flatten())
        text = (
            "The output of the feed-forward network is multiplied by two gates between 0 and 1: one for each position, "
            "one for each channel."
        )
        caption = (
            "The spatial gate in the last block of each stage. Colours run from the minimum to the maximum of each "
            "map, which are in its title: a gate with a narrow range hardly selects."
        )
        spatial_gate = Picture("gate-spatial", draw_panels(view, panels, point=False), caption)
        caption = "The channel gate, sorted; the dashed line is 0.5, the value of a gate with input 0."
        channel_gate = Picture("gate-channel", draw_channels(channels), caption)
        sections.append(Section("Bi-dimensional attention", text, (spatial_gate, channel_gate)))
    return sections


def draw_channels(gates: list[Tensor]) -> Image.Image:
    """Gates (C), sorted, as bar charts side by side."""
    figure = Figure(figsize=(WIDTH / DPI, 1.9), layout="constrained")
    axes = figure.subplots(1, len(gates), sharey=True)
    for i, (ax, gate) in enumerate(zip(axes, gates, strict=True)):
        values = gate.sort(descending=True).values.cpu().numpy()
        ax.bar(range(len(values)), values, width=1.0, color="#4c6fff")
        ax.axhline(0.5, color="#1d2433", linestyle="--", linewidth=0.8)
        ax.set(xlim=(-0.5, len(values) - 0.5), ylim=(0, 1), xticks=())
        ax.set_title(f"stage {i + 1}, {len(values)} channels", fontsize=9, pad=3)
        ax.spines[["top", "right"]].set_visible(False)
    return render(figure)
