"""Curated data sets as things to hand on: cards, exports, differences, and finding them by digest."""
