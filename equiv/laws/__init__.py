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

from equiv.laws import checks as _checks
from equiv.laws.call import Broken, Call, Tally
from equiv.laws.measuring import MODES as MODES
from equiv.laws.profiles import PROFILES, Profile, profile_of
from equiv.laws.registry import LAWS, Context, Law, law
from equiv.laws.runner import Item, Result, items, listeners, run_item
from equiv.laws.runner import check_backends as check_backends
from equiv.laws.runner import chosen_words as chosen_words
from equiv.laws.trial import Trial
from equiv.laws.witness.failure import Failure

for _id, _law in sorted(LAWS.items(), key=lambda pair: pair[1].number):
    LAWS[_id] = LAWS.pop(_id)  # in the order of their numbers, whatever the order of imports
_CHECKS = _checks

__all__ = [
    "LAWS",
    "PROFILES",
    "Broken",
    "Call",
    "Context",
    "Failure",
    "Item",
    "Law",
    "Profile",
    "Result",
    "Tally",
    "Trial",
    "items",
    "law",
    "listeners",
    "profile_of",
    "run_item",
]
