"""What moves cost, and whether generations survive them."""
