from .form import Form as Form
from .panel import Workbench as Workbench
