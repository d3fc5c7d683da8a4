from .conditions import Conditions as Conditions, LoadMonitor as LoadMonitor
from .summary import Timing as Timing
