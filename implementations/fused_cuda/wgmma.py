"""The products of ``hopper.cu`` as C++ text: a function for each chain of wgmma instructions that a kernel needs.

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
    groups = [*((keys // 2,) for keys in pieces), sums, (piece // 2, *sums)]
    return "".join([*functions, *map(wait, groups)])


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


def wait(sizes: Sequence[int]) -> str:
    """Until no product is under way; nothing that is in these accumulators is read before."""
    parameters = ", ".join(f"float (&x{i})[{size}]" for i, size in enumerate(sizes))
    tied = outputs("+", **{f"x{i}": size for i, size in enumerate(sizes)})
    return f"DEVICE void products_wait({parameters}) {assembly(['wgmma.wait_group.sync.aligned 0;'], tied, [])}"


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
