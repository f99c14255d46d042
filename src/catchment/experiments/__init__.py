"""Runs, and what a run is: data, disturbance, method, training, numbers."""
