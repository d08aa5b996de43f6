"""The laws by id: what each says, which forms and dtypes it is about, what it draws and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy

from equiv.arguments import check_bool, check_choices, check_integer, check_number, check_words, refusal
from equiv.backends import FORMS
from equiv.laws.call import Broken, is_control, kind_of_error
from equiv.laws.capabilities import NotServed
from equiv.laws.reach import Reach
from equiv.laws.state import Watch, changes_in_words, unchanged
from equiv.laws.trial import Trial
from equiv.text import quoted

Check = Callable[[Trial, Any], None]


@dataclass(frozen=True)
class Context:
    """What a law's strategy is made for.

    ``ranks`` are those of maps that the backend serves, ``largest`` the entries of the largest tensor; None for any.

    Example:
        >>> Context(torch.bfloat16, torch.device("cpu"), deep=False).kind
        'float'
    """

    dtype: torch.dtype
    device: torch.device
    deep: bool
    ranks: tuple[int, ...] = (1, 2, 3)
    largest: int | None = None

    @property
    def kind(self) -> str:
        """``float``, ``complex`` or ``integer``."""
        return kind_of(self.dtype)

    @property
    def is_wide(self) -> bool:
        """Whether exact references cost double-double arithmetic: draw smaller cases."""
        return self.dtype in (torch.float64, torch.complex128)


def kind_of(dtype: torch.dtype) -> str:
    """``float``, ``complex`` or ``integer``."""
    return "complex" if dtype.is_complex else "float" if dtype.is_floating_point else "integer"


@dataclass(frozen=True)
class Law:
    """One sentence that holds for every right implementation, and the function that checks it.

    Example:
        >>> from equiv.laws import LAWS
        >>> LAWS["exact"].number, LAWS["exact"].sentence
        (2, 'On integer probes all forms give the same bits, and they are the exact integer result.')

    Attributes:
        id: Stable name, part of every item's id.
        number: Its place in the list of laws.
        title: Two or three words.
        sentence: What must hold.
        forms: The forms that it judges.
        kinds: The kinds of dtype that it is about.
        draw: From a :class:`Context`, the strategy of its cases.
        check: Raises :class:`equiv.laws.Broken` when the law does not hold for a case.
        weight: Multiplies the profile's number of examples.
        needs_torch: Whether it is about torch's own machinery: modules, autograd, compile.
        reaches: The conditions that it meets in a full run, beside those of all cases.
        every: Beside ``draw``, strategies that each get some of the cases, where there are enough for all of them:
            what is drawn is clustered, and what must be met in every run is listed.
    """

    id: str
    number: int
    title: str
    sentence: str
    forms: tuple[str, ...]
    kinds: tuple[str, ...]
    draw: Callable[[Context], SearchStrategy[Any]]
    check: Check
    weight: float
    needs_torch: bool
    reaches: tuple[Reach, ...] = ()
    every: Callable[[Context], Sequence[SearchStrategy[Any]]] | None = None

    def drawn(self, context: Context, examples: int) -> list[tuple[SearchStrategy[Any], int]]:
        """Strategies, and how many of the cases each gets: three quarters of them go to those of :attr:`every`.

        The first that Hypothesis draws is the simplest: where each would get that alone, all are drawn freely.
        """
        listed = self.every(context) if self.every else ()
        share = 3 * examples // (4 * len(listed)) if listed else 0
        share = share if share > 1 else 0
        found = [(self.draw(context), examples - share * len(listed))]
        return found + [(one, share) for one in listed if share]

    def try_on(self, trial: Trial, case: Any) -> None:
        """:attr:`check`, where anything that a check stumbles over in what a backend returned breaks the law too.

        A form that is not served for the case is left out of it, and the others are judged. A backend that leaves
        torch's global state changed breaks every law. The state is put back.

        Raises:
            Broken: The law does not hold for the case.
        """
        trial.law = self.id
        if trial.watch is None:
            trial.watch = Watch()
        with trial.watch.case() as changes:
            broken = self._broken(trial, case)
        if changes:
            raise Broken(changes_in_words(changes), form=self._who_changes(trial, case), kind="state") from broken
        if broken is not None:
            raise broken

    def _broken(self, trial: Trial, case: Any) -> Broken | None:
        """How a case breaks the law, or a backend the check."""
        try:
            self.check(trial, case)
        except Broken as broken:
            return broken
        except NotServed as refused:
            return self._others_broken(trial, case, refused)
        except BaseException as error:
            if is_control(error):
                raise
            said = f"{type(error).__name__}: {quoted(error)}"
            what = "returns what the check cannot handle," if isinstance(error, Exception) else "raises"
            return Broken(f"{what} {said}", form=_form_of(trial), error=error, kind=kind_of_error(error))
        return None

    def _others_broken(self, trial: Trial, case: Any, refused: NotServed) -> Broken | None:
        """How a case breaks the law in the forms that are served for it."""
        trial.cover("calls not served", refused.form)
        if trial.coverage["calls not served"][refused.form] == 1:  # the first reason stands for all
            trial.leave_out("calls", refused.form, refused.reason, how="found")
        others = tuple(form for form in trial.forms if form != refused.form)
        return self._broken(replace(trial, forms=others), case) if others and others != trial.forms else None

    def _who_changes(self, trial: Trial, case: Any) -> str:
        """The first form that changes torch's state alone; ``all`` where none does."""
        for form in trial.forms:
            alone = Trial(trial.backend, trial.dtype, (form,), trial.deep, trial.measured)
            alone.law = self.id
            with unchanged() as changes:
                self._broken(alone, case)
            if changes:
                return form
        return "all"


def _form_of(trial: Trial) -> str:
    return trial.forms[0] if len(trial.forms) == 1 else "all"


LAWS: dict[str, Law] = {}
"""Every law by id, in the order of their numbers.

Example:
    >>> from equiv.laws import LAWS
    >>> list(LAWS)[:2]
    ['forward', 'exact']
"""


def law(  # noqa: PLR0913 - what a law is, all by name
    number: int,
    title: str,
    *,
    draw: Callable[[Context], SearchStrategy[Any]],
    forms: tuple[str, ...] = FORMS,
    kinds: tuple[str, ...] = ("float", "complex", "integer"),
    weight: float = 1.0,
    needs_torch: bool = False,
    reaches: Sequence[Reach] = (),
    every: Callable[[Context], Sequence[SearchStrategy[Any]]] | None = None,
) -> Callable[[Check], Check]:
    """Register a check as a law: its name becomes the id, the first paragraph of its docstring the sentence.

    Raises:
        EquivError: An argument of the wrong kind, a form or a kind that there is not, or what is no function.

    Example:
        >>> from equiv.laws import LAWS
        >>> from equiv.strategies import cases
        >>> @law(99, "zero", draw=lambda context: cases(dtype=context.dtype, bias=False, layouts=False))
        ... def zero_gives_zero(trial, case):
        ...     '''The zero input gives zero where there is no bias.'''
        ...     for call in trial.calls(torch.zeros_like(case.x), case.weight, None, case.feature_shape):
        ...         y = trial.run(call)
        ...         trial.same(call, y, torch.zeros_like(y))
        >>> LAWS["zero_gives_zero"].sentence
        'The zero input gives zero where there is no bias.'
        >>> del LAWS["zero_gives_zero"]  # a law stays until it is taken back
    """
    check_integer("number", number, least=0)
    check_words("title", title)
    check_number("weight", weight, advice="pass 1.0 for the profile's number of examples")
    check_bool("needs_torch", needs_torch)
    check_choices("forms", forms, FORMS)
    check_choices("kinds", kinds, ("float", "complex", "integer"))
    if not callable(draw):
        raise refusal("draw", "a function from a Context to a strategy", draw, "see equiv.strategies.cases")
    if every is not None and not callable(every):
        raise refusal("every", "a function from a Context to strategies", every, "leave it out")
    if not isinstance(reaches, (list, tuple)) or not all(isinstance(one, Reach) for one in reaches):
        raise refusal("reaches", "a list of equiv.laws.Reach", reaches, 'pass [Reach("transform", ("vmap",))]')

    def register(check: Check) -> Check:
        if not callable(check) or not hasattr(check, "__name__"):
            raise refusal("check", "a function of a trial and a case", check, "decorate the function that checks")
        sentence = " ".join((check.__doc__ or "").split("\n\n")[0].split())
        about = (check.__name__, number, title, sentence, forms, kinds)
        new = Law(*about, draw, check, weight, needs_torch, tuple(reaches), every)
        ordered = sorted((*LAWS.values(), new), key=lambda law: law.number)
        LAWS.clear()
        LAWS.update((law.id, law) for law in ordered)
        return check

    return register
