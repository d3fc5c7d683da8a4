from .bundle.artifact_bench import bench_artifact as bench_artifact
from .cluster.connection import Cluster as Cluster
from .cluster.job import ClusterSummary as ClusterSummary
from .config import RunConfig as RunConfig, SearchConfig as SearchConfig
from .execution.job import Job as Job, RunSummary as RunSummary
from .execution.seed_variance import SeedVariance as SeedVariance
from .plan.recipes import default_recipes as default_recipes
from .results.merge import MergeSummary as MergeSummary
from .results.ranking import Recommendation as Recommendation
from .results.schema import COLUMNS as COLUMNS, STATES as STATES, TrialRow as TrialRow
from .search.domain import between as between, choice as choice, maybe as maybe, vary as vary
from .search.goals import Goals as Goals
from .search.history import History as History, SearchResult as SearchResult
from .search.space import Space as Space
from .study import Study as Study
