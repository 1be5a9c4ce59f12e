"""How strong a weight decay is: what known recipes amount to."""
