"""The JSON schema of `repertory.yaml`, for editors and for programs that write one."""

import json

from repertory.config.keys import FILE

__all__ = ["schema_text"]


def schema_text() -> str:
    """The document, as it is committed under docs/."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "repertory.yaml",
        "description": "What `repertory serve` serves, and from how much.",
        **FILE.schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
