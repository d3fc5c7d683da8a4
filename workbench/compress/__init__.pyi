from .recipe import Recipe as Recipe, check_order as check_order, sweep as sweep
from .steps import (
    STEP_TYPES as STEP_TYPES,
    Distill as Distill,
    Factorize as Factorize,
    Prune as Prune,
    PruneDepth as PruneDepth,
    Quantize as Quantize,
    Recover as Recover,
    Sparsify as Sparsify,
    Step as Step,
)
from .variant import LayerReport as LayerReport, StepReport as StepReport, Variant as Variant
