"""A device that is no CPU: a loopback RPC server of the library stands in for a GPU."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_DEVICE = "repertory.testing.rpc_device"


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
        ["env", "MALLOC_MMAP_THRESHOLD_=1048576", sys.executable, "-m", _DEVICE, endpoint],
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
