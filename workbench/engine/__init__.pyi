from .autotune.result import TunedSetting as TunedSetting, TuneResult as TuneResult
from .backends import backend_status as backend_status
from .calls.batching import InferenceMetrics as InferenceMetrics, InferenceResult as InferenceResult
from .config import InferenceConfig as InferenceConfig, QuantizationConfig as QuantizationConfig
from .engine import OptimizedInferenceEngine as OptimizedInferenceEngine
from .inference_model import InferenceModel as InferenceModel, load_variant as load_variant
from .precision import Precision as Precision
