"""A process of its own that runs functions, and is ended when one takes too long."""

import multiprocessing
import os
import signal
import threading


class TooSlow(Exception):
    """A function had not returned when its time was up."""


class Child:
    """Runs functions one after another in a process, which keeps what they have cached.

    After a function has taken too long, or has ended its process, the next one has a new process.
    """

    def __init__(self):
        self._process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end()

    def run(self, function, *args, seconds):
        """Return ``function(*args)``.

        Raises
        ------
        TooSlow
            If it takes more than ``seconds``, not counting the start of the process.
        RuntimeError
            If it fails; with the last line of what was said.
        """
        if self._process is None:
            self._start()
        self._pipe.send((function, args))
        if not self._pipe.poll(seconds):
            self._end()
            raise TooSlow
        try:
            worked, result = self._pipe.recv()
        except EOFError:  # killed, for instance for its memory
            self._end()
            raise RuntimeError("its process has ended") from None
        if not worked:
            raise RuntimeError(result)
        return result

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=False)
        self._process.start()
        other.close()
        self._pipe.recv()  # it is there

    def _end(self):
        """End the process and those that it has started."""
        if self._process is not None:
            self._pipe.close()
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.join()
            self._process = None


def _serve(pipe):
    os.setsid()  # a group of its own, with the workers that a search may start
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send("ready")
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, function(*args)
        except Exception as error:  # noqa: BLE001, what any rival may raise is reported
            answer = False, f"{type(error).__name__}: {error}".splitlines()[0]
        pipe.send(answer)


def _end_with_parent():
    """End this group of processes when the one that started it is gone, killed for instance."""
    multiprocessing.parent_process().join()
    os.killpg(os.getpid(), signal.SIGKILL)
