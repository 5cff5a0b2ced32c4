"""Strategies: each a file, each a final class with three pure functions of the history."""
