"""Start a program that dies with its parent: `leash.py PARENT_PID PROGRAM ARGUMENT …`.

Runs as a script of its own between the server and a worker, sets the parent-death signal, and
becomes the worker (`exec` keeps the signal, the process id and open files).  So any program can be
a worker, and no code runs between fork and exec in the server, which has threads.

Linux only; elsewhere the program starts without the signal and should end when its socket does.
The kernel sends the signal when the *thread* that started the program ends: start workers from
the thread that lives as long as the server.
"""

import ctypes
import os
import signal
import sys

__all__ = ["leashed"]

_PR_SET_PDEATHSIG = 1


def leashed(arguments: list[str]) -> list[str]:
    """The command that runs `arguments` on the leash of this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *arguments]


def _main() -> None:
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was set
        sys.exit("the server is gone")
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        sys.exit(f"cannot run {arguments[0]}: {error.strerror}")


if __name__ == "__main__":
    _main()
