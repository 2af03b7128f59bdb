"""Pictures of a policy. Needs matplotlib (`pip install tfmix[plot]`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfmix.errors import TfmixError
from tfmix.ir.graph import as_graph
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: One colour per bit-width, dark to light, told apart in print and by the colour-blind.
COLOURS = dict(zip(BIT_WIDTHS, ("#1b3a5c", "#2f8f9d", "#f0b33c"), strict=True))
GREY = "#5f6b76"


def plot_policy(
    model: Any, policy: QuantizationPolicy, path: str | os.PathLike[str], title: str = ""
) -> Path:
    """Saves a picture of the bits of each weight and activation tensor, and of their bytes.

    Args:
      model: whatever has a graph (a float or fake-quant model, a Graph).
      policy: the bits to show.
      path: of the picture, .png, .svg or .pdf.
      title: above it.

    Returns the path.
    """
    graph = as_graph(model)
    policy.validate(graph)
    panels = {
        "weights": [
            (node.name, policy.weight_bits[node.name], graph.weight_elements(node))
            for node in graph.weighted_nodes
        ],
        "activations": [
            (name, bits, graph.tensors[name].elements)
            for name, bits in policy.activation_bits.items()
        ],
    }
    longest = max(map(len, panels.values()))
    figure = new_figure((max(7.0, 2.0 + 0.42 * longest), 7.2))
    from matplotlib.patches import Patch

    for axes, (kind, bars) in zip(figure.subplots(2, 1), panels.items(), strict=True):
        _bars(axes, kind, bars)
    legend = [Patch(color=COLOURS[bits], label=f"{bits} bits") for bits in BIT_WIDTHS]
    legend.append(Patch(facecolor="white", edgecolor=GREY, label="at 8 bits"))
    figure.legend(handles=legend, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title or "Bits per tensor", fontsize=13)
    path = Path(path)
    figure.savefig(path, dpi=150)
    return path


def new_figure(inches: tuple[float, float]) -> Figure:
    """Empty, (width, height), drawn without a window. TfmixError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TfmixError("pictures need matplotlib: pip install tfmix[plot]") from error
    return Figure(figsize=inches, layout="constrained")


def _bars(axes: Any, kind: str, bars: list[tuple[str, int, int]]) -> None:
    """Height: bytes, over an outline of what 8 bits would take; colour and label: bits."""
    for x, (_, bits, elements) in enumerate(bars):
        axes.bar(x, elements / 1024, 0.78, facecolor="none", edgecolor=GREY, linewidth=0.7)
        axes.bar(x, elements * bits / 8 / 1024, 0.78, color=COLOURS[bits])
        axes.annotate(
            str(bits),
            (x, elements / 1024),
            textcoords="offset points",
            xytext=(0, 3),
            ha="center",
            fontsize=9,
            fontweight="bold",
            color=COLOURS[bits] if bits != BIT_WIDTHS[-1] else "#b07c12",
        )
    axes.set_xticks(range(len(bars)), [name for name, *_ in bars], rotation=45, ha="right")
    axes.tick_params(labelsize=8)
    axes.set_ylabel(f"{kind}, kB")
    axes.set_xlim(-0.7, len(bars) - 0.3)
    axes.margins(y=0.14)
    axes.spines[["top", "right"]].set_visible(False)
