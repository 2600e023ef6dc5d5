"""A device that is no CPU: a loopback RPC server of the library stands in for a GPU."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

SERVER = """
import ctypes, sys
from repertory.engines.llamacpp import library
library.start()
find = library.api._lib.ggml_backend_dev_by_name
find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
devices = (ctypes.c_void_p * 1)(find(b"CPU"))
serve = library.api._lib.ggml_backend_rpc_start_server
serve.restype = None
text, size = ctypes.c_char_p, ctypes.c_size_t
serve.argtypes = [text, text, size, size, ctypes.c_void_p]
serve(sys.argv[1].encode(), None, 1, 1, ctypes.cast(devices, ctypes.c_void_p))
"""


@dataclass
class RpcServer:
    """The device's own process."""

    endpoint: str
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def rpc_server() -> Iterator[RpcServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"127.0.0.1:{port}"
    server = subprocess.Popen(
        # Freed memory goes back to the kernel: else what was freed and what is held look alike.
        ["env", "MALLOC_MMAP_THRESHOLD_=1048576", sys.executable, "-c", SERVER, endpoint],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while server.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
        yield RpcServer(endpoint, server)
    finally:
        server.kill()
        server.wait()
