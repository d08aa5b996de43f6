"""Nothing of the caller's changes while it is certified: eight threads, tasks of a loop, processes that are spawned."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import equiv
from equiv import certify

N, OUT, SHAPE = 192, 16, (12, 4, 4)


def layers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(N, OUT)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return linear, equiv.linear_to_full_conv(linear, SHAPE)


def held(module):
    """Every parameter and buffer: the object, its type, its version and its values."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [(name, t, type(t), t._version, t.detach().clone(), t.requires_grad) for name, t in tensors]


def unchanged(before, module):
    now = [*module.named_parameters(), *module.named_buffers()]
    return len(now) == len(before) and all(
        a is b and type(b) is kind and b._version == version and torch.equal(b, values) and b.requires_grad == grad
        for (_, a, kind, version, values, grad), (_, b) in zip(before, now, strict=True)
    )


class Normed(nn.Module):
    """An affine module with a buffer, tied parameters, a hook, a part in a list, and an attribute that it counts up."""

    def __init__(self, linear):
        super().__init__()
        self.linear = self.tied = linear
        self.register_buffer("calls", torch.zeros(()))
        self.parts = [nn.Identity()]
        self.count = 0
        self.register_forward_hook(lambda module, _, y: y + 0 * module.count)

    def forward(self, x):
        self.count += 1
        self.calls += 1
        return self.parts[0](self.tied(x.flatten(1)))


@pytest.mark.parametrize("kind", ["random", "deterministic", "module"])
def test_eight_threads_certify_one_pair_while_it_is_used(kind):
    linear, conv = layers()
    options = {"method": kind} if kind != "module" else {"feature_shape": SHAPE}
    candidate = Normed(linear) if kind == "module" else conv
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = conv(x).flatten(1), linear(x.flatten(1))
    before = held(candidate), held(linear)
    done, wrong, forwards = threading.Event(), 0, 0

    def infer():
        nonlocal wrong, forwards
        while not done.is_set():
            with torch.no_grad():
                found = conv(x).flatten(1), linear(x.flatten(1))
            wrong += not all(map(torch.equal, found, right))
            forwards += 1

    user = threading.Thread(target=infer)
    user.start()
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda seed: certify(candidate, linear, seed=seed, **options), range(16))]
    done.set()
    user.join()
    assert all(found)
    assert forwards > 0
    assert wrong == 0
    assert unchanged(before[0], candidate)
    assert unchanged(before[1], linear)
    assert kind != "module" or (candidate.count, float(candidate.calls)) == (0, 0.0)


def test_tasks_of_one_loop_do_not_disturb_each_other():
    pairs = [layers(seed) for seed in range(3)]
    pairs[1][1].weight.data[3, 2, 1, 0] += 1
    before = [held(module) for pair in pairs for module in pair]

    async def one(linear, conv):
        await asyncio.sleep(0)
        return certify(conv, linear, method="random", seed=3)

    async def every():
        threads = [asyncio.to_thread(certify, conv, linear, method="random") for linear, conv in pairs]
        return await asyncio.gather(*threads, *(one(*pair) for pair in pairs))

    found = asyncio.run(every())
    assert [bool(each) for each in found] == [True, False, True] * 2
    assert found[1].differences[0][:2] == (3, 36)
    assert all(map(unchanged, before, [module for pair in pairs for module in pair]))


def test_processes_that_are_spawned_certify_what_they_are_sent():
    linear, conv = layers()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [pool.apply_async(certify, pair) for pair in ((conv, linear), (linear, layers(1)[0]))]
        found = [job.get(60) for job in jobs]
    assert [each.reason for each in found] == ["equivalent", "weights differ"]


def test_the_global_random_state_goes_on_while_others_certify():
    linear, conv = layers()
    done, found = threading.Event(), []
    state = torch.get_rng_state()

    def certifies():
        while not done.is_set():
            found.append(certify(conv, linear, method="random"))
            found.append(certify(lambda x: conv(x), linear, feature_shape=SHAPE))

    other = threading.Thread(target=certifies)
    other.start()
    drawn = torch.cat([torch.randint(2**62, (5,)) for _ in range(4000)])
    while len(found) < 2:  # both kinds were running
        drawn = torch.cat([drawn, *(torch.randint(2**62, (5,)) for _ in range(400))])
    done.set()
    other.join()
    torch.set_rng_state(state)
    assert all(found)
    assert torch.equal(drawn, torch.cat([torch.randint(2**62, (5,)) for _ in range(len(drawn) // 5)]))
