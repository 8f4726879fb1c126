"""Who has seen whose work: vector clocks over the threads of a CTA.

Time is one counter that every synchronisation moves on; an access carries the time it was made.
``seen[t, u]`` is the latest time such that all of thread u's work up to it happened before what
thread t does next (Lamport 1978, "happened before"; Mattern 1989, vector clocks). Column
``threads`` stands for the asynchronous copy engine.
"""

from __future__ import annotations

import numpy as np

from .values import Array

FOREVER = 2**30


class Clocks:
    """Vector clocks of ``threads`` threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.now = 1
        self.floor = 0
        """Work up to this time has been seen by all threads."""
        self.seen = np.zeros((threads, threads + 1), np.int32)
        self.own = np.arange(threads)
        self.seen[self.own, self.own] = FOREVER

    def synchronise(self, members: Array, waiting: Array | None = None) -> None:
        """A barrier among the threads of a boolean mask; of them only those learn of the others that wait for it."""
        rows = self.seen[members].max(0)
        rows[:-1][members] = self.now
        learn = members if waiting is None else members & waiting
        self.seen[learn] = np.maximum(self.seen[learn], rows)
        self._next(learn)

    def release(self, members: Array, into: Array) -> Array:
        """The knowledge ``into`` of a barrier object after these threads arrived at it."""
        rows = self.seen[members].max(0)
        rows[:-1][members] = self.now
        self._next(np.zeros(self.threads, np.bool_))
        return np.maximum(into, rows)

    def acquire(self, members: Array, knowledge: Array) -> None:
        """These threads have seen a barrier object complete."""
        self.seen[members] = np.maximum(self.seen[members], knowledge)

    def _next(self, members: Array) -> None:
        self.seen[self.own, self.own] = FOREVER
        if members.all():
            self.floor = self.now
        self.now += 1

    def ordered(self, threads: Array, authors: Array, times: Array) -> Array:
        """Whether the work of ``authors`` at ``times`` happened before ``threads`` go on."""
        return times <= self.seen[threads, authors]

    def seen_of_warps(self) -> Array:
        """``(threads, warps)``: the time up to which a thread has seen all *other* threads of a warp."""
        return self.seen[:, :-1].reshape(self.threads, -1, 32).min(2)
