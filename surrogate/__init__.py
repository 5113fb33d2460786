"""Train on the metric you report: learn a differentiable loss for any metric."""
