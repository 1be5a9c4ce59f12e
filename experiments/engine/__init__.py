"""The sweep engine: a whole grid as few compiled programs, in files that survive.

describe   what a value is, as data: the plan's hash
plan       what is compiled once (Static), and the cells that share it (Block)
devices    every core a device; how much memory a program may take
program    one Static compiled: start, a segment of training, measurement
chunks     a block's cells in chunks of one size; halved where memory ends
store      a results directory: whole files, told apart by the plan's hash
study      stages of pieces: what is missing is made, by one process or by many
"""
