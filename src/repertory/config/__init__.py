"""What the operator wants, from four places: flags, the environment, the file, our defaults.

The first of them that speaks wins.
"""

from repertory.config.environment import Environment, read_environment
from repertory.config.keys import DEFAULT_HOST, DEFAULT_PORT
from repertory.config.memory import MemoryReading, read_memory
from repertory.config.names import read_names
from repertory.config.schema import schema_text
from repertory.config.serve import Flags, Found, is_yaml, serve_config
from repertory.config.units import size_bytes

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "Environment",
    "Flags",
    "Found",
    "MemoryReading",
    "is_yaml",
    "read_environment",
    "read_memory",
    "read_names",
    "schema_text",
    "serve_config",
    "size_bytes",
]
