"""The inner problem: solvers, and the inverse-Hessian estimate that they return."""
