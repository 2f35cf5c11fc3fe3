"""Training runs as a table of a page: how long each model takes to the same test accuracy."""

from pathlib import Path

from halobench.figures.curves import FOLDER, TIMES, named, read
from halobench.figures.summary import markdown

TABLE = "time-to-accuracy.csv"


def time_to_accuracy(folder: Path) -> str:
    """The median over runs, all runs and their epochs, a line a model, the fastest first."""
    times = read(folder / FOLDER, TABLE, TIMES)
    lines = []
    for name, of in times.assign(name=named(times)).groupby("name"):
        runs = of.sort_values("seconds")
        arrived = f"{int((of['reached'].astype(str) == 'True').sum())} of {len(of)}"
        seconds, epochs = (", ".join(f"{value:.0f}" for value in runs[column]) for column in ("seconds", "epochs"))
        lines.append(
            (runs["seconds"].median(), [str(name), f"{runs['seconds'].median():.0f} s", seconds, epochs, arrived])
        )
    targets = " and ".join(f"{100 * target:g} %" for target in sorted(times["target"].unique()))
    machines, commits = (", ".join(sorted(times[column].unique())) for column in ("machine", "commit"))
    head = ["model", f"median time to {targets}", "runs, s", "epochs of each", "arrived"]
    source = f"*{machines}, at {commits}; from results/{FOLDER}/, all tables called {TABLE}.*"
    return f"{markdown(head, [line for _, line in sorted(lines)])}\n\n{source}"
