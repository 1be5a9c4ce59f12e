"""Reading programs: what the jaxpr of an optimizer does with the parameters."""
