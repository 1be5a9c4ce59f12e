"""Training with 16-bit weights: stochastic rounding, or error compensation.

`grid` is the arithmetic and `random_bits` its randomness. `stochastic` rounds each
update at random, `compensated` rounds to the nearest and keeps the residual, and
`state_dtype` stores moments in 16 bits.
"""
