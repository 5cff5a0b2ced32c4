"""Near-duplicates by MinHash: texts -> shingles -> signatures -> band keys -> candidates -> checked pairs -> clusters.

Pure functions on numpy and Arrow arrays: no file, clock, process or Ray (those are in `trainer.data.cleaning`).
"""

from trainer.data.deduplication.settings import LIKE as LIKE
from trainer.data.deduplication.settings import Settings as Settings
