"""torch's own defects that the laws excuse: each shows here as its finding says, and nothing beyond it is excused."""

import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
import torch

from equiv.backends import TorchEager, conv_kernel
from equiv.laws import Broken, Call, Trial
from equiv.laws import damage as damage_module
from equiv.laws import known as known_module
from equiv.laws.checks.expected import gradients_of, same_gradients
from equiv.laws.known import KNOWN, known_corruption, known_defect, known_defect_of_module, known_refusal
from equiv.testing import faults


@pytest.fixture
def damage(monkeypatch):
    """Say what a process of its own would answer about the gradients that may damage memory."""

    def answer(shows):
        asked = []
        monkeypatch.setattr(known_module, "damages", lambda finding, dtype: asked.append((finding, dtype)) or shows)
        return asked

    answer(True)
    return answer


HERE = torch.__version__.startswith("2.13") and torch.backends.cpu.get_cpu_capability() == "AVX512"
only_here = pytest.mark.skipif(not HERE, reason="seen with torch 2.13 on a CPU with AVX512")


def covers(call, gradient):
    """The findings whose conditions a call meets, whether or not this CPU shows them."""
    return {known.finding for known in KNOWN if known.spoils(call, gradient) and not known.takes_minutes}


def shows(finding, dtype):
    return any(known.finding == finding and known.shows(dtype) for known in KNOWN)


def need_amx(wrong):
    """A defect of the kernels for AMX: skip where it is not seen."""
    if not wrong:
        here = HERE and torch.cpu._is_amx_tile_supported()
        pytest.skip(
            "fixed in this torch, or AMX is switched off" if here else "needs a CPU with AMX (amx_bf16) and torch 2.13"
        )


def one_channel(rows=2, stride=(1, 3)):
    x = torch.arange(32.0 * rows).view(rows, 1, 4, 8).as_strided((rows, 1, 4, 8), (32, 1, 8, 1))
    return Call("full", x, torch.ones(1, 1, 1, 8), None, stride)


@pytest.mark.usefixtures("damage")
def test_one_sample_without_a_batch_dimension_is_known_as_a_batch_of_one():
    call = one_channel(rows=1)
    alone = Call("full", call.input[0], call.weight, None, call.stride)
    wanted = "one-channel-channels-last" if shows("one-channel-channels-last", torch.float32) else None
    assert known_defect(alone, None) == known_defect(call, None) == wanted
    assert covers(call, None) == {"one-channel-channels-last"}
    call = strided_pointwise()
    alone = Call("pointwise", call.input[0], call.weight, None, call.stride)
    assert known_corruption(alone) == "strided-1x1-weight-gradient"


def tall(rows=1, outputs=92, n=200):
    generator = torch.Generator().manual_seed(0)
    x, w, g = (
        torch.randint(-1, 2, shape, generator=generator).bfloat16()
        for shape in ((rows, 1, n, 1), (outputs, 1, n, 1), (rows, outputs, 1, 1))
    )
    return Call("full", x.as_strided(x.shape, (n, 1, 1, 1)), w, None), g


def gradient(call, g):
    x = call.input.detach().requires_grad_()
    (found,) = torch.autograd.grad(torch.conv2d(x, call.weight), x, g)
    return found, (g.double().flatten(1) @ call.weight.double().flatten(1)).view(x.shape)


@only_here
def test_a_map_of_one_channel_in_channels_last_strides_is_convolved_wrongly():
    call = one_channel()
    found = torch.conv2d(call.input, call.weight, stride=call.stride).flatten()
    if torch.equal(found, call.input.sum(3).flatten()):
        pytest.fail("fixed in this torch: remove the entry from equiv/laws/known.py and correct the finding")
    assert known_defect(call, None) == "one-channel-channels-last"


@only_here
def test_the_input_gradient_of_a_tall_kernel_is_not_written():
    call, g = tall()
    found, exact = gradient(call, g)
    if not torch.backends.mkldnn.is_available() or torch.equal(found.double(), exact):
        pytest.skip("this CPU takes another bfloat16 kernel")
    assert covers(call, "input") == {"tall-kernel-input-gradient"}


@pytest.mark.parametrize("call", [one_channel(stride=(1, 1)), one_channel(stride=(2, 3))])
def test_calls_beside_the_first_defect_are_right_and_not_excused(call):
    found = torch.conv2d(call.input, call.weight, stride=call.stride)
    assert torch.equal(found, call.input.sum(3, keepdim=True)[:, :, :: call.stride[0]])
    assert known_defect(call, None) is None


@pytest.mark.parametrize("options", [{"rows": 2}, {"outputs": 64}, {"n": 31}])
def test_calls_beside_the_second_defect_are_right_and_not_excused(options):
    call, g = tall(**options)
    found, exact = gradient(call, g)
    assert torch.equal(found.double(), exact)
    assert known_defect(call, "input") is None
    assert known_defect(call, "weight") is None


def test_nnpack_is_excused_where_torch_chooses_it_alone():
    call = Call("full", torch.ones(40, 4, 1, 10), torch.ones(8, 4, 1, 10), None)
    assert known_defect(call, None) == ("transforms-in-nnpack" if chosen(call) == "NnpackSpatial" else None)
    with torch.backends.nnpack.flags(enabled=False):
        assert known_defect(call, None) is None
    assert known_defect(call, "input") is None


def test_nnpack_is_excused_in_second_derivatives_where_torch_chooses_it():
    call = Call("full", torch.ones(1, 16, 1, 4), torch.ones(1, 16, 1, 4), None)
    turned = Call("full", torch.ones(16, 1, 1, 4), torch.ones(1, 1, 1, 1), None)
    with faults.VARIANTS["without-onednn"].applied():
        for name, asked in (("incoming", call), ("weight again", turned)):
            assert known_defect(call, name) == ("transforms-in-nnpack" if chosen(asked) == "NnpackSpatial" else None)
    assert known_defect(call, "weight again") is None


def chosen(call):
    return conv_kernel(call.input, call.weight, None, (1, 1), (1, 1))


@pytest.mark.usefixtures("damage")
def test_a_stride_beyond_the_kernel_is_excused_for_the_weight_gradient_in_bfloat16_alone():
    def call(dtype=torch.bfloat16, channels=5, stride=5):
        return Call(
            "pointwise", torch.zeros(1, channels, 1, dtype=dtype), torch.zeros(31, channels, 1), None, (stride,)
        )

    assert known_defect(call(), "weight") == "strided-weight-gradient-in-bfloat16"
    assert known_defect(call(), "input") is None
    assert known_defect(call(), None) is None
    for options in ({"dtype": torch.float32}, {"channels": 16}, {"stride": 1}):
        assert known_defect(call(**options), "weight") is None


def whole_width(channels=8, k=8, width=8, stride=8, dtype=torch.bfloat16, memory_format=torch.channels_last):
    x = torch.arange(1.0 * channels * width).view(1, channels, 1, width).to(dtype)
    w = torch.zeros(1, channels, 1, k, dtype=dtype)
    w[0, 0, 0, 1] = 1
    return Call("full", x, w.contiguous(memory_format=memory_format), None, (1, stride))


def test_a_stride_as_wide_as_the_kernel_is_excused_where_channels_come_last():
    call = whole_width()
    assert "whole-width-kernel-with-its-stride" in covers(call, None)  # and, on CPUs with AMX, a relative of it
    assert known_defect(call, "weight") is None
    found = torch.conv2d(call.input, call.weight, stride=call.stride).item()
    if found == 1:
        pytest.skip("this CPU or torch takes another bfloat16 kernel")
    assert found == 4  # column 4
    assert known_defect(call, None) == "whole-width-kernel-with-its-stride"


BESIDE = (
    {"stride": 1},
    {"width": 9},
    {"channels": 4},
    {"channels": 7},
    {"channels": 32},
    {"dtype": torch.float32},
    {"memory_format": torch.contiguous_format},
)


@pytest.mark.parametrize("options", BESIDE, ids=str)
def test_calls_beside_the_wide_stride_are_right_and_not_excused(options):
    call = whole_width(**options)
    assert torch.conv2d(call.input, call.weight, stride=call.stride).flatten()[0] == 1
    assert known_defect(call, None) is None


def test_odd_strides_of_a_size_of_1_stop_backward_or_do_not():
    x = torch.zeros(4, dtype=torch.float64).as_strided((1, 2, 2, 1), (4, 1, 2, 2)).requires_grad_()
    w = torch.zeros(4, dtype=torch.float64).as_strided((1, 2, 2, 1), (2, 1, 2, 1)).requires_grad_()
    refusal = None
    try:
        torch.conv2d(x, w).sum().backward()
    except RuntimeError as error:
        refusal = error
    if refusal is None:
        assert torch.equal(w.grad, torch.zeros(1, 2, 2, 1, dtype=torch.float64))
    else:
        assert known_refusal(refusal) == "odd-strides-stop-backward"
    assert known_refusal(RuntimeError("out of memory")) is None


@only_here
def test_another_backend_is_never_excused():
    class Other:
        name, device = "other", torch.device("cpu")

        def linear(self, input, weight, bias=None):
            raise NotImplementedError

        def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
            return torch.zeros(2, 1, 4, 1)

    call, wrong = one_channel(), torch.zeros(8, 1)
    right = torch.ones(8, 1)
    eager = Trial(TorchEager(), torch.float32, ("full",))
    eager.same(call, wrong, right)
    assert eager.tally["full"].undecided == 1
    assert eager.coverage["known defect of torch"] == {"one-channel-channels-last": 1}
    with pytest.raises(Broken):
        Trial(Other(), torch.float32, ("full",)).same(call, wrong, right)


def test_every_known_defect_has_its_finding(pytestconfig):
    for finding in [known.finding for known in KNOWN] + ["odd-strides-stop-backward", "linear-reads-the-next-row"]:
        assert (pytestconfig.rootpath / "docs" / "findings" / f"{finding}.md").is_file()


def page_alone(pytestconfig, name):
    """Run the program of a finding in a process of its own, which it may damage."""
    page = (pytestconfig.rootpath / "docs" / "findings" / f"{name}.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@only_here
def test_a_stride_beyond_the_width_damages_a_process(pytestconfig):
    done = page_alone(pytestconfig, "strided-weight-gradient-in-bfloat16")
    if done.returncode == 0 and done.stdout.startswith("0 of 200"):
        pytest.skip("no damage was seen this time; such gradients are asked for where a process of their own is right")
    assert done.returncode < 0 or "of 200 gradients are wrong" in done.stdout


@pytest.mark.parametrize("finding", ["dilated-width-of-one-in-padding", "taps-in-padding-alone-in-bfloat16"])
def test_windows_in_the_padding_kill_a_process(pytestconfig, finding):
    done = page_alone(pytestconfig, finding)
    if done.returncode == 0:
        pytest.skip("needs a CPU with AVX512 and its bfloat16 instructions, and torch 2.13")
    assert done.returncode < 0


@only_here
@pytest.mark.parametrize("finding", ["strided-1x1-weight-gradient", "wide-strided-input-gradient"])
def test_a_gradient_that_writes_beyond_its_memory_kills_a_process(pytestconfig, finding):
    done = page_alone(pytestconfig, finding)
    if done.returncode == 0:
        pytest.fail("fixed in this torch: remove the entry from equiv/laws/known.py and correct the finding")
    assert done.returncode < 0


def strided_pointwise(channels=4, stride=(2, 1), dtype=torch.float32, memory_format=torch.channels_last, kernel=1):
    x = torch.zeros(2, channels, 9, 9, dtype=dtype).contiguous(memory_format=memory_format)
    return Call("pointwise", x, torch.zeros(8, channels, kernel, kernel, dtype=dtype), None, stride)


ASIDE = (
    {"channels": 1},
    {"channels": 16},
    {"stride": (1, 1)},
    {"dtype": torch.float64},
    {"memory_format": torch.contiguous_format},
    {"kernel": 2},
)


@pytest.mark.usefixtures("damage")
@pytest.mark.parametrize("options", ASIDE, ids=str)
def test_calls_beside_a_strided_1x1_convolution_are_asked_for_their_gradients(options):
    assert known_corruption(strided_pointwise()) == "strided-1x1-weight-gradient"
    one = strided_pointwise(channels=1)
    assert known_corruption(one) is None
    closest = one.input.as_strided(one.input.shape, (81, 1, 9, 1))
    assert known_corruption(replace(one, input=closest)) == "strided-1x1-weight-gradient"
    assert known_corruption(strided_pointwise(dtype=torch.bfloat16)) == "strided-1x1-weight-gradient"
    assert known_corruption(strided_pointwise(**options)) is None


def wide(width=511, stride=2, dtype=torch.bfloat16):
    return Call("full", torch.zeros(1, 1, width, dtype=dtype), torch.zeros(256, 1, width, dtype=dtype), None, (stride,))


@pytest.mark.usefixtures("damage")
def test_wide_kernels_with_a_stride_are_not_asked_for_gradients():
    assert known_corruption(wide()) == "wide-strided-input-gradient"
    for dtype in (torch.float32, torch.complex64):
        assert known_corruption(wide(dtype=dtype)) == "wide-strided-input-gradient"
    for options in ({"width": 128}, {"stride": 1}, {"dtype": torch.float64}):
        assert known_corruption(wide(**options)) is None


def one_map(rows=32, width=16, samples=1, channels=1, dtype=torch.float32):
    x = torch.arange(rows * width).remainder(7).to(dtype).expand(samples, channels, -1)
    x = x.reshape(samples, channels, rows, width)
    call = Call("full", x, torch.zeros(2, channels, rows, width, dtype=dtype, requires_grad=True), None)
    (found,) = torch.autograd.grad(torch.conv2d(call.input, call.weight).sum(), call.weight)
    return call, torch.equal(found, x.sum(0).expand_as(found))


@only_here
@pytest.mark.parametrize(
    "options", [{}, {"channels": 16, "rows": 16}, {"channels": 2, "rows": 16, "width": 14}], ids=str
)
def test_the_weight_gradient_of_one_map_is_wrong(options):
    call, right = one_map(**options)
    if right:
        pytest.fail("fixed in this torch: remove the entry from equiv/laws/known.py and correct the finding")
    assert known_defect(call, "weight") == "weight-gradient-of-one-map"
    assert known_defect(call, "input") is None


NEARBY = (
    {"channels": 16, "rows": 15},
    {"channels": 2, "rows": 16},
    {"channels": 3, "rows": 16, "width": 14},
    {"rows": 31},
    {"width": 13},
    {"width": 20},
    {"samples": 2},
    {"channels": 8},
    {"dtype": torch.float64},
)


@pytest.mark.parametrize("options", NEARBY, ids=str)
def test_the_weight_gradient_of_a_map_nearby_is_right_and_not_excused(options):
    call, right = one_map(**options)
    assert right
    assert known_defect(call, "weight") is None


@pytest.mark.usefixtures("damage")
def test_gradients_that_damage_memory_are_never_asked_for(monkeypatch):
    def call(stride):
        x, w = torch.zeros(1, 5, 1, dtype=torch.bfloat16), torch.zeros(32, 5, 1, dtype=torch.bfloat16)
        return Call("pointwise", x, w, None, (stride,))

    asked = []
    real = torch.autograd.grad

    def grad(*args, **options):
        asked.append(args)
        return real(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    incoming = torch.zeros(1, 32, dtype=torch.bfloat16)
    trial = Trial(TorchEager(), torch.bfloat16, ("pointwise",))
    assert gradients_of(trial, call(2), incoming) == ()
    assert not asked
    assert trial.coverage["known defect of torch"] == {"strided-weight-gradient-in-bfloat16": 1}
    assert [tuple(g.shape) for g in gradients_of(trial, call(1), incoming)] == [(1, 5), (32, 5)]
    assert len(asked) == 1
    assert known_corruption(call(2)) == "strided-weight-gradient-in-bfloat16"
    assert known_corruption(call(1)) is None
    assert known_corruption(whole_width()) is None


class Wrapping:
    """A backend of somebody's own that hands the work to torch."""

    name, device = "wrapping", torch.device("cpu")

    def linear(self, input, weight, bias=None):
        return torch.nn.functional.linear(input, weight, bias)

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        return torch.nn.functional.conv1d(input, weight, bias, stride=stride, dilation=dilation) * 1


class ByWindows(Wrapping):
    """One whose convolution is a matrix product."""

    name = "windows"

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        windows = input.unfold(-1, weight.shape[-1], stride[0]).permute(0, 2, 1, 3).flatten(2)
        return torch.nn.functional.linear(windows, weight.flatten(1), bias).transpose(1, 2)


@pytest.mark.usefixtures("damage")
def test_other_backends_are_spared_what_damages_memory_only_where_torch_differentiates_them():
    x, w = torch.ones(1, 5, 1, dtype=torch.bfloat16), torch.ones(32, 5, 1, dtype=torch.bfloat16)
    call, incoming = Call("pointwise", x, w, None, (2,)), torch.ones(1, 32, dtype=torch.bfloat16)
    trial = Trial(Wrapping(), torch.bfloat16, ("pointwise",))
    assert gradients_of(trial, call, incoming) == ()
    assert trial.coverage["known defect of torch"] == {"strided-weight-gradient-in-bfloat16": 1}
    trial = Trial(ByWindows(), torch.bfloat16, ("pointwise",))
    assert [tuple(g.shape) for g in gradients_of(trial, call, incoming)] == [(1, 5), (32, 5)]
    assert "known defect of torch" not in trial.coverage


class Twice(Wrapping):
    """One whose weight gradient is twice the right one, and left to torch otherwise."""

    name = "twice"

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        return super().conv(input, weight * 2 - weight.detach(), bias, stride=stride)


def narrow_call():
    """In the region of a defect that damages memory, and on every machine that was seen without damage."""
    x, w = torch.ones(1, 5, 1, dtype=torch.bfloat16), torch.ones(3, 5, 1, dtype=torch.bfloat16)
    return Call("pointwise", x, w, None, (2,)), torch.ones(1, 3, dtype=torch.bfloat16)


def test_where_no_damage_shows_gradients_are_asked_and_a_wrong_kernel_is_found(damage):
    (call, incoming), wanted = narrow_call(), (torch.full((1, 5), 3.0).bfloat16(), torch.ones(3, 5).bfloat16())
    trial = Trial(Twice(), torch.bfloat16, ("pointwise",))
    assert gradients_of(trial, call, incoming) == ()
    asked = damage(False)
    with pytest.raises(Broken, match="as the gradient of the weight"):
        same_gradients(trial, call, incoming, wanted)
    assert set(asked) == {("strided-weight-gradient-in-bfloat16", torch.bfloat16)}


def test_a_process_is_asked_once_about_damage_and_only_for_torchs_own_gradients(monkeypatch):
    started = []
    monkeypatch.setattr(damage_module, "child_is_right", lambda program: started.append(program) or True)
    monkeypatch.setattr(damage_module, "_damages", cache(damage_module._damages.__wrapped__))
    call, incoming = narrow_call()
    gradients_of(Trial(ByWindows(), torch.bfloat16, ("pointwise",)), call, incoming)
    assert not started
    for _ in range(2):
        assert len(gradients_of(Trial(Twice(), torch.bfloat16, ("pointwise",)), call, incoming)) == 2
    assert len(started) == 1
    compile(started[0], "child", "exec")


@pytest.mark.parametrize(
    ("program", "right"),
    [
        ("print('right')", True),
        ("print('right'); raise SystemExit('wrong')", False),
        ("import os; os.abort()", False),
        ("import time; time.sleep(60)", False),
        ("import os; assert not [n for n in os.environ if n.startswith('PYTEST_')]; print('right')", True),
    ],
)
def test_a_process_that_dies_hangs_or_is_wrong_is_not_right(monkeypatch, program, right):
    monkeypatch.setattr(damage_module, "_SECONDS", 2)
    assert damage_module.child_is_right(program) == right


def test_a_refusal_is_known_only_where_a_fixed_call_is_refused_too(monkeypatch):
    error = RuntimeError("slow_conv2d: grad_weight must be contiguous")
    monkeypatch.setattr(known_module, "refuses", lambda text: False)
    assert known_refusal(error) is None


def beside_nan(rows=17, n=35, outputs=16, *, at=0, value=torch.nan, dtype=torch.bfloat16, gap=0):
    """A layer of ones whose second row, or the gap behind each row, holds a NaN."""
    memory = torch.ones(rows, n + gap, dtype=dtype)
    memory[:, n:] = value
    if not gap:
        memory[1, at] = value
    return Call("linear", memory[:, :n], torch.ones(outputs, n, dtype=dtype), None)


def spreads(call):
    y = torch.nn.functional.linear(call.input, call.weight)
    return bool(y[0].isnan().any())


@pytest.mark.parametrize("options", [{}, {"n": 19, "rows": 64}, {"n": 19, "rows": 64, "gap": 2}], ids=str)
def test_a_nan_spreads_into_the_row_before_it(options):
    call = beside_nan(**options)
    wrong = spreads(call)
    assert known_defect(call, None) == ("linear-reads-the-next-row" if wrong else None)
    assert known_defect(beside_nan(**options, value=1.0), None) is None
    need_amx(wrong)


ELSEWHERE = ({"rows": 16}, {"n": 36}, {"n": 19, "at": 1}, {"n": 15}, {"dtype": torch.float32})


@pytest.mark.parametrize("options", ELSEWHERE, ids=str)
def test_a_nan_elsewhere_stays_in_its_row_and_is_not_excused(options):
    call = beside_nan(**options)
    assert not spreads(call)
    assert known_defect(call, None) is None


def test_a_nan_spreads_into_the_row_before_it_in_gradients_and_in_whole_maps():
    call = beside_nan(rows=17, n=16, outputs=35, value=1.0)
    incoming = beside_nan().input
    x = call.input.detach().requires_grad_()
    (found,) = torch.autograd.grad(torch.nn.functional.linear(x, call.weight.T.contiguous().T), x, incoming)
    wrong = bool(found[0].isnan().any())
    assert known_defect(call, "input", incoming) == ("linear-reads-the-next-row" if wrong else None)
    assert known_defect(call, "input", torch.ones_like(incoming)) is None
    maps = torch.ones(17, 1, 29, dtype=torch.bfloat16)
    maps[1] = torch.nan
    call = Call("full", maps, torch.ones(1, 1, 29, dtype=torch.bfloat16), None)
    whole = bool(torch.conv1d(call.input, call.weight)[0].isnan().any())
    assert known_defect(call, None) == ("linear-reads-the-next-row" if whole else None)
    need_amx(wrong)


def numbered(*shape):
    return (torch.arange(torch.Size(shape).numel()) % 7 - 3).view(shape).bfloat16()


def strided_to_one_column(rows=9, width=6, stride=3, kernel=4, dtype=torch.bfloat16):
    x, w = numbered(1, 2, rows, width).to(dtype), numbered(2, 2, 3, kernel).to(dtype)
    return Call("full", x, w, None, (1, stride))


def folded(channels=8, kernel=8, width=12, stride=1, dtype=torch.bfloat16):
    x, w = numbered(1, channels, width).to(dtype), numbered(1, channels, kernel).to(dtype)
    return Call("full", x, w, None, (stride,))


def is_wrong(call):
    conv = {1: torch.conv1d, 2: torch.conv2d}[call.weight.ndim - 2]
    exact = conv(call.input.double(), call.weight.double(), stride=call.stride or 1)
    return not torch.equal(conv(call.input, call.weight, stride=call.stride or 1), exact.to(call.input.dtype))


def test_windows_of_one_column_are_the_wrong_ones():
    call = strided_to_one_column()
    wrong = is_wrong(call)
    assert known_defect(call, None) == ("one-column-of-strided-windows" if wrong else None)
    assert known_defect(call, "input") is None
    module = torch.nn.Conv2d(2, 2, (3, 4), stride=(1, 3), padding=(1, 1), bias=False, dtype=torch.bfloat16)
    maps = numbered(1, 2, 9, 4)
    assert known_defect_of_module(module, maps) == ("one-column-of-strided-windows" if wrong else None)
    assert known_defect_of_module(module, maps[:, :, :4]) is None
    assert known_defect_of_module(module.float(), maps.float()) is None
    need_amx(wrong)


ONE_COLUMN_BESIDE = (
    {"rows": 6},
    {"width": 7},
    {"stride": 4, "width": 4},
    {"kernel": 1, "width": 3},
    {"dtype": torch.float32},
)


@pytest.mark.parametrize("options", ONE_COLUMN_BESIDE, ids=str)
def test_windows_of_calls_beside_one_column_are_right_and_not_excused(options):
    call = strided_to_one_column(**options)
    assert not is_wrong(call)
    assert known_defect(call, None) is None


@pytest.mark.parametrize("options", [{}, {"channels": 16, "kernel": 4, "width": 20, "stride": 4}], ids=str)
def test_columns_folded_into_channels_are_multiplied_by_other_weights(options):
    call = folded(**options)
    wrong = is_wrong(call)
    assert covers(call, None) == {"columns-folded-into-channels"}
    assert known_defect(call, None) == ("columns-folded-into-channels" if wrong else None)
    need_amx(wrong)


@pytest.mark.parametrize(("samples", "outputs"), [(48, 90), (48, 8), (2, 90)])
def test_columns_of_few_positions_are_folded_with_many_samples_and_outputs(samples, outputs):
    x, weight = (torch.arange(n * 160.0).remainder(7).view(n, 10, 16).bfloat16() for n in (samples, outputs))
    call = Call("full", x - 3, weight - 3, None)
    assert known_defect(call, None) == ("columns-folded-into-channels" if is_wrong(call) else None)


FOLDED_BESIDE = (
    {"width": 11},
    {"channels": 7},
    {"channels": 16},
    {"kernel": 4},
    {"stride": 2, "width": 16},
    {"dtype": torch.float32},
)


@pytest.mark.parametrize("options", FOLDED_BESIDE, ids=str)
def test_calls_beside_folded_columns_are_right_and_not_excused(options):
    call = folded(**options)
    assert not is_wrong(call)
    assert known_defect(call, None) is None


def uncovered(depth=3, stride=2, width=17):
    x, w = torch.zeros(1, 1, depth, 1, width), torch.ones(1, 1, 2, 1, width)
    return Call("full", x.bfloat16(), w.bfloat16(), None, (stride, 1, 1))


def test_the_input_gradient_is_not_written_where_no_window_reaches():
    call = uncovered()
    wrong = shows("uncovered-depth-input-gradient", torch.bfloat16)
    assert covers(call, "input") == {"uncovered-depth-input-gradient"}
    assert known_defect(call, None) is None
    for options in ({"depth": 4}, {"stride": 1}, {"stride": 3}, {"width": 16}):
        assert covers(uncovered(**options), "input") == set()
    need_amx(wrong)


def test_the_float16_input_gradient_of_a_tall_kernel_is_wrong():
    def call(outputs=129, dtype=torch.float16, samples=1):
        x, w = torch.zeros(samples, 1, 512, 1, dtype=dtype), torch.zeros(outputs, 1, 512, 1, dtype=dtype)
        return Call("full", x, w, None)

    for name in ("input", "input again"):
        assert covers(call(), name) == {"tall-kernel-input-gradient"}
    assert covers(call(outputs=128), "input") == covers(call(dtype=torch.bfloat16), "input") == set()
    assert covers(call(), "weight") == covers(call(samples=2), "input") == set()
    assert covers(call(samples=2), "input again") == {"tall-kernel-input-gradient"}
    assert covers(call(samples=2, dtype=torch.bfloat16), "input again") == set()
    wrong = shows("tall-kernel-input-gradient", torch.float16)
    assert known_defect(call(), "input") == ("tall-kernel-input-gradient" if wrong else None)
    assert known_corruption(call()) is None
    if not wrong:
        pytest.skip("needs torch 2.13 and a CPU with AVX512-FP16 that is not switched off")


def test_a_tall_kernel_whose_gradient_takes_minutes_is_not_asked_for_where_it_does(monkeypatch):
    def tall(height: int, outputs: int, samples: int = 1, dtype: torch.dtype = torch.bfloat16) -> Call:
        x, kernel = torch.zeros(samples, 1, height, 1, dtype=dtype), torch.zeros(outputs, 1, height, 1, dtype=dtype)
        return Call("full", x, kernel, None)

    for shows, finding in ((True, "tall-kernel-takes-minutes"), (False, None)):
        monkeypatch.setattr(known_module, "_seen", {})
        slow = replace(next(k for k in KNOWN if k.takes_minutes), sees=lambda dtype, shows=shows: shows)
        monkeypatch.setattr(known_module, "KNOWN", (slow,))
        assert known_corruption(tall(255, 106)) == known_corruption(tall(600, 1)) == finding
        for other in (tall(127, 106), tall(255, 107), tall(255, 16), tall(600, 106, samples=2)):
            assert known_corruption(other) is None
        assert known_corruption(tall(255, 106, dtype=torch.float32)) is None


class Wide:
    """A right kernel that computes in another dtype, and leaves the gradients to torch."""

    name, device = "wide", torch.device("cpu")

    def __init__(self, wide):
        self.wide = wide

    def linear(self, input, weight, bias=None):
        bias = None if bias is None else bias.to(self.wide)
        return torch.nn.functional.linear(input.to(self.wide), weight.to(self.wide), bias).to(input.dtype)

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        bias = None if bias is None else bias.to(self.wide)
        kind = (torch.conv1d, torch.conv2d, torch.conv3d)[weight.ndim - 3]
        return kind(input.to(self.wide), weight.to(self.wide), bias, stride, 0, dilation).to(input.dtype)


def test_gradients_are_excused_in_the_dtype_in_which_torch_computes_them():
    x, kernel = torch.ones(1, 1, 32, 16, dtype=torch.bfloat16), torch.zeros(1, 1, 32, 16, dtype=torch.bfloat16)
    call, incoming = Call("full", x, kernel, None), torch.ones(1, 1, dtype=torch.bfloat16)
    finding = "weight-gradient-of-one-map"
    for wide, excused in ((torch.float32, shows(finding, torch.float32)), (torch.float64, False)):
        trial = Trial(Wide(wide), torch.bfloat16, ("full",))
        gradients_of(trial, call, incoming)
        assert trial._is_known(call, "weight", incoming) is excused
        assert not trial._is_known(call, None)


def test_a_refusal_of_torch_inside_of_a_kernel_is_torchs():
    x = torch.zeros(4).as_strided((1, 2, 2, 1), (4, 1, 2, 2))
    kernel = torch.zeros(4).as_strided((1, 2, 2, 1), (2, 1, 2, 1))
    trial = Trial(Wide(torch.float64), torch.float32, ("full",))
    found = gradients_of(trial, Call("full", x, kernel, None), torch.ones(1, 1))
    refused = trial.coverage["known defect of torch"]["odd-strides-stop-backward"]
    assert bool(found) != bool(refused)


def padded_depth(depth=1, padding=(1, 1, 1), kernel=3, dtype=torch.bfloat16):
    x, w = torch.ones(1, 1, depth, 2, 3, dtype=dtype), torch.ones(1, 1, kernel, 3, 3, dtype=dtype)
    return Call("full", x, w, None, padding=padding)


def conv3d_is_wrong(call):
    given = {"padding": call.padding}
    exact = torch.conv3d(call.input.double(), call.weight.double(), **given)
    return not torch.equal(torch.conv3d(call.input, call.weight, **given), exact.to(call.input.dtype))


def test_a_padded_depth_of_one_is_the_wrong_one():
    call = padded_depth()
    wrong = conv3d_is_wrong(call)
    assert known_defect(call, None) == ("padded-depth-of-one-in-bfloat16" if wrong else None)
    assert known_defect(call, "weight") != "padded-depth-of-one-in-bfloat16"
    need_amx(wrong)


@pytest.mark.parametrize(
    "options", [{"depth": 3}, {"padding": (0, 1, 1), "kernel": 1}, {"kernel": 1}, {"dtype": torch.float32}], ids=str
)
def test_calls_beside_a_padded_depth_of_one_are_right_and_not_excused(options):
    call = padded_depth(**options)
    assert not conv3d_is_wrong(call)
    assert known_defect(call, None) is None
