"""Runs in lock step: several calls, each in a thread of its own, of which one computes at a time.

The leader stops after every call of a paired layer and hands over a record of it. Followers stop before theirs and ask
for the record by its key. The leader only goes on while nobody can be served, so that one record at a time is held,
unless two models call their layers in different orders.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch

from equiv.numerics import flushing_is_on

_AUTOCAST = ("cpu", "cuda", "xpu", "mps")
_STOP = object()


class _StoppedError(BaseException):
    """Ends a thread whose run is no longer wanted; no `except Exception` of a model holds it up."""


class Record(Protocol):
    """What a leader hands over."""

    key: Hashable

    def keep(self) -> None:
        """Copy what the leader may overwrite when it goes on."""


class Player:
    """A call in a thread of its own, which stops wherever it asks something until it is answered.

    It computes as the thread that made it would: with its autocast, default device and flushing, without gradients.
    """

    def __init__(self, call: Callable[[Player], Any]) -> None:
        self._call = call
        self._questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._enter = surroundings()
        self._thread: threading.Thread | None = None
        self.done = False
        self.result: Any = None
        self._error: BaseException | None = None

    def ask(self, question: Any) -> Any:
        """Called by the run itself: stop with this question, and return the answer."""
        self._questions.put(question)
        answer = self._answers.get()
        if answer is _STOP:
            raise _StoppedError
        return answer

    def resume(self, answer: Any = None) -> Any:
        """Go on to the next question and return it; None once the call has returned."""
        if self._thread is None:
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
            self._thread.start()
        else:
            self._answers.put(answer)
        question = self._questions.get()
        if self._error is not None:
            raise self._error
        return question

    def stop(self) -> None:
        """End the run wherever it is."""
        if self._thread is not None and self._thread.is_alive():
            self._answers.put(_STOP)
            self._thread.join()

    def _run(self) -> None:
        try:
            with self._enter():
                self.result = self._call(self)
        except _StoppedError:
            pass
        except BaseException as error:  # raised again in the thread that waits
            self._error = error
        self.done = True
        self._questions.put(None)


def surroundings() -> Callable[[], AbstractContextManager[None]]:
    """What torch keeps for each thread, as it is now in this one, to be entered in another."""
    cast = [(d, torch.get_autocast_dtype(d)) for d in _AUTOCAST if torch.is_autocast_enabled(d)]
    device, flushes = torch.empty(0).device, flushing_is_on()

    @contextlib.contextmanager
    def entered() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if flushing_is_on() != flushes:
                torch.set_flush_denormal(flushes)
            if device.type != "cpu":
                on_device: AbstractContextManager[Any] = torch.device(device)
                stack.enter_context(on_device)
            for kind, dtype in cast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            yield

    return entered


def march(leader: Player, followers: Sequence[Player]) -> None:
    """Run all to their ends. A record goes to the followers in their order; one that never comes is answered None."""
    try:
        _March(leader, followers).run()
    finally:
        for player in (leader, *followers):
            player.stop()


class _March:
    def __init__(self, leader: Player, followers: Sequence[Player]) -> None:
        self.leader, self.followers = leader, followers
        self.held: dict[Hashable, tuple[Record, int]] = {}  # with how many followers have had it

    def run(self) -> None:
        self.asked = [follower.resume() for follower in self.followers]
        record: Record | None = self.leader.resume()
        while not all(follower.done for follower in self.followers):
            if record is not None:
                self.held[record.key] = (record, 0)
                record = None
            if self._serve():
                continue
            if self.leader.done:
                self._without_record()
                continue
            for held, _ in self.held.values():
                held.keep()
            record = self.leader.resume()
        while not self.leader.done:
            self.leader.resume()

    def _serve(self) -> bool:
        served = False
        for place, follower in enumerate(self.followers):
            while not follower.done and self.asked[place] in self.held:
                record, had = self.held[self.asked[place]]
                waits = any(not earlier.done for earlier in self.followers[had:place])
                if had < place and waits:
                    break
                if place + 1 == len(self.followers):
                    del self.held[record.key]
                else:
                    self.held[record.key] = (record, place + 1)
                self.asked[place] = follower.resume(record)
                served = True
        return served

    def _without_record(self) -> None:
        """Nothing more will come: the first follower that waits goes on alone."""
        for place, follower in enumerate(self.followers):
            if not follower.done:
                self.asked[place] = follower.resume(None)
                return
