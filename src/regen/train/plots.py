"""Runs as pictures: small multiples over the updates, in the terminal and as a PNG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from regen.train.run_summary import EVALUATION, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = 'Plots need matplotlib and plotext; install them by pip install "regen[plots]".'
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # Okabe and Ito
TERMINAL_COLOURS = ("blue", "orange", "green", "magenta", "yellow", "cyan", "red")
LETTERS = "abcdefg"  # what tells runs apart where there are no colours
INK, FAINT = "#333333", "#d9d9d9"

NARROW = 80  # columns of a terminal below which panels stand one below the other
PANEL_LINES = 13
POINTS = 400  # of a line in the terminal

Values = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Panel:
    """What one plot shows: of several quantities of the log the one that most runs have."""

    title: str
    units: dict[str, str]
    """Of each quantity."""
    is_log: bool = False
    from_zero: bool = False
    is_smoothed: bool = True
    factor: float = 1.0
    points: str | None = None
    """A quantity that is drawn as points beside the line."""


PANELS = (
    Panel("loss", {"loss": ""}, is_log=True),
    Panel("PSNR, points: evaluations", {"psnr": "dB"}, points=EVALUATION),
    Panel("norm of the gradient", {"gradient_norm": ""}, is_log=True),
    Panel(
        "learning rate",
        {"learning_rate_factor": "share of the full one"},
        from_zero=True,
        is_smoothed=False,
    ),
    Panel("speed", {"tokens_per_second": "tokens/s", "clips_per_second": "clips/s"}, from_zero=True),
    Panel("waiting for data", {"data_wait_fraction": "% of the time"}, from_zero=True, factor=100.0),
)


@dataclass(frozen=True)
class Line:
    """The values of one run, in the order of the updates; `run` counts the runs."""

    run: int
    steps: Values
    values: Values


@dataclass(frozen=True)
class Chart:
    """One plot with its data."""

    panel: Panel
    unit: str
    lines: list[Line]
    points: list[Line]

    def curve(self, line: Line) -> Values:
        """What is drawn boldly of a line."""
        return smooth(line.values) if self.panel.is_smoothed else line.values


def charts_of(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each panel of which the runs have told anything."""
    charts = []
    for panel in PANELS:
        lines = {name: _lines(runs, name, panel) for name in panel.units}
        name = max(lines, key=lambda name: len(lines[name]))
        points = [] if panel.points is None else _lines(runs, panel.points, panel)
        if lines[name] or points:
            charts.append(Chart(panel, panel.units[name], lines[name], points))
    return charts


def smooth(values: Values) -> Values:
    """Means over a twentieth of the values around each; over fewer, as many to each side, near the ends."""
    places = np.arange(len(values))
    reach = np.minimum(len(values) // 40, np.minimum(places, places[::-1]))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def is_drawable() -> bool:
    """Whether what draws in the terminal is installed."""
    return all(find_spec(name) is not None for name in ("plotext", "matplotlib"))


def draw_in_terminal(runs: Sequence[Run], columns: int, is_coloured: bool) -> str:
    """The charts as text of `columns` columns: the smoothed lines of all runs, and below which is which.

    Raises ValueError when plotext is not installed.
    """
    plotext = _plotext()
    width = columns // 2 if columns >= NARROW else columns
    panels = [_panel_in_terminal(chart, width, is_coloured, len(runs)) for chart in charts_of(runs)]
    beside = columns // width
    rows = [panels[i : i + beside] for i in range(0, len(panels), beside)]
    lines = ["".join(parts) for row in rows for parts in zip(*row, strict=True)]
    if len(runs) > 1:
        marks = [
            plotext.colorize("━━", _colour(i)).string() if is_coloured else LETTERS[i % len(LETTERS)]
            for i in range(len(runs))
        ]
        lines += ["", "   ".join(f"{mark} {run.name}" for mark, run in zip(marks, runs, strict=True))]
    return "\n".join(lines)


def draw_png(runs: Sequence[Run], path: Path) -> None:
    """The charts as a PNG of about 1500 x 900 pixels: bold the smoothed lines, faint the values themselves.

    Raises ValueError when matplotlib is not installed or no run has told anything yet.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise ValueError(MISSING) from None
    charts = charts_of(runs)
    if not charts:
        raise ValueError("There is nothing to draw yet; wait until the run has logged its first updates.")
    columns = min(3, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = Figure(figsize=(5 * columns, 0.8 + 4 * rows), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    for index, chart in enumerate(charts):
        _panel_of_png(figure.add_subplot(rows, columns, index + 1), chart)
    facts = runs[0].summary()
    title = f"{facts.name}: {facts.step} of {facts.steps or '?'} updates" if len(runs) == 1 else ""
    figure.suptitle(title, color=INK, fontsize=15, fontweight="bold")
    if len(runs) > 1:
        marks = [Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=2.5) for i in range(len(runs))]
        names = [run.name for run in runs]
        figure.legend(
            marks, names, loc="outside upper center", ncols=min(4, len(runs)), fontsize=12, frameon=False
        )
    figure.savefig(path, format="png")


def _lines(runs: Sequence[Run], name: str, panel: Panel) -> list[Line]:
    lines = []
    for index, run in enumerate(runs):
        steps, values = (np.array(numbers, dtype=float) for numbers in run.series(name))
        shown = values > 0 if panel.is_log else np.ones(len(values), dtype=bool)
        if shown.any():
            lines.append(Line(index, steps[shown], panel.factor * values[shown]))
    return lines


def _panel_of_png(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for line in chart.lines:
        colour = COLOURS[line.run % len(COLOURS)]
        axes.plot(line.steps, line.values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(line.steps, chart.curve(line), color=colour, linewidth=2.2)
    for line in chart.points:
        colour = COLOURS[line.run % len(COLOURS)]
        axes.plot(line.steps, line.values, "o:", color=colour, markeredgecolor="white", markersize=7)
    axes.set_xlim(left=0)
    if chart.panel.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    if chart.panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.set_title(chart.panel.title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlabel("updates", color=INK)
    axes.set_ylabel(chart.unit, color=INK)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)


def _panel_in_terminal(chart: Chart, width: int, is_coloured: bool, runs: int) -> list[str]:
    """The lines of text of a chart, each `width` columns wide."""
    plotext = _plotext()
    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.theme("simple").plot_size(width, PANEL_LINES)
    is_log = chart.panel.is_log
    figure.title(f"{chart.panel.title} ({chart.unit})" if chart.unit else chart.panel.title)
    low, high = 0.0 if chart.panel.from_zero else math.inf, -math.inf
    for line, is_line in [(line, True) for line in chart.lines] + [(line, False) for line in chart.points]:
        values = np.asarray(chart.curve(line) if is_line else line.values)
        heights = np.log10(values) if is_log else values
        thin = slice(None, None, max(1, len(values) // POINTS) if is_line else 1)
        low, high = min(low, heights.min()), max(high, heights.max())
        letter = LETTERS[line.run % len(LETTERS)]
        symbol = ("braille" if is_line else "●") if is_coloured or runs == 1 else letter
        symbol = symbol if is_line else symbol.upper()
        marker = plotext.marker(symbol, _colour(line.run) if is_coloured else None)
        signal = figure.signal(line.steps[thin].tolist(), heights[thin].tolist(), marker=marker)
        figure.draw(signal.lines() if is_line else signal)
    _set_ticks(figure.ruler("y"), low, high, is_log)
    _set_ticks(figure.ruler("x"), 0.0, max(line.steps[-1] for line in chart.lines + chart.points))
    return list(figure.build().string(colorless=not is_coloured).rstrip("\n").split("\n"))


def _set_ticks(ruler: Any, low: float, high: float, is_log: bool = False) -> None:
    """Round numbers on an axis from `low` to `high`, which are logarithms where `is_log`."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        low, high = low - 0.5, high + 0.5
    places = [tick for tick in np.asarray(MaxNLocator(4).tick_values(low, high)) if low <= tick <= high]
    ruler.lim(low, high)
    ruler.ticks(places, [f"{10**place:.2g}" if is_log else f"{place:g}" for place in places])


def _colour(run: int) -> str:
    return TERMINAL_COLOURS[run % len(TERMINAL_COLOURS)]


def _plotext() -> Any:
    if not is_drawable():
        raise ValueError(MISSING)
    import plotext

    return plotext
