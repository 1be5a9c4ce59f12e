"""The sweep engine: train a grid of runs with few compiled programs.

describe           a value as plain data, which gives a plan its hash
code               a hash of every module that a function can reach
config             what is compiled once (StaticConfig), and its cells (SweepGroup)
devices            every CPU core as a device; the memory that a program may use
persistent_cache   compiled programs on disk
one_run            one run as pure functions: train some epochs, measure
program            one StaticConfig, compiled for many cells in parallel
compilation_cache  compiled programs in memory
training           the cells of a chunk in parallel; fewer at once if memory is full
assignment         which cells a stage needs, each once, and which a shard trains
manifest           the description of a results directory; provenance
store              files: cells that all plans of a study share, a directory per plan
rows               from stored cells to the rows of the table
session            one process that trains, measures, and waits for other shards
study              stages, one after another
preview            what a run would do
launch             shards as jobs
"""
