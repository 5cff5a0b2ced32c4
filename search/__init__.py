"""Which trials to run, and for how much.

The words come first: `records` (trials, history, recommendation), `budget`, `strategy`. Then the rooms, each of which
may import those before it: `shapes` (smaller runs), `execution` (sessions, files, Ray Tune) and `evidence` (from trials
to an optimum), `transfer` (how our own strategy thinks), `strategies` (one file each), `replay` (on recorded sweeps).
"""
