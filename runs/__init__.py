"""Reading runs: open, walk, query, compare, archive. What has to execute tasks is passed in by the caller."""
