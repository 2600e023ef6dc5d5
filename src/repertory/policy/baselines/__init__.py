"""The rules of other systems, to compare ours with: each sees the same view.

A rule is asked what to bring up and what to take down; `core.rivals.rival` carries it out.
"""
