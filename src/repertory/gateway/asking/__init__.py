"""What OpenAI's requests hold, and what clients of llama.cpp and vLLM add to them."""
