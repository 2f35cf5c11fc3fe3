"""What Triton's assembler would get wrong is seen in PTX, and compiled in another way (``fused/soundness.py``)."""

import re

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from halobench.implementations.fused import launch, soundness  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from halobench import Geometry  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", float: "fp32", int: "i32"}
ADDED = "	add.s64 	%rd{result}, %rd{address}, {constant};\n"
NARROW, WIDE = -9223372036854775806, -9223371899415822334  # offset 2 in layouts 0x80000000 and 0x80000020
SENT = re.compile(r"shfl\.sync\.bfly\.b32\s+(%r\d+)")
ADDED_TO_A_PRODUCT = re.compile(r"fma\.rn\.f32\s+%r\d+, %r\d+, %r\d+, (%r\d+);")


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


def launches(monkeypatch, call):
    """What a call launches, forward and backward, launching nothing: (kernel, arguments, constants, schedule) each."""
    launched = []

    def note(kernel, _programs, *rest):
        launched.append((kernel, *rest))

    monkeypatch.setattr(launch, "refuse", lambda _: None)
    monkeypatch.setattr(launch, "run", note)
    output, log_sum_exp = launch.forward(call)
    launch.backward(call, output, output, log_sum_exp, tables=True)
    return launched


def compiled_for_hopper(kernel, arguments, constants, schedule):
    """PTX of a kernel, compiled on any machine."""
    given = iter(arguments)
    signature, fixed, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = constants[name] if name in constants else next(given)
        if name in constants or (isinstance(value, int) and value == 1):
            signature[name], fixed[(place,)] = "constexpr", value
            continue
        signature[name] = (
            TYPES[value.dtype] if isinstance(value, torch.Tensor) else "fp32" if isinstance(value, float) else "i32"
        )
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    options = soundness.options(schedule, arguments[0].dtype)
    return triton.compile(source, target=HOPPER, options=options).asm["ptx"]


def pixels(dim, dtype=torch.bfloat16):
    return torch.zeros(3, 30, 5, 1, dim, dtype=dtype).permute(0, 3, 1, 2, 4)


def test_a_kernel_that_went_wrong_shows_the_pattern_and_its_alternative_does_not(monkeypatch):
    """Key heads of 24, filled up to 32, beside values of 160: the output was off by 80 % with ptxas 12.8."""
    table = torch.zeros(25, 24, dtype=torch.bfloat16)
    call = launch.Call(pixels(24)[:, :, ::2, ::2].clone(), pixels(24), pixels(160), table, table, Geometry(7, 3, 2))
    kernel, arguments, constants, wanted = launches(monkeypatch, call)[0]
    first, second = (
        compiled_for_hopper(kernel, arguments, constants, schedule) for schedule in soundness.alternatives(wanted)[:2]
    )
    assert "wgmma" in first
    assert soundness.mixed_layouts(first)
    assert not soundness.mixed_layouts(second)


def test_lanes_that_share_a_sum_round_it_alike(monkeypatch):
    """In float32 one lane's product was joined with what another had sent: both wrote their own sum to one place."""
    table = torch.zeros(27, 16)
    query, key, value = (pixels(16, torch.float32) for _ in range(3))
    call = launch.Call(query, key, value, table, table, Geometry(8, 3))
    text = compiled_for_hopper(*launches(monkeypatch, call)[1])
    sent = set(SENT.findall(text))
    assert sent
    assert not sent & set(ADDED_TO_A_PRODUCT.findall(text))
