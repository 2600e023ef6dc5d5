""" "How long, how many bytes?": pure functions over measured and estimated costs."""
