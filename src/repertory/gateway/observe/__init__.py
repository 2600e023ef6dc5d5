"""What is measured: the catalogue of metrics, the numbers, and what is drawn from them."""
