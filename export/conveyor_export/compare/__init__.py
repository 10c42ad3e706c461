"""Trains architectures of one size on the same tasks, and says what each of them costs."""
