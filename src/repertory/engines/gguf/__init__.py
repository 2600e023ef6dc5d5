"""GGUF files: what they are and which there are, read from their heads; and how to make some."""
