"""A model to variants: recipes as data, one step per file, a build cache."""
