"""Images on this node: what an attempt is to run in is brought here once, however many wait for it."""
