"""What Triton's assembler would get wrong is seen in PTX, and compiled in another way (``fused/soundness.py``)."""

import math

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from halobench.implementations.fused import launch, soundness  # noqa: E402
from halobench.implementations.fused.forward import attend_forward  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from halobench import Geometry  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", float: "fp32", int: "i32"}
ADDED = "	add.s64 	%rd{result}, %rd{address}, {constant};\n"
NARROW, WIDE = -9223372036854775806, -9223371899415822334  # offset 2 in layouts 0x80000000 and 0x80000020


def ptx(*sums):
    return "".join(
        ADDED.format(result=50 + i, address=address, constant=added) for i, (address, added) in enumerate(sums)
    )


def test_two_layouts_of_one_address_are_seen():
    assert soundness.mixed_layouts(ptx((41, NARROW), (41, WIDE)))
    assert not soundness.mixed_layouts(ptx((41, NARROW), (42, WIDE)))
    assert not soundness.mixed_layouts(ptx((41, WIDE), (41, WIDE + 64)))
    assert not soundness.mixed_layouts("	add.s64 	%rd1, %rd2, 4096;\n")


@pytest.mark.parametrize("wanted", [(8, 2), (4, 3), (1, 2)])
def test_the_last_alternative_has_no_matrix_instruction_of_warp_groups(wanted):
    alternatives = soundness.alternatives(wanted)
    assert alternatives[0] == wanted
    assert alternatives[-1][0] < 4


def choose(monkeypatch, texts, *, capability=(9, 0), version=(12, 8)):
    """The schedule that is chosen where each compilation gives the next text, and what was compiled."""
    asked = []

    def compiled(kernel, arguments, constants, schedule):
        asked.append(schedule)
        return texts[len(asked) - 1]

    monkeypatch.setattr(soundness, "ptx", compiled)
    monkeypatch.setattr(soundness, "CHOSEN", {})
    monkeypatch.setattr(soundness, "assembler_version", lambda: version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {0: capability, -1: capability}.get)
    soundness.affected.cache_clear()
    tensor = torch.zeros(3)
    chosen = [soundness.sound_schedule("kernel", (tensor, 5, 0.5), {"BLOCK": 8}, (8, 2)) for _ in range(2)]
    soundness.affected.cache_clear()
    assert chosen[0] == chosen[1]
    return chosen[0], asked


MIXED, SOUND = ptx((41, NARROW), (41, WIDE)), ptx((41, NARROW))


@pytest.mark.parametrize(
    ("texts", "chosen"),
    [([SOUND], (8, 2)), ([MIXED, SOUND], (4, 2)), ([MIXED, MIXED, SOUND], (8, 1)), ([MIXED] * 3, (2, 2))],
)
def test_the_first_sound_schedule_is_chosen_once(monkeypatch, texts, chosen):
    assert choose(monkeypatch, texts) == (chosen, list(soundness.alternatives((8, 2)))[: len(texts)])


@pytest.mark.parametrize("elsewhere", [{"version": (12, 9)}, {"version": (13, 0)}, {"capability": (8, 0)}])
def test_nothing_is_compiled_twice_where_the_assembler_is_right(monkeypatch, elsewhere):
    assert choose(monkeypatch, [], **elsewhere) == ((8, 2), [])


def test_arguments_are_told_apart_as_triton_specializes_them():
    tensor = torch.zeros(8, dtype=torch.bfloat16)
    assert soundness.trait(tensor) != soundness.trait(tensor[1:])
    assert soundness.trait(tensor) != soundness.trait(tensor.float())
    numbers = (1, 16, 17, 2**31 + 1)
    assert len({soundness.trait(number) for number in numbers}) == len(numbers)
    assert soundness.trait(17) == soundness.trait(19)


def compiled_for_hopper(call, schedule):
    """PTX of the forward kernel, compiled on any machine."""
    output, log_sum_exp = launch.empty_outputs(call.query, call.value)
    arguments = (
        call.query, call.key, call.value, *call.tables, output, log_sum_exp,
        *call.query.stride(), *call.key.stride(), *call.value.stride(), *call.table_strides, *call.sizes,
        call.scale * math.log2(math.e),
    )  # fmt: skip
    constants = {"PADDED": False, **call.constants(call.tiling.walked)}
    given = iter(arguments)
    signature, fixed, attributes = {}, {}, {}
    for place, name in enumerate(attend_forward.arg_names):
        value = constants[name] if name in constants else next(given)
        if name in constants or (isinstance(value, int) and value == 1):
            signature[name], fixed[(place,)] = "constexpr", value
            continue
        signature[name] = (
            TYPES[value.dtype] if isinstance(value, torch.Tensor) else "fp32" if isinstance(value, float) else "i32"
        )
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=attend_forward, signature=signature, constexprs=fixed, attrs=attributes)
    warps, stages = schedule
    return triton.compile(source, target=HOPPER, options={"num_warps": warps, "num_stages": stages}).asm["ptx"]


def test_a_kernel_that_went_wrong_shows_the_pattern_and_its_alternative_does_not():
    """Key heads of 24, filled up to 32, beside values of 160: the output was off by 80 % with ptxas 12.8."""

    def pixels(dim):
        return torch.zeros(3, 30, 5, 1, dim, dtype=torch.bfloat16).permute(0, 3, 1, 2, 4)

    table = torch.zeros(25, 24, dtype=torch.bfloat16)
    call = launch.Call(pixels(24)[:, :, ::2, ::2].clone(), pixels(24), pixels(160), table, table, Geometry(7, 3, 2))
    wanted = call.tiling.warps[0], call.tiling.stages[0]
    first, second = (compiled_for_hopper(call, schedule) for schedule in soundness.alternatives(wanted)[:2])
    assert "wgmma" in first
    assert soundness.mixed_layouts(first)
    assert not soundness.mixed_layouts(second)
