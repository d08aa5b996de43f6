"""The laws that every right implementation obeys, their registry, and how to run them without a test framework.

Example:
    >>> from equiv.backends import TorchEager
    >>> item = items([TorchEager()], laws=["forward"], dtypes=["float32"])[0]
    >>> result = run_item(item, examples=5, seed=1)
    >>> result.failure is None, result.examples >= 5
    (True, True)
"""

try:
    import hypothesis as _hypothesis  # noqa: F401 - a clear message before the modules below need it
except ImportError as error:  # pragma: no cover - needs an environment without hypothesis
    from equiv.errors import MissingExtraError

    raise MissingExtraError(
        "equiv.laws: expected the package hypothesis, got none; pip install 'torch-equiv[test]'"
    ) from error

from equiv.laws import checks as checks
from equiv.laws.against import OUTCOMES as OUTCOMES
from equiv.laws.against import Against as Against
from equiv.laws.against import Fault as Fault
from equiv.laws.against import Pair as Pair
from equiv.laws.against import pairs_of as pairs_of
from equiv.laws.against import run_pair as run_pair
from equiv.laws.arithmetic import MODES as MODES
from equiv.laws.asking import refusal_of as refusal_of
from equiv.laws.call import Broken, Call, Mismatch, Tally
from equiv.laws.capabilities import NotAsked
from equiv.laws.capabilities import check_backends as check_backends
from equiv.laws.checks.boundaries import SizedCase
from equiv.laws.known import known_defect as known_defect
from equiv.laws.known import known_refusal as known_refusal
from equiv.laws.profiles import PROFILES, Profile, profile_of
from equiv.laws.reach import Reach
from equiv.laws.registry import LAWS, Context, Law, law
from equiv.laws.repeatable import repeatable as repeatable
from equiv.laws.runner import Result, listeners, run_item
from equiv.laws.selection import Item, Plan, items
from equiv.laws.selection import chosen_words as chosen_words
from equiv.laws.selection import plan as plan
from equiv.laws.state import changes_in_words as changes_in_words
from equiv.laws.state import unchanged as unchanged
from equiv.laws.trial import Trial
from equiv.laws.witness import Attempt, Failure, check_case
from equiv.laws.witness import command_of as command_of
from equiv.laws.witness import read_case as read_case
from equiv.laws.witness import trimmed as trimmed

from equiv.laws.isolation import Limits, Pool, close_shared_pool, run_isolated  # isort: skip
from equiv.laws.isolation import end_server as end_server, limits_of as limits_of  # isort: skip

__all__ = [
    "LAWS",
    "PROFILES",
    "Attempt",
    "Broken",
    "Call",
    "Context",
    "Failure",
    "Item",
    "Law",
    "Limits",
    "Mismatch",
    "NotAsked",
    "Plan",
    "Pool",
    "Profile",
    "Reach",
    "Result",
    "SizedCase",
    "Tally",
    "Trial",
    "check_case",
    "close_shared_pool",
    "items",
    "law",
    "listeners",
    "profile_of",
    "run_isolated",
    "run_item",
]
