"""Measures an engine on its devices: from the contract of `engines.contract` to `perf.readings`.

It knows no engine.  What it reads of the fake one, under the virtual clock, is the fake's own law.
"""
