"""Somebody else's trainer: a command or a Python function, run in a process of its own for each trial.

`template` fills a command, `losses` reads what it says, `guard` ends its processes, `command` puts them together;
`call` is what runs a function in its process. Light: nothing here imports torch or Ray.
"""
