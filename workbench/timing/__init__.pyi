from .conditions import Conditions as Conditions, LoadMonitor as LoadMonitor
from .pace import Timing as Timing
