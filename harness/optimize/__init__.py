"""Build variants of a model: recipes as data, one step per file, a build cache."""
