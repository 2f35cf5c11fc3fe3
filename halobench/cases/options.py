"""What the user of the suites may choose, from pytest's command line."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from halobench.attention import backends

Tier = Literal["smoke", "default", "full"]
TIERS = get_args(Tier)
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Options:
    """The choices of a run. ``batch=None`` leaves each suite its own."""

    tier: Tier
    backends: tuple[str, ...]
    device: str
    dtype: str
    batch: int | None = None

    @classmethod
    def choose(
        cls, tier: str | None, names: str | None, device: str | None, dtype: str | None, batch: int | None
    ) -> "Options":
        """Fill in the defaults: a GPU where there is one, the tier and the dtype that suit the device.

        Raises:
            ValueError: a choice is impossible; the message names it and lists what there is.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device not in ("cpu", "cuda"):
            raise ValueError(f"--device must be cpu or cuda, got {device!r}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no CUDA device on this machine")
        tier = tier or ("default" if device == "cuda" else "smoke")
        if tier not in TIERS:
            raise ValueError(f"--tier must be one of {', '.join(TIERS)}, got {tier!r}")
        dtype = dtype or ("bfloat16" if device == "cuda" else "float32")
        if dtype not in DTYPES:
            raise ValueError(f"--dtype must be bfloat16, float16 or float32, got {dtype!r}")
        if batch is not None and batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")
        known = backends.names()
        chosen = tuple(known) if names is None else tuple(name.strip() for name in names.split(","))
        if not any(chosen):
            raise ValueError(f"--backends must name at least one backend, got {names!r}")
        for name in chosen:
            if name not in known:
                raise ValueError(f"--backends: no backend is called {name!r}; there are {', '.join(known)}")
        return cls(tier, chosen, device, dtype, batch)  # type: ignore[arg-type]
