"""Several runs in one process: `cohort` trains them in lock step, fused or in turn; calibration and memory decide how
many.
"""
