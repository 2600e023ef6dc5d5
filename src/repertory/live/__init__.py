"""Driver 2: the brain under asyncio and the wall clock."""
