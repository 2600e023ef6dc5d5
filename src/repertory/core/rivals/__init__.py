"""Other systems' rules, carried out in simulations."""
