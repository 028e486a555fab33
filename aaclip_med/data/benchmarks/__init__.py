"""Published benchmarks and one's own data in standard layouts, as cases of an index. See ``docs/benchmarks.md``."""
