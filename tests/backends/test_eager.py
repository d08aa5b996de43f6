"""torch eager as a backend: threads that call it at once get their own results."""

import threading

import torch

from equiv.backends import TorchEager


def test_threads_share_nothing_that_changes():
    backend, wrong = TorchEager(), []

    def call(value):
        x, weight = torch.ones(2, 8), torch.full((4, 8), value)
        kernel = weight[..., None, None]
        for _ in range(2000):
            results = backend.linear(x, weight), backend.conv(x[..., None, None], kernel)
            wrong.extend(y for y in results if not bool((y == 8 * value).all()))

    threads = [threading.Thread(target=call, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
