"""The catalogue of faults: each shows where it says and nowhere else, laws find it, and legal variants are spared."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from fault_examples import CALLS, MAPPINGS, Call, Mapped, rewritten, same, seen
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

import equiv
from equiv import laws, testing
from equiv.dtypes import BY_NAME
from equiv.testing import faults
from equiv.testing.faults.registry import FAULTS, SURVIVORS, VARIANTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
KERNELS = ("linear", "conv1d", "conv2d", "conv3d")
MAPPED = ("conv_to_linear", "linear_to_full_conv", "linear_to_pointwise_conv", "to_channels", "to_feature_map")


def bound() -> list[object]:
    """What is called now: torch's kernels and the mappings."""
    kernels = [getattr(F, name) for name in KERNELS]
    return kernels + [getattr(module, name) for module in (equiv, equiv.mapping) for name in MAPPED]


# --- the registry -----------------------------------------------------------------------------------------------------


def test_every_fault_says_what_it_is() -> None:
    assert len(FAULTS) >= 60
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert fault.title.endswith(".")
        assert fault.title[:-1].count(". ") == 0
        assert 20 <= len(fault.title) <= 130
        assert fault.source
        assert fault.dimension
        assert fault.kind in ("kernel", "gradient", "arithmetic", "values", "effect", "cheat", "transform", "mapping")
        assert fault.profile in laws.PROFILES
        assert fault.dtypes
        assert set(fault.dtypes) <= set(BY_NAME)
        assert fault.laws
        assert set(fault.laws) <= set(laws.LAWS)
        assert re.search(r"#\d+|^textbook: |^mapping mistake: |^generated kernels: |^docs/findings/", fault.source), (
            fault.source
        )
    assert len({fault.title for fault in FAULTS.values()}) == len(FAULTS)
    assert set(SURVIVORS) < set(FAULTS)


def test_every_variant_says_what_it_is() -> None:
    assert len(VARIANTS) >= 15
    assert not set(VARIANTS) & set(FAULTS)
    for name, variant in VARIANTS.items():
        assert variant.name == name
        assert variant.title.endswith(".")
        assert variant.source
        assert set(variant.dtypes) <= set(BY_NAME)


def test_a_name_that_does_not_exist_raises_an_error_with_near_ones() -> None:
    said = (
        r"fault: expected one of the \d+ names of equiv.testing.faults.FAULTS, got 'bias-droped'; did you mean 'bias-d"
    )
    with pytest.raises(equiv.EquivError, match=said):
        faults.inject("bias-droped")
    with pytest.raises(equiv.EquivError, match="got 'qqqq'; see list"):
        faults.find("qqqq")
    with pytest.raises(equiv.EquivError, match=r"variant: expected .* did you mean 'pairwise'"):
        VARIANTS["pair-wise"]
    with pytest.raises(equiv.EquivError, match="fault: expected a Fault, a Variant or a name, got 7; pass for example"):
        faults.find(7)  # type: ignore[arg-type]
    assert "bias-droped" not in FAULTS
    assert FAULTS.get("bias-droped") is None


# --- a fault shows where it says, and nowhere else --------------------------------------------------------------------


def test_every_fault_has_an_example() -> None:
    assert set(CALLS) | set(MAPPINGS) == set(FAULTS)
    assert {name for name, fault in FAULTS.items() if fault.kind == "mapping"} == set(MAPPINGS)


@pytest.mark.parametrize("name", CALLS)
def test_a_broken_kernel_shows_under_its_condition_and_nowhere_else(name: str) -> None:
    shows, spares = CALLS[name]
    with VARIANTS["without-onednn"].applied() if name.endswith("without-onednn") else nullcontext():
        right, near = seen(shows), None if spares is None else seen(spares)
    with faults.inject(name):
        assert not same(seen(shows), right)
    if spares is not None and near is not None:
        with faults.inject(name):
            assert same(seen(spares), near)


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mistake_shows_under_its_condition_and_nowhere_else(name: str) -> None:
    shows, spares = MAPPINGS[name]
    right = [None if what is None else rewritten(what) for what in (shows, spares)]
    with faults.inject(name):
        assert not same(rewritten(shows), right[0])
        if spares is not None:
            assert same(rewritten(spares), right[1])
    assert same(rewritten(shows), right[0])


# --- applying ---------------------------------------------------------------------------------------------------------


def test_faults_nest_and_are_undone_in_turn_also_after_an_exception() -> None:
    before, x = bound(), torch.ones(1, 2)
    layer = nn.Linear(2, 1)
    plain = layer(x).detach()
    with pytest.raises(ZeroDivisionError), faults.inject("bias-dropped-one-output"):  # noqa: PT012 - what it is about
        unbiased = layer(x).detach()
        with faults.inject("batch-of-one-squeezed"), faults.inject("bias-dropped"), faults.inject("bias-doubled"):
            assert layer(x).shape == (1,)
            assert torch.equal(layer(x)[None], unbiased)
            assert equiv.linear_to_full_conv(layer, (2, 1)).bias is None
        assert torch.equal(layer(x).detach(), unbiased)
        assert equiv.linear_to_full_conv(layer, (2, 1)).bias is not None
        raise ZeroDivisionError
    assert torch.equal(layer(x), plain)
    assert not torch.equal(plain, unbiased)
    assert bound() == before


@pytest.mark.parametrize("name", [*FAULTS, *VARIANTS])
def test_what_was_there_before_is_put_back(name: str) -> None:
    before = bound(), torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.get_rng_state().tolist()
    entry = FAULTS[name] if name in FAULTS else VARIANTS[name]
    with pytest.raises(ZeroDivisionError), entry.applied():
        raise ZeroDivisionError
    assert (bound(), torch.get_num_threads(), torch.backends.mkldnn.enabled, torch.get_rng_state().tolist()) == before


def test_a_fault_begins_with_a_fresh_state() -> None:
    call = Call((3, 6), (5, 6), calls=30)
    for _ in range(3):  # 30 calls are fewer than 50, three times 30 are not
        right = seen(call)
        with faults.inject("every-50th-call-wrong"):
            assert same(seen(call), right)


def test_a_mistake_reaches_names_that_were_imported_before() -> None:
    from equiv.laws import trial
    from equiv.laws.checks import purity, round_trips

    layer = nn.Linear(4, 2)
    with faults.inject("bias-dropped"):
        for module in (equiv, equiv.mapping, purity, round_trips, trial):
            assert module.linear_to_full_conv(layer, (4, 1)).bias is None  # type: ignore[attr-defined]
    assert purity.linear_to_full_conv(layer, (4, 1)).bias is not None


# --- the laws find them -----------------------------------------------------------------------------------------------

QUICK = [
    pytest.param(name, marks=[pytest.mark.slow] if fault.profile == "gate" else [])
    for name, fault in FAULTS.items()
    if fault.profile != "deep" and name not in SURVIVORS
]


@pytest.mark.parametrize("name", QUICK)
def test_the_laws_find_it_in_its_profile(name: str) -> None:
    found = faults.find(name, seed=SEED, laws=FAULTS[name].laws)
    assert found is not None
    assert found.failure is not None
    assert found.dtype in FAULTS[name].dtypes


SEED = 1


DEEP = ("linear-batch-over-65536", "linear-rank-3-batch-over-65536", "batch-100-alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_a_fault_at_large_or_rare_sizes_is_found_in_the_profile_deep(name: str) -> None:
    assert faults.find(name, seed=SEED) is not None


@pytest.mark.parametrize("name", SURVIVORS)
def test_what_no_law_finds_is_listed_and_leaves_the_list_once_a_law_finds_it(name: str) -> None:
    found = faults.find(name, seed=SEED, laws=FAULTS[name].laws, profile="gate", examples=25)
    assert found is None, f"remove {name} from SURVIVORS"


def test_find_tells_listeners_nothing_and_runs_what_it_is_asked_for() -> None:
    heard: list[laws.Result] = []
    laws.listeners.append(heard.append)
    try:
        found = faults.find(
            "bias-doubled", seed=1, laws=["purity", "weight_recovery"], dtypes=["bfloat16"], profile="gate"
        )
    finally:
        laws.listeners.remove(heard.append)
    assert heard == []
    assert found is not None
    assert (found.law, found.dtype) == ("weight_recovery", "bfloat16")
    assert faults.find(FAULTS["bias-doubled"], seed=1, laws=["purity"], examples=3) is None
    with pytest.raises(equiv.EquivError, match="laws: expected a list of names"):
        faults.find("bias-doubled", laws=["exakt"])


# --- legal variants ---------------------------------------------------------------------------------------------------

SETTINGS = ("four-threads", "without-onednn", "flushed-subnormals")
SAME_BITS = (  # the near misses of cheats
    *("result-cached-by-content", "weight-packed-by-version", "workspace-kept", "zero-input-skipped-rightly"),
    *("another-thread-waited-for", "timed-once", "padded-to-16"),
)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in (*SETTINGS, *SAME_BITS)])
def test_a_variant_is_another_kernel_than_torchs(name: str) -> None:
    """Other bits on normal values, or another place in memory, in one of its dtypes."""
    calls = [
        Call(x, w, dtype=BY_NAME[word], values=(("all", "normals"),))
        for word in VARIANTS[name].dtypes
        for x, w in (((4, 50), (7, 50)), ((3, 10, 5), (7, 10, 5)), ((3, 10, 5, 2), (7, 10, 5, 2)))
    ]
    right = [call.run(*call.tensors(0).values()) for call in calls]
    with VARIANTS[name].applied():
        other = [call.run(*call.tensors(0).values()) for call in calls]
    assert all(torch.allclose(a, b, rtol=0.1, atol=0.1) for a, b in zip(right, other, strict=True))
    if name == "positive-zeros":
        with VARIANTS[name].applied():
            assert not torch.signbit(F.linear(torch.tensor([[-0.0]]), torch.tensor([[1.0]])))
        assert torch.signbit(torch.tensor(-0.0) + torch.tensor(-0.0))
        return
    assert any(not torch.equal(a, b) or a.stride() != b.stride() for a, b in zip(right, other, strict=True))


@pytest.mark.parametrize("name", ["sequential", "reversed", "blocked-32", "float64-rounded-once"])
@pytest.mark.parametrize(("x", "dims"), [((3, 32, 5), 1), ((3, 32, 5, 4), 2), ((32, 5, 4), 2)])
def test_a_variant_by_rows_is_another_kernel_with_padding_and_groups_too(
    name: str, x: tuple[int, ...], dims: int
) -> None:
    call = Call(x, (6, 16, *(3, 2)[:dims]), stride=2, padding=(2, 1)[:dims], dilation=2, groups=2)
    normal = Call(**{**vars(call), "values": (("all", "normals"),)})
    right, near = call.run(*call.tensors(0).values()), normal.run(*normal.tensors(0).values())
    with VARIANTS[name].applied():
        assert torch.equal(call.run(*call.tensors(0).values()), right)
        other = normal.run(*normal.tensors(0).values())
    assert torch.allclose(other, near, rtol=1e-4, atol=1e-4)
    assert not torch.equal(other, near)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_no_law_refuses_a_legal_variant(name: str) -> None:
    """Every law in one dtype, one law in each dtype; benchmarks/catalogue.py runs all of them."""
    variant = VARIANTS[name]
    turn = list(VARIANTS).index(name)
    word = variant.dtypes[turn % len(variant.dtypes)]
    for chosen in ({"dtypes": [word]}, {"laws": [list(laws.LAWS)[turn % len(laws.LAWS)]]}):
        found = faults.find(variant, seed=SEED, examples=2, **chosen)  # type: ignore[arg-type]
        assert found is None or found.failure is None, found.failure.render()


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_the_table_of_the_registry() -> None:
    from equiv.testing.faults import table

    assert PAGE.read_text(encoding="utf-8") == table.page(), "run `python -m equiv.testing.faults > docs/faults.md`"


def test_the_catalogue_is_part_of_the_public_face_of_testing() -> None:
    assert testing.faults is faults
    assert set(faults.__all__) == {"FAULTS", "SURVIVORS", "VARIANTS", "Fault", "Variant", "find", "inject"}
    assert isinstance(FAULTS["bias-dropped"], faults.Fault)
    assert Mapped is not None
