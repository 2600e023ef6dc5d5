"""What the moves and steps of a model cost on this machine: issue 4's part of the GPU check."""
