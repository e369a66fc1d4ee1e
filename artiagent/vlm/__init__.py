"""Vision-language models behind one protocol: what agents ask, and who answers."""
