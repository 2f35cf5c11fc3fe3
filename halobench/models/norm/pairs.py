"""Which batch normalisations of a network have an activation behind them, as its code calls them.

The code is traced (``torch.fx``), so that a drop path, a blur or a module of somebody else's between the two is seen.
"""

import operator
from collections import Counter
from collections.abc import Iterator

import torch
import torch.fx
from timm.layers._fx import get_notrace_functions, get_notrace_modules
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.fx import Graph, Node

from halobench.attention.layer import hooked, untouched
from halobench.models.norm.deferred import ACTIVATIONS
from halobench.models.norm.module import NormActivation

NORMS = (nn.BatchNorm2d, BatchNormAct2d)
UNTRACED = (NormActivation, *get_notrace_modules())  # ours calls the operator by itself
Followers = tuple[nn.Module, ...]


class Tracer(torch.fx.Tracer):
    """Modules without children are leaves, and those that timm, hooks or we keep from being looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - the base class's names
        """Whether the trace calls the module as a whole."""
        return not any(m.children()) or hooked(m) or isinstance(m, UNTRACED)


def behind(model: nn.Module) -> dict[nn.Module, Followers | str]:
    """For each batch normalisation that a trace calls: the modules behind it up to its activation, or why not.

    Between the two there are identities, and one addition at most, of a shortcut to what is normalised. The map that is
    normalised, and all until the activation, are read by nobody else, so that nobody can change or miss them.
    """
    traces = list(graphs(model))
    calls = Counter(module for root, graph in traces for module in called(root, graph))
    found: dict[nn.Module, Followers | str] = {}
    for root, graph in traces:
        for node in graph.nodes:
            module = called_by(root, node)
            if module is not None and type(module) in NORMS:
                found[module] = followers(root, node) if calls[module] == 1 else "it is called in several places"
    return found


def graphs(module: nn.Module) -> Iterator[tuple[nn.Module, Graph]]:
    """The largest parts of a network that can be traced, and what they call."""
    if isinstance(module, NormActivation) or not any(module.children()):
        return
    graph = trace(module)
    if graph is not None:
        yield module, graph
    for part in module.children() if graph is None else dict.fromkeys(called(module, graph)):
        yield from graphs(part)


def trace(module: nn.Module) -> Graph | None:
    """What calling the module calls, or ``None`` where its code takes no map without numbers."""
    if "forward" in vars(module) or isinstance(module, UNTRACED):
        return None
    before = {part: dict(vars(part)) for part in module.modules()}
    try:
        return Tracer(autowrap_functions=tuple(get_notrace_functions())).trace(module)
    except Exception:  # noqa: BLE001 - other people's code raises anything
        return None
    finally:
        for part, attributes in before.items():  # the tracer keeps constants there, and some code its last map
            vars(part).clear()
            vars(part).update(attributes)


def called(root: nn.Module, graph: Graph) -> list[nn.Module]:
    """The modules that a trace calls, once for each call."""
    return [module for node in graph.nodes if (module := called_by(root, node)) is not None]


def called_by(root: nn.Module, node: Node) -> nn.Module | None:
    """The module that a node of a trace calls, if it calls one."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def followers(root: nn.Module, norm: Node) -> Followers | str:
    """The modules behind a normalisation up to its activation, or why it has none of its own."""
    if len(norm.all_input_nodes[0].users) > 1:
        return "the map that it normalises is read by others, too"
    passed: list[nn.Module] = []
    node, added = norm, False
    while len(node.users) == 1 and not node.kwargs:
        before, (node,) = node, node.users
        module = called_by(root, node)
        reason = no_shortcut(before, node, added=added) if module is None else no_follower(before, node, module)
        if reason is not None:
            return reason
        if module is None:
            added = True
            continue
        passed.append(module)
        if type(module) in ACTIVATIONS:
            return tuple(passed)
    return "no activation alone reads its output"


def no_shortcut(before: Node, node: Node, *, added: bool) -> str | None:
    """Why a node that calls no module is not the one addition of a shortcut to what is before it, or ``None``."""
    if added or node.op != "call_function" or node.target is not operator.add:
        return "no module of an activation reads its output"
    if len(node.all_input_nodes) != 2 or node.all_input_nodes[0] is not before:
        return "it is added to another branch, as a shortcut is"
    return None


def no_follower(before: Node, node: Node, module: nn.Module) -> str | None:
    """Why a module is neither an identity nor the activation, called right behind what is before it, or ``None``."""
    if type(module) not in (nn.Identity, *ACTIVATIONS):
        return f"a {type(module).__name__} reads its output, no ReLU or SiLU"
    if before.next is not node:
        return f"something else happens before the {type(module).__name__} behind it"
    if not untouched(module):
        return f"the {type(module).__name__} behind it has hooks, or a forward of its own"
    return None
