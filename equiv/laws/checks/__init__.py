"""The fifteen laws: one function each, registered when its module is imported."""

from equiv.laws.checks import derivatives, maps, memory, modules, sizes, values

__all__ = ["derivatives", "maps", "memory", "modules", "sizes", "values"]
