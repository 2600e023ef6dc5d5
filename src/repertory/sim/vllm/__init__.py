"""One vLLM engine under virtual time: its scheduler, its KV blocks, step times from profiles."""
