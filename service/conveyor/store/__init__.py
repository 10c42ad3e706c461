"""Where session states are kept outside the arena."""
