"""The products of kernels for Hopper as C++ text: a function for each chain of wgmma instructions that one needs.

An instruction's accumulators are operands by name, as many as it has columns, so that no template can write it.
"""

from collections.abc import Sequence


def vocabulary(
    half: str, key_dim: int, piece: int, pieces: Sequence[int], chunk: int, chunks: int, value_line: int
) -> str:
    """All functions of a kernel.

    ``half`` is bf16 or f16; ``pieces`` are the keys that it scores at a time, ``piece`` at first. Values come in
    ``chunks`` chunks of ``chunk`` channels, on lines of ``value_line`` bytes.
    """
    functions = [scores(half, keys, key_dim // 16) for keys in pieces]
    for steps in sorted({-(-keys // 16) for keys in pieces}):
        functions += [weigh(half, steps, chunk, chunks, value_line, more=more) for more in (False, True)]
    sums = chunk * chunks // 2, 4
    # Until scores are there; products with weights that were issued behind them, two groups, may be under way.
    functions += [wait((keys // 2,), "scores_wait", behind=2) for keys in pieces]
    return "".join([*functions, *map(wait, (sums, (piece // 2, *sums)))])


def scores(half: str, keys: int, steps: int) -> str:
    """S (64 x keys) = [q rows columns] [keys one-hot]^T, not waited for."""
    count = keys // 2
    names = [f"q[{step}][{i}]" for step in range(steps) for i in range(4)]
    names += [f"{operand}[{i}]" for operand in ("rows", "columns") for i in range(4)]
    after = count + len(names)
    lines = [f"mov.b64 k, %{after};", f"mov.b64 b, %{after + 1};"]
    for number in range(steps + 2):
        matrix = "k" if number < steps else "b"
        lines += [f"add.s64 {matrix}, {matrix}, 2;"] * (number not in (0, steps))  # 16 channels, 32 bytes
        lines.append(product(half, keys, 0, count + 4 * number, matrix, add=number > 0))
    inputs = [*(f'"r"({name})' for name in names), '"l"(keys)', '"l"(hot)']
    text = assembly([".reg .b64 k, b;", FENCE, *lines, COMMIT], outputs("=", s=count), inputs)
    return (
        f"DEVICE void scores(float (&s)[{count}], const u32 (&q)[{steps}][4], const u32 (&rows)[4], "
        f"const u32 (&columns)[4], u64 keys, u64 hot) {text}"
    )


def weigh(half: str, steps: int, chunk: int, chunks: int, line: int, *, more: bool) -> str:
    """O (64 x channels) and sum (64 x 8) of weights p and values, or ones; added to what is there, if ``more``."""
    count, weights = chunk * chunks // 2, 4 * steps
    first = count + 4
    after = first + weights
    lines = []
    for number in range(chunks):
        lines.append(f"mov.b64 b, %{after + number};")
        for step in range(steps):
            lines += [f"add.s64 b, b, {line};"] * (step > 0)  # 16 keys, in units of 16 bytes
            operand = first + 4 * step
            lines.append(product(half, chunk, number * chunk // 2, operand, "b", add=step > 0 or more, transposed=1))
    lines += [COMMIT, FENCE]
    for step in range(steps):
        lines.append(product(half, 8, count, first + 4 * step, f"%{after + chunks}", add=step > 0 or more))
    inputs = [f'"r"(p[{i}])' for i in range(weights)] + [f'"l"(values[{i}])' for i in range(chunks)] + ['"l"(ones)']
    text = assembly([".reg .b64 b;", FENCE, *lines, COMMIT], outputs("+" if more else "=", o=count, sum=4), inputs)
    return (
        f"DEVICE void weigh{'_more' * more}(float (&o)[{count}], float (&sum)[4], "
        f"const u32 (&p)[{weights}], const u64 (&values)[{chunks}], u64 ones) {text}"
    )


def key_vocabulary(
    half: str, key_dim: int, queries: int, chunk: int, chunks: int, lines: tuple[int, int], *, relative: bool
) -> str:
    """All functions of the pass by keys, which scores ``queries`` at a time.

    Gradients of the output come in ``chunks`` chunks of ``chunk`` channels; ``lines`` are the bytes of a line of
    queries and of gradients.
    """
    sums = chunk * chunks // 2, key_dim // 2
    return "".join(
        (
            transposed(half, queries, key_dim // 16, relative=relative),
            weight_gradients(half, queries, chunk, chunks),
            gradients(half, key_dim, queries // 16, chunk, chunks, lines),
            wait((queries // 2,), "logits_wait", behind=2),
            wait((queries // 2,), "weight_gradients_wait", behind=1),
            wait((queries // 2, *sums)),
            wait(sums),
        )
    )


def transposed(half: str, queries: int, steps: int, *, relative: bool) -> str:
    """S^T (64 x queries) = [k one-hot] [queries biases]^T, not waited for."""
    count = queries // 2
    names = [
        f"{name}[{step}][{i}]"
        for name, many in (("k", steps), ("hot", 2 * relative))
        for step in range(many)
        for i in range(4)
    ]
    after = count + len(names)
    lines = []
    for number in range(steps + 2 * relative):
        new = {0: after, steps: after + 1}.get(number)
        lines.append("add.s64 b, b, 2;" if new is None else f"mov.b64 b, %{new};")  # 16 channels, 32 bytes
        lines.append(product(half, queries, 0, count + 4 * number, "b", add=number > 0))
    inputs = [f'"r"({name})' for name in names] + ['"l"(queries)', *['"l"(biases)'] * relative]
    text = assembly([".reg .b64 b;", FENCE, *lines, COMMIT], outputs("=", s=count), inputs)
    return (
        f"DEVICE void logits(float (&s)[{count}], const u32 (&k)[{steps}][4], const u32 (&hot)[2][4], u64 queries, "
        f"u64 biases) {text}"
    )


def weight_gradients(half: str, queries: int, chunk: int, chunks: int) -> str:
    """dP^T (64 x queries) = v gradients^T, not waited for."""
    count, steps = queries // 2, chunk * chunks // 16
    names = [f"v[{step}][{i}]" for step in range(steps) for i in range(4)]
    lines = []
    for number in range(steps):
        new, rest = divmod(16 * number, chunk)
        lines.append("add.s64 b, b, 2;" if rest else f"mov.b64 b, %{count + len(names) + new};")
        lines.append(product(half, queries, 0, count + 4 * number, "b", add=number > 0))
    inputs = [f'"r"({name})' for name in names] + [f'"l"(gradients[{i}])' for i in range(chunks)]
    text = assembly([".reg .b64 b;", FENCE, *lines, COMMIT], outputs("=", dp=count), inputs)
    return (
        f"DEVICE void weight_gradients(float (&dp)[{count}], const u32 (&v)[{steps}][4], "
        f"const u64 (&gradients)[{chunks}]) {text}"
    )


def gradients(half: str, key_dim: int, steps: int, chunk: int, chunks: int, lines: tuple[int, int]) -> str:
    """Add P^T gradients to dV (64 x channels), and dS^T queries to dK (64 x key_dim); not waited for."""
    values, keys, weights = chunk * chunks // 2, key_dim // 2, 4 * steps
    first = values + keys
    after = first + 2 * weights
    parts = [(chunk, number * chunk // 2, first, after + number, lines[1]) for number in range(chunks)]
    parts.append((key_dim, values, first + weights, after + chunks, lines[0]))
    text = [".reg .b64 b;", FENCE]
    for channels, into, operand, matrix, line in parts:
        text.append(f"mov.b64 b, %{matrix};")
        for step in range(steps):
            text += [f"add.s64 b, b, {line};"] * (step > 0)  # 16 queries, in units of 16 bytes
            text.append(product(half, channels, into, operand + 4 * step, "b", add=True, transposed=1))
    inputs = [f'"r"({name}[{i}])' for name in ("p", "ds") for i in range(weights)]
    inputs += [*(f'"l"(gradients[{i}])' for i in range(chunks)), '"l"(queries)']
    return (
        f"DEVICE void gradients(float (&dv)[{values}], float (&dk)[{keys}], const u32 (&p)[{weights}], "
        f"const u32 (&ds)[{weights}], const u64 (&gradients)[{chunks}], u64 queries) "
        f"{assembly([*text, COMMIT], outputs('+', dv=values, dk=keys), inputs)}"
    )


def wait(sizes: Sequence[int], name: str = "products_wait", behind: int = 0) -> str:
    """Until no product is under way but the last groups; what is in these accumulators is not read before."""
    parameters = ", ".join(f"float (&x{i})[{size}]" for i, size in enumerate(sizes))
    tied = outputs("+", **{f"x{i}": size for i, size in enumerate(sizes)})
    return f"DEVICE void {name}({parameters}) {assembly([f'wgmma.wait_group.sync.aligned {behind};'], tied, [])}"


FENCE, COMMIT = "wgmma.fence.sync.aligned;", "wgmma.commit_group.sync.aligned;"


def product(half: str, n: int, d: int, a: int, b: str, *, add: bool, transposed: int = 0) -> str:
    """One instruction: accumulators from operand ``d`` on, A in registers from operand ``a`` on."""
    into, operand = (
        "{" + ", ".join(f"%{i}" for i in range(first, first + count)) + "}" for first, count in ((d, n // 2), (a, 4))
    )
    name = f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{half}.{half}"
    return f"{name} {into}, {operand}, {b}, {int(add)}, 1, 1, {transposed};"


def outputs(sign: str, **arrays: int) -> list[str]:
    """The accumulators as operands."""
    return [f'"{sign}f"({name}[{i}])' for name, count in arrays.items() for i in range(count)]


def assembly(lines: Sequence[str], results: Sequence[str], inputs: Sequence[str]) -> str:
    """A function's body: the instructions, in a scope of their own."""
    text = "\n".join(f'"{line}\\n"' for line in ("{", *lines, "}"))
    return f'{{\nasm volatile(\n{text}\n: {", ".join(results)}\n: {", ".join(inputs)}\n: "memory");\n}}\n'
