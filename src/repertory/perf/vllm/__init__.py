"""How long a step of vLLM takes on a GPU: a model's shape, kernel times read elsewhere, a batch."""
