"""What the trained models are good for: search among generations, correction of images, audit of generators.

``judges`` says who scores an image; ``search``, ``correction`` and ``audit`` each own one application.
"""
