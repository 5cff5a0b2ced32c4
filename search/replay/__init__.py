"""Strategies on recorded sweeps: a `table` becomes a `world` that answers trials, `arena` judges who finds the best
lr.
"""
