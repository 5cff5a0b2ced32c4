"""One run: model, data, optimiser, loop, checkpoints, evaluations. Ray only in distributed.py."""

import os

# Threads that spin while they wait for each other lose nearly all speed where other work shares the cores: 900 tokens/s
# against 9,000 to 19,000 on two busy cores. Read when PyTorch loads its threads, so it is set before anything imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
