"""A device that is no CPU, without a GPU: `python -m repertory.testing.rpc_device HOST:PORT`.

An RPC server of llama.cpp, in this process, that computes on its cores.  For loopback only.
"""

import ctypes
import sys

from repertory.engines.llamacpp import library

__all__ = ["serve"]


def serve(endpoint: str) -> None:
    """Until the process ends."""
    library.start()
    find = library.api._lib.ggml_backend_dev_by_name
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    devices = (ctypes.c_void_p * 1)(find(b"CPU"))
    run = library.api._lib.ggml_backend_rpc_start_server
    text, size = ctypes.c_char_p, ctypes.c_size_t
    run.restype, run.argtypes = None, [text, text, size, size, ctypes.c_void_p]
    run(endpoint.encode(), None, 1, 1, ctypes.cast(devices, ctypes.c_void_p))


if __name__ == "__main__":
    serve(sys.argv[1])
