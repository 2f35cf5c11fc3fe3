"""Which backends fill the attention slots of the networks that the suites measure."""

from dataclasses import replace

from problems import loaded

from halobench import backends, models
from halobench.cases.network import Network
from halobench.cases.options import Options

# Taken where the user names no backends: a network compiles for tens of seconds with each of them.
BACKENDS = ("strided_gather", "sdpa", "fused", "fused_cuda")
UNCOMPILED = ("sdpa",)  # measured eagerly only, unless the user names backends


def chosen(options: Options, *, compiled: bool = False) -> list[str]:
    """The attention backends that take part: those the user names, or a few."""
    found = [name for name in (BACKENDS if unnamed(options) else options.backends) if name in options.backends]
    if compiled and unnamed(options):
        found = [name for name in found if name not in UNCOMPILED]
    return [name for name in found if attends(name)]


def unnamed(options: Options) -> bool:
    """Whether the user named no backends."""
    return set(options.backends) >= set(backends.names())


def attends(name: str) -> bool:
    """Whether a backend is halo attention with the masked border, which the networks have."""
    backend = loaded(name)  # one that cannot be imported takes part, and its rows say why
    return backend is None or (backend.attend is not None and "masked" in backend.borders)


def filled(options: Options, empty: Network) -> list[Network]:
    """The network with each backend; itself where it has no attention slots."""
    if not models.entry(empty.model).has_attention:
        return [empty]
    return [replace(empty, backend=name) for name in chosen(options, compiled=empty.compiled)]
