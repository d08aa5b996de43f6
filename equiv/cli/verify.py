"""``equiv verify``."""
def verify() -> None:
    """x"""
