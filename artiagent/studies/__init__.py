"""Studies of fine-tuning: groups of rows, each with several seeds, compared on one benchmark."""
