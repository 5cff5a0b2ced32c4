"""Which smaller runs there are: a ladder of the target's family, or the nearest of a given menu."""
