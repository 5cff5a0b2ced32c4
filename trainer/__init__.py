"""One training run: model, data, optimiser, loop, checkpoints, evaluations. Knows nothing of searches.

Begin with `config` (what a run is) and `loop` (how it is trained); `final` is the run that must not be lost.
"""

import os

# Threads that spin while they wait for each other lose nearly all speed where other work shares the cores: 900
# tokens/s against 9,000 to 19,000 on two busy cores. PyTorch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
