"""Scale symmetries of a model, and what follows from them.

`scale_symmetries` finds the weights whose size a model does not see. `balance` moves
parameters along the joint symmetries to the point with the smallest norm. `models`
makes a function of the parameters from a module of Flax or Equinox.
"""
