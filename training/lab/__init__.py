"""The laboratory: every method of distillation on one teacher, with equal budgets, in one table."""
