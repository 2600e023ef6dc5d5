"""What is done for a request: taken in, run, and made ready to be carried to its client."""
