"""The backward kernel by queries for Hopper: what it serves, how its work is laid out, and what it is compiled with."""

from functools import lru_cache
from itertools import product

from halobench.implementations.fused_cuda import layouts
from halobench.implementations.fused_cuda.hopper import forward, wgmma
from halobench.implementations.fused_cuda.hopper.forward import BLOCK, Box, Layout, of_the_class
from halobench.implementations.fused_cuda.shapes import HALF, Shape, whole

QUERIES = BLOCK**2
SLOTS = 32  # of positions: 16 rows, 16 columns
MAPS = 2  # beside those of the forward kernel: gradients of outputs, and outputs


@lru_cache
def layout_of(shape: Shape) -> Layout | None:
    """The layout for a shape, or none where this kernel cannot serve it."""
    geometry = shape.geometry
    if not of_the_class(shape):
        return None
    # Registers that a thread keeps through a piece: operands, gradients of queries and tables, sums by position.
    kept = shape.key_dim * (5 / 4 + shape.relative / 2) + shape.value_dim / 4 + SLOTS / 2
    teams = ((4, 32), (3, 32), (2, 32))[(kept > 72) + (kept > 104) :]
    narrow = geometry.border == "masked" and geometry.halo > 0
    for (groups, piece), heads, narrowed in product(teams, (4, 2, 1), (narrow, False)):
        layout = Layout(heads, 0, groups, piece, narrowed)
        if forward.divides(shape, layout):
            found = forward.with_stages(layout, constant_bytes(shape, layout), stage_bytes(shape, layout))
            if found:
                return found
    return None


def stage_bytes(shape: Shape, layout: Layout) -> int:
    """Queries, outputs and their gradients, keys and values of a block."""
    heads, keys = layout.heads, whole(shape.geometry.window**2, 16)
    line, channels = 2 * forward.key_channels(shape, heads), forward.value_channels(shape, heads)
    values = whole(keys * 2 * channels, 1024) + 2 * whole(QUERIES * 2 * channels, 1024)
    return whole(keys * line, 1024) + whole(QUERIES * line, 1024) + heads * shape.value_dim // channels * values


def constant_bytes(shape: Shape, layout: Layout) -> int:
    """Everything but the stages and their barriers."""
    window, seen = shape.geometry.window, shape.geometry.window - shape.geometry.halo
    hot = 2 * SLOTS * (whole(window**2, 16) + layout.narrow * whole(window * seen, 16))
    tables, kept, asked, alignment = forward.table_bytes(shape), 17 * 32, 16, 1024
    skews = QUERIES * 112 if shape.relative else 2048
    return hot + tables + kept + layout.warpgroups * (skews + 16) + asked + alignment


def boxes(shape: Shape) -> list[Box]:
    """What the tensor maps of a call copy: those of the forward kernel, then a block's gradients and outputs (3, 4)."""
    heads = known(shape).heads
    channels = forward.value_channels(shape, heads)
    found = forward.boxes_of(shape, heads)
    return found + [Box(tensor, shape.heads * shape.value_dim, channels, BLOCK, BLOCK) for tensor in (3, 4)]


def known(shape: Shape) -> Layout:
    """The layout of a shape that this kernel serves."""
    layout = layout_of(shape)
    assert layout is not None
    return layout


def definitions(shape: Shape) -> dict[str, int]:
    """The constants that the source is compiled with."""
    layout = known(shape)
    return layouts.definitions(shape, "query_gradient") | {
        **forward.shared_definitions(shape, layout.heads, layout.warpgroups, layout.stages),
        "PIECE": layout.piece,
        "NARROW": int(layout.narrow),
    }


def pieces(keys: int, piece: int) -> set[int]:
    """The sizes of the pieces that a window's keys come in, as ``query_gradient.cu`` here cuts it."""
    many = (keys - 17) // piece
    return {keys - many * piece, *[piece] * (many > 0)}


def products(shape: Shape) -> str:
    """The products that the source calls."""
    layout = known(shape)
    window, seen = shape.geometry.window, shape.geometry.window - shape.geometry.halo
    counts = {whole(keys, 8) for keys in (window**2, window * seen, seen**2)}
    sizes = set().union(*(pieces(keys, layout.piece) for keys in counts))
    half, width = ("bf16", "f16")[HALF[shape.dtype]], forward.chunk(shape, layout.heads)
    line = 2 * forward.key_channels(shape, layout.heads)
    steps = sorted({-(-keys // 16) for keys in sizes})
    sums = shape.key_dim // 2, SLOTS // 2
    return "".join(
        [
            *(both_scores(half, keys, shape.key_dim // 16, width, shape.value_dim // width) for keys in sorted(sizes)),
            *(add_gradients(half, count, shape.key_dim, line, relative=shape.relative) for count in steps),
            *map(wgmma.wait, sorted({sums, *((keys // 2, keys // 2, *sums) for keys in sizes)})),
        ]
    )


def both_scores(half: str, keys: int, steps: int, chunk: int, chunks: int) -> str:
    """S (64 x keys) = [q rows columns] [keys one-hot]^T and D = g values^T, not waited for.

    Values come in ``chunks`` chunks of ``chunk`` channels.
    """
    count, value_steps = keys // 2, chunks * chunk // 16
    names = [f"q[{step}][{i}]" for step in range(steps) for i in range(4)]
    names += [f"{operand}[{i}]" for operand in ("rows", "columns") for i in range(4)]
    names += [f"g[{step}][{i}]" for step in range(value_steps) for i in range(4)]
    first, after = 2 * count, 2 * count + len(names)
    lines = []
    for number in range(steps + 2):
        new = {0: after, steps: after + 1}.get(number)
        lines.append("add.s64 b, b, 2;" if new is None else f"mov.b64 b, %{new};")  # 16 channels, 32 bytes
        lines.append(wgmma.product(half, keys, 0, first + 4 * number, "b", add=number > 0))
    for number in range(value_steps):
        new, rest = divmod(16 * number, chunk)
        lines.append("add.s64 b, b, 2;" if rest else f"mov.b64 b, %{after + 2 + new};")
        operand = first + 4 * (steps + 2 + number)
        lines.append(wgmma.product(half, keys, count, operand, "b", add=number > 0))
    inputs = [f'"r"({name})' for name in names] + ['"l"(keys)', '"l"(hot)']
    inputs += [f'"l"(values[{i}])' for i in range(chunks)]
    text = wgmma.assembly(
        [".reg .b64 b;", wgmma.FENCE, *lines, wgmma.COMMIT], wgmma.outputs("=", s=count, d=count), inputs
    )
    return (
        f"DEVICE void both_scores(float (&s)[{count}], float (&d)[{count}], const u32 (&q)[{steps}][4], "
        f"const u32 (&rows)[4], const u32 (&columns)[4], const u32 (&g)[{value_steps}][4], u64 keys, u64 hot, "
        f"const u64 (&values)[{chunks}]) {text}"
    )


def add_gradients(half: str, steps: int, key_dim: int, line: int, *, relative: bool) -> str:
    """To the gradients of queries (64 x channels) dS keys, to sums by position (64 x 32) dS one-hot; not waited for."""
    gradients, sums, operands = key_dim // 2, SLOTS // 2, 4 * steps
    first = gradients + sums
    lines = []
    for n, into, number, stride in ((key_dim, 0, 0, line), (SLOTS, gradients, 1, 2 * SLOTS))[: 1 + relative]:
        lines.append(f"mov.b64 b, %{first + operands + number};")
        for step in range(steps):
            lines += [f"add.s64 b, b, {stride};"] * (step > 0)  # 16 keys, in units of 16 bytes
            lines.append(wgmma.product(half, n, into, first + 4 * step, "b", add=True, transposed=1))
    inputs = [f'"r"(ds[{i}])' for i in range(operands)] + ['"l"(keys)', '"l"(hot)']
    text = wgmma.assembly(
        [".reg .b64 b;", wgmma.FENCE, *lines, wgmma.COMMIT], wgmma.outputs("+", query=gradients, sums=sums), inputs
    )
    return (
        f"DEVICE void add_gradients(float (&query)[{gradients}], float (&sums)[{sums}], const u32 (&ds)[{operands}], "
        f"u64 keys, u64 hot) {text}"
    )
