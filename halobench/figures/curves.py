"""What training runs leave behind: error and loss over epochs and seconds, and the time to the same accuracy."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from halobench.figures.scale import plain_log
from halobench.figures.selection import commit_named, several_as_one
from halobench.figures.style import BLUE, BROWN, GREEN, INK, ORANGE, PURPLE, RED, SKY, WIDEST, canvas, legend

COLOURS = (RED, BLUE, ORANGE, GREEN, PURPLE, BROWN, SKY, INK)
CURVES = ("model", "backend", "seed", "machine", "epoch", "seconds", "train_loss", "test_loss", "test_accuracy")
TIMES = ("model", "backend", "seed", "machine", "target", "reached", "seconds", "epochs", "parameters")
FOLDER = "curves"
DECLARED = " (declared)"  # behind a commit that nobody but a variable of the environment told
KNOWN = {"true": True, "false": False}


def draw(folder: Path) -> Iterator[tuple[str, Figure | str]]:
    """The figures of the runs below ``folder``/curves; none where there is no such folder."""
    if not (folder / FOLDER).is_dir():
        return
    curves, times = (read(folder / FOLDER, *kind) for kind in (("curves.csv", CURVES), ("time-to-accuracy.csv", TIMES)))
    colours = of_models(curves, times)
    yield "curves", "no curves.csv below curves/" if curves.empty else over_time(curves, colours)
    if not times.empty:
        yield "time-to-accuracy", to_accuracy(times, colours)


def read(folder: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """All tables of this name below a folder, in one; those that lack a column are reported on stderr and left out.

    A model that ran without a backend has no slots for one, whatever other tables name for it.
    """
    found = []
    for path in sorted(folder.rglob(name)):
        try:
            table = pd.read_csv(path, dtype={"commit": str})
        except (ValueError, OSError) as error:
            print(f"skipped {path}: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        lacking = [column for column in columns if column not in table]
        if lacking:
            print(f"skipped {path}: it has no column {', '.join(lacking)}", file=sys.stderr)
            continue
        found.append(table.assign(run=str(path.parent.relative_to(folder))))
    if not found:
        return pd.DataFrame(columns=[*columns, "run"])
    table = pd.concat(found, ignore_index=True)
    table["backend"] = table["backend"].fillna("none")
    table.loc[table["model"].isin(table["model"][table["backend"] == "none"]), "backend"] = "none"
    return table


def over_time(curves: pd.DataFrame, colours: dict[str, str]) -> Figure:
    """Test error and training loss over epochs, test error over seconds; a line a run, a colour a model."""
    figure = canvas(
        WIDEST, 4.2, "Training runs", "every line is one run, the seeds of a model share a colour", footer(curves)
    )
    # The accuracies are all near 100 %: the error, on a logarithmic axis, keeps them apart.
    curves = curves.assign(test_error=100 * (1 - curves["test_accuracy"]))
    error, loss = ("test_error", "test error (%): 100 - accuracy"), ("train_loss", "training loss")
    for number, (across, (up, label)) in enumerate((("epoch", error), ("epoch", loss), ("seconds", error))):
        axes = figure.add_subplot(1, 3, number + 1)
        for _, run in curves.groupby("run", sort=True):
            model = named(run).iloc[0]
            part = run.sort_values("epoch")
            values = part[up].where(part[up] > 0) if up == "test_error" else part[up]
            axes.plot(part[across], values, color=colours[model], marker=".", linewidth=1.3, alpha=0.85, label=model)
        axes.set_xlabel("epoch" if across == "epoch" else "seconds since the start")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        if up == "test_error" and (curves[up] > 0).any():
            plain_log(axes, "y")
        else:
            axes.set_ylim(bottom=0)
        if across == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, [Line2D([], [], color=colour, marker=".", label=name) for name, colour in colours.items()])
    return figure


def to_accuracy(times: pd.DataFrame, colours: dict[str, str]) -> Figure:
    """A dot a run and the median a model; runs that did not arrive stand hollow where they ended."""
    targets = ", ".join(f"{100 * target:g} %" for target in sorted(times["target"].unique()))
    names = sorted(named(times).unique())
    title = f"Time to a test accuracy of {targets}"
    subtitle = (
        "from before the data is touched, evaluations included; dots are runs, bars their medians, hollow: not reached"
    )
    figure = canvas(8, 1.6 + 0.5 * len(names), title, subtitle, footer(times))
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        of = times[named(times) == name].dropna(subset=["seconds"])
        arrived = of["reached"].astype(str) == "True"
        axes.plot(of["seconds"][arrived], [place] * int(arrived.sum()), "o", color=colours[name])
        missed = of["seconds"][~arrived]
        axes.plot(missed, [place] * len(missed), "o", markerfacecolor="white", markeredgecolor=colours[name])
        if len(of) and arrived.all():
            middle = of["seconds"].median()
            axes.plot([middle, middle], [place - 0.3, place + 0.3], color=colours[name], linewidth=2.5)
            axes.text(middle, place - 0.33, f"{middle:.3g} s", ha="center", va="bottom", size=8, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.75)
    axes.margins(x=0.15)  # before the limit is set, which ends the scaling
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    axes.grid(visible=False, axis="y")
    return figure


def named(runs: pd.DataFrame) -> "pd.Series[str]":
    """What each row's model is called: its name, its backend, its size."""
    backend = runs["backend"].map(lambda name: "" if name == "none" else f", {name}")
    millions = (runs["parameters"] / 1e6).map(lambda number: f" ({number:.2g} M)") if "parameters" in runs else ""
    return runs["model"] + backend + millions


def of_models(*tables: pd.DataFrame) -> dict[str, str]:
    """A colour for each model of these tables, by name."""
    names = sorted({name for runs in tables for name in named(runs)})
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def footer(runs: pd.DataFrame) -> str:
    """The machines, PyTorch's versions, and the commits as far as they are known."""
    parts = [*sorted(runs["machine"].dropna().astype(str).unique())]
    if "torch" in runs:
        parts += [f"torch {version}" for version in sorted(runs["torch"].dropna().astype(str).unique())]
    if "commit" in runs:
        parts += several_as_one(commits(runs))
    if "image_size" in runs:
        parts += [f"images of {size} x {size}" for size in sorted(runs["image_size"].unique())]
    return "  ·  ".join(parts)


def commits(runs: pd.DataFrame) -> list[str]:
    """Each row's commit with what is not known of it; tables once did not say whether files differed from it."""
    dirty = runs["dirty"] if "dirty" in runs else pd.Series("unknown", runs.index)
    return [
        commit_named(commit.removesuffix(DECLARED), declared=commit.endswith(DECLARED), dirty=KNOWN.get(differs))
        for commit, differs in zip(runs["commit"].astype(str), dirty.astype(str).str.lower(), strict=True)
    ]
