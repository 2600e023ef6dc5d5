"""The commands that play the brain without a server: simulate, plan, replay."""
