"""The sections of `python -m hpt.bench`, one file each: `measure(options)` returns rows of figures."""
