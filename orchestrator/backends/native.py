"""Threads of the operating system, and the way back from them, also where threads are greenlets.

Under gevent's patching a thread is a greenlet, so work that computes would stall all others. The
threads here are real ones, and what is here may be used from any thread: gevent's own locks and
sockets belong to the thread that made them.
"""

import os
import select
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent.monkey import get_original

new_lock = get_original("_thread", "allocate_lock")
_start_thread = get_original("_thread", "start_new_thread")

NativeSocket = get_original("socket", "socket")

Task = Callable[[], None]


class NativeThreads:
    """At most ``limit`` threads, begun as they are needed and kept, for tasks that don't raise.

    They are daemons: a running task never keeps the process from exiting.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = new_lock()
        self._threads = 0
        self._idle: list[_Thread] = []
        self._waiting: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Run ``task`` in a thread, as soon as one is free."""
        with self._lock:
            if self._idle:
                self._idle.pop().give(task)
            elif self._threads < self._limit:
                _start_thread(self._work, (task,))
                self._threads += 1
            else:
                self._waiting.append(task)

    def withdraw(self, task: Task) -> None:
        """Take back a task that has not begun; one that has goes on."""
        with self._lock:
            if task in self._waiting:
                self._waiting.remove(task)

    def _work(self, task: Task | None) -> None:
        thread = _Thread()
        while True:
            if task:
                task()
            # A waiting thread keeps nothing of its last task alive.
            task = None
            with self._lock:
                if self._waiting:
                    task = self._waiting.popleft()
                else:
                    self._idle.append(thread)
            task = task or thread.take()


class _Thread:
    """Where an idle thread waits for its next task."""

    def __init__(self) -> None:
        self._given = new_lock()
        self._given.acquire()
        self._task: Task | None = None

    def give(self, task: Task) -> None:
        self._task = task
        self._given.release()

    def take(self) -> Task | None:
        self._given.acquire()
        task, self._task = self._task, None
        return task


class Channel:
    """Carries items from a native thread to one reader, which may be a greenlet.

    A pipe wakes the reader: it is the one thing that every kind of thread can wait for and write
    to. Many items share one wake, and a closed channel takes none.
    """

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._lock = new_lock()
        self._read_end, self._write_end = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._read_end, select.POLLIN)
        self._woken = False
        self.closed = False

    def put(self, item: Any) -> None:
        """Hand over ``item``. Never waits."""
        with self._lock:
            if not self.closed:
                self._items.append(item)
                self._wake()

    def wake(self) -> None:
        """Let the reader return at once, with or without an item. Safe from any thread."""
        with self._lock:
            if not self.closed:
                self._wake()

    def take(self) -> list[Any]:
        """Wait for items, or for a wake, and return all items that are there."""
        self._poll.poll()
        with self._lock:
            if self._woken:
                os.read(self._read_end, 1)
                self._woken = False
            items = list(self._items)
            self._items.clear()
        return items

    def close(self) -> None:
        """Drop what is left, and all that still comes."""
        with self._lock:
            self.closed = True
            self._items.clear()
            os.close(self._read_end)
            os.close(self._write_end)

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            os.write(self._write_end, b"\0")
