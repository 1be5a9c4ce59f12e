"""The sweep engine: a whole grid as few compiled programs, in files that survive.

describe           a value as data, which gives a plan its hash
code               a hash of each module that a function can reach
config             what is compiled once (StaticConfig), and its cells (SweepGroup)
devices            every CPU core as a device; the memory that a program may take
persistent_cache   compiled programs on disk
program            one StaticConfig compiled: start, a segment of training, measures
compilation_cache  compiled programs in memory
training           the cells of a chunk in parallel; halved if memory runs out
assignment         the cells that a stage needs, each once, and those of a shard
manifest           what a directory says about itself; provenance
store              cells that all plans of a study share, and a directory for each plan
rows               from stored cells to rows of the table
session            a process that trains, measures or waits
study              stages, one after another
preview            what a run would do
launch             shards as jobs
"""
