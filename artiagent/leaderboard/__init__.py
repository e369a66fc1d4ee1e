"""All evaluations of this machine side by side, with the paper's own table quoted beside them."""
