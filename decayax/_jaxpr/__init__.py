"""Jaxpr analysis: how the updates of an optimizer depend on the parameters."""
