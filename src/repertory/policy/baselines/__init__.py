"""The rules of other systems, to compare ours with: each plays on the same stage.

A rule is asked what to bring up and what to take down; `core.rival` carries it out.
"""
