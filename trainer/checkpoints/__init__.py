"""What is kept of a run: the `file` format, where it lies (`storage`), who writes it (`saver`), how it is opened
(`trained`).
"""
