"""Which model is the champion: the gate's rule, its evidence, the card of a version. Knows no registry."""
