from .artifact import Artifact as Artifact, open_artifact as open_artifact
from .cache import PrefixCache as PrefixCache
from .load import load_module as load_module
from .reference import Reference as Reference
from .save import save_variant as save_variant
