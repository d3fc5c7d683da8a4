from .builtin import digits as digits, digits_vit as digits_vit
from .load import load_task as load_task
from .sentences import minilm as minilm
from .split import Split as Split
from .task import Task as Task
