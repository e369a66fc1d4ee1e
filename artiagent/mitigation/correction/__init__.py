"""Correction of faulty images: locate, describe, repaint, and keep only what two judges prefer.

Read ``loop`` first; ``places`` says where to repaint, ``witness`` what the VLM tells, ``panel`` who takes part,
``windows`` how images of any size reach an inpainter. ``stage`` runs a benchmark, ``figures`` says how well it went,
``files`` does a person's images.
"""
