"""A YAML of names to names: what a workload calls a model, and what a server does."""

from pathlib import Path

from repertory.config.nodes import read_yaml
from repertory.domain.errors import ConfigError

__all__ = ["read_names"]


def read_names(path: Path) -> dict[str, str]:
    """`ConfigError` with its place for whatever is not a mapping of words."""
    try:
        root = read_yaml(path.read_text(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is no text") from None
    names: dict[str, str] = {}
    for name, value in root.pairs():
        if name.key() in names:
            raise name.wrong("is there twice")
        names[name.key()] = value.text()
    return names
