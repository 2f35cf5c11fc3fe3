"""What networks are called in figures and tables, and at what they were measured, in words."""

import pandas as pd

SAID = {"captured": "eager, replayed as a CUDA graph", "folded": "compiled, normalisation folded"}


def pair_name(model: str) -> str:
    """The pair that a model belongs to, such as ``H1 : B1``; its own name where it has no number."""
    number = short(model)[1:]
    return f"H{number} : B{number}" if number.isdigit() else model


def short(model: str) -> str:
    """H1 for ``halonet_h1``, B1 for ``efficientnet_b1``; else the name."""
    last = model.rpartition("_")[2]
    return last.upper() if last[:1] in ("h", "b") and last[1:].isdigit() else model


def with_batch(rows: pd.DataFrame, name: str) -> str:
    """The name of a pair, and below it at what batch it was measured."""
    batches = rows.loc[rows["model"].map(pair_name) == name, "batch"].dropna().unique()
    return f"{name}\nbatch {'/'.join(f'{batch:g}' for batch in sorted(batches))}" if len(batches) else name


def conditions(rows: pd.DataFrame) -> str:
    """The batches and the images' sides of all rows, and their mode if it is one, for a subtitle."""
    sides = "/".join(f"{side}" for side in sorted(rows["side"].unique()))
    modes = [SAID.get(mode, mode) for mode in rows["mode"].unique()]
    parts = [f"batch {batches_of(rows)}", *(modes if len(modes) == 1 else []), "channels-last"]
    return ", ".join([*parts, f"images of side {sides}"])


def batches_of(rows: pd.DataFrame) -> str:
    """The batches of all rows; where each pair has one of its own, with the HaloNets of each batch."""
    known = rows.dropna(subset="batch").assign(own=rows["model"].map(lambda model: pair_name(model).split(" : ")[0]))
    batches = sorted(known["batch"].unique())
    if len(batches) < 2 or (known.groupby("own")["batch"].agg(["min", "max"]).diff(axis=1)["max"] > 0).any():
        return "/".join(f"{batch:g}" for batch in batches)
    named = {batch: sorted(known.loc[known["batch"] == batch, "own"].unique()) for batch in reversed(batches)}
    return ", ".join(f"{batch:g} ({', '.join(names)})" for batch, names in named.items())
