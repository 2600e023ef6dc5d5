"""How answers look on OpenAI's wire, whole and in pieces."""
