"""Items in worker processes: what a kernel does to its process costs that process, and one item.

A worker is asked for one item after another over a pipe of ``multiprocessing``, and replaced when it dies.
"""

from equiv.laws.isolation.limits import Limits, limits_of
from equiv.laws.isolation.pool import Pool, close_shared_pool, run_isolated
from equiv.laws.isolation.worker import end_server

__all__ = ["Limits", "Pool", "close_shared_pool", "end_server", "limits_of", "run_isolated"]
