"""Plots of one look for all benchmarks: PNGs 900 pixels wide, from labelled series of points."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH, HEIGHT, DOTS_PER_INCH = 900, 500, 100  # pixels
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # Okabe and Ito
MARKERS = "osD^vPX"
FONT = 12


def check_plot(path: Path | None) -> None:
    """Fail before the work is done, not after it, when `path` can't become a plot."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise ValueError(f"A plot must end in .png, got {path}.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} into; create it first.")


def draw_lines(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    markers: bool = True,
    title: str = "",
) -> None:
    """A line, by default with markers, for each of `series` (label to points x, y), in the PNG `path`.

    With `log_x` the x axis is logarithmic, with a tick at every x that occurs.
    """
    figure, axes = _figure(x_label, y_label, title)
    for index, (label, points) in enumerate(series.items()):
        xs, ys = zip(*sorted(points), strict=True)
        marker = MARKERS[index % len(MARKERS)] if markers else None
        axes.plot(xs, ys, label=label, color=COLOURS[index % len(COLOURS)], marker=marker, linewidth=2)
    if log_x:
        places = sorted({x for points in series.values() for x, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
    _save(figure, axes, path)


def draw_bars(
    path: Path,
    series: Mapping[str, Mapping[str, float]],
    x_label: str,
    y_label: str,
    *,
    title: str = "",
) -> None:
    """Groups of bars: a colour for each of `series`, a group for each key of its values.

    The y axis begins below the lowest bar, not at zero: what counts in decibels is the difference.
    """
    figure, axes = _figure(x_label, y_label, title)
    groups = list(dict.fromkeys(key for values in series.values() for key in values))
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        places = [groups.index(key) + (index - (len(series) - 1) / 2) * width for key in values]
        colour = COLOURS[index % len(COLOURS)]
        bars = axes.bar(places, list(values.values()), width * 0.92, label=label, color=colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=FONT - 3, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    heights = [value for values in series.values() for value in values.values()]
    margin = 0.15 * (max(heights) - min(heights)) + 0.5
    axes.set_ylim(min(heights) - margin, max(heights) + margin)
    _save(figure, axes, path)


def _figure(x_label: str, y_label: str, title: str) -> tuple[Figure, Axes]:
    size = (WIDTH / DOTS_PER_INCH, HEIGHT / DOTS_PER_INCH)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, fontsize=FONT)
    axes.set_ylabel(y_label, fontsize=FONT)
    axes.set_title(title, fontsize=FONT + 1)
    axes.tick_params(labelsize=FONT, length=0)
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=FONT - 1)
    figure.savefig(path, format="png", metadata={"Software": None})
