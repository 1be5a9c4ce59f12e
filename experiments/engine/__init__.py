"""The sweep engine: a whole grid as few compiled programs, in files that survive.

describe   what a value is, as data: the plan's hash
code       what a function is: a hash of each module that it can reach
plan       what is compiled once (Static), and the cells that share it (Block)
devices    every core a device; how much memory a program may take
compiled   compiled programs on disk
program    one Static compiled: start, a segment of training, measurement
chunks     cells side by side; halved where memory ends
wanted     the cells that a stage wants, each once, and those of a shard
manifest   what a directory says of itself, and what its numbers depend on
store      cells that all plans of a study share, and a directory for each plan
rows       from stored cells to rows of the table
session    a process that trains, measures or waits
study      stages, one after the other
preview    what a run would do
launch     shards as jobs
"""
