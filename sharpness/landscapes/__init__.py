"""Landscapes by name: loss and accuracy on lines, rays, planes and curves, each a frozen dataclass of knobs."""
