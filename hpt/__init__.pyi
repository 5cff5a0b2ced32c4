from hpt.api import Search as Search
from hpt.api import find_lr as find_lr
from hpt.api import load as load
from hpt.api import presets as presets
from hpt.api import regrets as regrets
from hpt.api import truth as truth
from hpt.reports.judged import Judged as Judged
from search.records import Recommendation as Recommendation
from search.strategy import Strategy as Strategy
from trainer.errors import UserError as UserError

__version__: str
HOME: str
