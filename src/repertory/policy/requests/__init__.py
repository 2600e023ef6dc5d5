"""Choices about requests: admission, order, slots, steps, stops."""
