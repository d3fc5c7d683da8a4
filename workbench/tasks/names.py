"""Names of the built-in tasks, without torch."""

BUILTIN_NAMES = ("digits", "digits_vit", "minilm")
