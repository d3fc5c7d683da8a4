from .blocks_in_turns import Timing as Timing
from .conditions import Conditions as Conditions, Watch as Watch
