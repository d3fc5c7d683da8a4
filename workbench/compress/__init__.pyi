from .recipe import Recipe as Recipe
from .recipe_sweep import sweep as sweep
from .step_rules import check_order as check_order
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
