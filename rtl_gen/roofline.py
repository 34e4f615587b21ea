"""Roofline plot of an estimate (Williams, Waterman, Patterson, CACM 2009)."""

from pathlib import Path

from .estimate import Estimate

__all__ = ["plot_roofline"]

COLOURS = {"prefill": "tab:blue", "decode": "tab:orange"}
MARKERS = {"linears": "o", "attention": "s", "LM head": "^"}


def plot_roofline(estimate: Estimate, path: Path) -> None:
    """Write a PNG: multiply-accumulates per cycle against operations per byte, with the roofs of port and ternary lanes."""
    # Slow to import, and only needed here.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    intensities = [point.intensity for point in estimate.points]
    ridges = [2 * roof / estimate.port_bytes for roof in estimate.roofs.values()]
    low, high = min(intensities + ridges) / 2, max(intensities + ridges) * 2
    for phase, roof in estimate.roofs.items():
        ridge = 2 * roof / estimate.port_bytes
        axes.plot([low, ridge, high], [low * estimate.port_bytes / 2, roof, roof], color=COLOURS[phase], linewidth=1.5,
                  label=f"{phase}: {roof:,.0f} ternary MAC/cycle, {estimate.port_bytes:g} bytes/cycle")
    for point in estimate.points:
        axes.scatter(point.intensity, point.rate, color=COLOURS[point.phase], marker=MARKERS[point.name], zorder=3,
                     label=f"{point.phase}: {point.name} ({point.rate:,.1f} MAC/cycle)")
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations per byte", ylabel="multiply-accumulates per cycle",
             title=f"{estimate.config.name}: {estimate.model.parameters / 1e6:,.0f} M parameters, context {estimate.context}, "
                   f"prompt {estimate.prompt} (projected)")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize="small", loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=130)
