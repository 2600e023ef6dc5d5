"""The one brain: state, `Controller.handle`, invariants, the decision record."""
