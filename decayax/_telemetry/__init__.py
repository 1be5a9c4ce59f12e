"""What decay is applied while training, measured inside the optimizer's state.

`track` wraps an optimizer, `exactness` reads from the jaxpr where a derivative shows
the decay, `measure` computes the sums of one step, `stats` turns the sums into
statistics for a logger, and `table` shows them.
"""
