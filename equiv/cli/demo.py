"""``equiv demo``: the worked examples as a story. Every number is computed by `equiv.cli.worked` while you watch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from equiv.cli import worked
from equiv.report.terminal import Page
from equiv.verdict import Verdict


def show(section: int | None) -> None:
    """All sections, with a pause after each where somebody watches, or the one of this number."""
    page = Page()
    for number, tell in enumerate(SECTIONS, start=1):
        if section in (None, number):
            tell(page)
        if section is None and number < len(SECTIONS) and not _goes_on(page, number + 1):
            return
    page.heading("Next")
    steps = {
        "equiv counterexample 3x4x4 --out 8": "section 4 for a map of your own, or --weights of your own",
        "equiv diagnose NEW OLD --input 1x256": "where two models of yours part, and why",
        "equiv verify": "try to break the laws behind this, on every form and dtype",
        "equiv env": "what is tested here, and in which arithmetic",
    }
    page.lines([f"  {command:<38}{purpose}" for command, purpose in steps.items()], hanging=" " * 40)


def _is_watched() -> bool:
    """Whether somebody reads this on a terminal, and has a keyboard."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _goes_on(page: Page, number: int) -> bool:
    """Wait for a key where somebody watches; False after q."""
    if not _is_watched():
        return True
    asked = f"-- any key: section {number} of {len(SECTIONS)}; q: end --"
    page.console.print(asked, end="", style="dim")
    page.console.file.flush()
    try:
        return typer.getchar().lower() != "q"
    except EOFError:
        return False
    finally:
        page.console.file.write("\r" + " " * len(asked) + "\r")  # the question goes, the story stays


def three_forms(page: Page) -> None:
    """Section 1."""
    example = worked.seed_123()
    weights, biases = example.layer.weight.tolist(), example.layer.bias.tolist()
    outputs = example.forms[0].output.flatten().tolist()
    page.heading("1. One layer, carried out three ways")
    page.prose("""A fully connected layer that takes 4 numbers to 2 has 8 weights and 2 biases. These are the ones that
        torch draws after manual_seed(123). On the input 1, 2, 3, 4 an output is 4 products and a bias, summed:""")
    sums = [
        " + ".join(f"{x} x {w:.4f}" for x, w in enumerate(row, start=1)) + f" + {bias:.4f} = {y:.4f}"
        for row, bias, y in zip(weights, biases, outputs, strict=True)
    ]
    page.lines(sums, indent="  ", hanging="  ")
    page.prose("The same sums can be carried out in three forms. The first output in each of them:")
    page.verbatim(_drawing(weights[0], page.width), indent="  ")
    page.prose("""linear: one row of weights for each output. full: a convolution. The 4 numbers are a map of 1 channel
        with 2x2 positions, and the kernel, which holds the weights, is as large as the map: it fits in exactly one
        place. pointwise: another convolution. The 4 numbers are 4 channels, a | between them, of a map with one
        position, and the kernel, 1x1, sums over channels. All three have the same 10 numbers:""")
    _forms_table(page, example)
    said = "yes" if _are_equal(example.forms) else "no"
    page.prose(f"""Are they equal? == says {said} here, and that is all it can say. A verdict knows the layer and the
        input, and with them how far apart two right results can lie. It is one of four words:""")
    words = {
        "IDENTICAL": "the same bits",
        "ROUNDING": "other bits, as right results have that were summed in another order",
        "DIFFERENT": "no right result lies so far away: a defect",
        "UNDECIDED": "right results can lie anywhere here, so that nothing follows",
    }
    page.lines([f"{word:<10} {meaning}" for word, meaning in words.items()], indent="  ", hanging=" " * 11)
    found = " and ".join(f"{form.form} {form.verdict.outcome.name}" for form in example.forms[1:])
    page.prose(f"Beside the linear form, here: {found}.")


def _drawing(weights: Sequence[float], width: int) -> str:
    """One output in three forms: what it reads, and with which weights."""
    first, second, third, fourth = (f"{w:.{4 if width >= 66 else 2}f}" for w in weights)
    wide = max(len(first), len(third))
    return "\n".join(
        [
            "form       input          weights",
            f"linear     1, 2, 3, 4     {first}, {second}, {third}, {fourth}",
            f"full       1 2            {first:>{wide}}  {second}",
            f"           3 4            {third:>{wide}}  {fourth}",
            f"pointwise  1 | 2 | 3 | 4  {first} | {second} | {third} | {fourth}",
        ]
    )


def equal_bits(page: Page) -> None:
    """Section 2."""
    page.heading("2. Why == is luck, and a tolerance is a guess")
    page.prose("""Other numbers: the map holds 1, 2, 3, 4, the weights are 1.1 to 1.8, the biases 1.9 and 2.0, and ReLU
        follows, which keeps a number or makes it 0.""")
    forms = worked.two_by_two().forms
    page.lines([f"{form.form:<10} {_numbers(form.output.flatten().tolist())}" for form in forms], indent="  ")
    last, first = worked.two_orders(1e8, 1.0, -1e8)
    again = "Equal again" if _are_equal(forms) else "Equal to the digits that are shown"
    page.prose(f"""{again}, but 4 products leave little choice of order. A sum of floats depends on its order: in
        float32 (1e8 + 1) - 1e8 is {last:g}, and (1e8 - 1e8) + 1 is {first:g}. A matrix product and a convolution choose
        their own. But no order errs by more than follows from the number of the products and their sizes: around the
        exact sum lies an interval that no right result leaves, its envelope. One output of a layer with 16 inputs, o
        from the full form, x from the linear one:""")
    sixteen = worked.width(16)
    page.verbatim(_number_line(sixteen.verdict, min(page.prose_width, 76) - 4), indent="  ")
    page.prose("""So are layers of more inputs, on normal values. refused: outputs that torch.testing.assert_close
        refuses by default. worst: the largest error, where 1 is the edge of the envelope.""")
    rows = [sixteen if n == sixteen.in_features else worked.width(n) for n in worked.WIDTHS]
    cells = [
        (*(f"{number:,}" for number in (row.in_features, row.outputs, row.same_bits, row.refused)), *_judged(row))
        for row in rows
    ]
    page.table(("inputs", "outputs", "same bits", "refused", "worst", "verdict"), cells, left=0)
    wide = rows[-1]
    small = worked.width(wide.in_features, scale=2.0**-5)
    zero = worked.width(wide.in_features, scale=2.0**-24, zeros=True)
    page.prose(f"""With {wide.in_features:,} inputs assert_close {_refuses(wide)}, and all are right. Divide all weights
        by 32, which changes no digit of any result: it {_refuses(small)}, and the verdict stays
        {small.verdict.outcome.name} at {_ratio(small.verdict.max_ratio)}. Divide them by 2**24 and put zeros in place
        of the convolution: it {_refuses(zero)}, and the verdict is {zero.verdict.outcome.name},
        {zero.verdict.max_ratio or 0:,.0f} times outside. A tolerance knows neither the number of products nor their
        size; an envelope is made of them.""")
    large = (3e38, 3e38, -3e38)
    one, other = worked.two_orders(*large)
    page.prose(f"""And where even the order decides? (3e38 + 3e38) - 3e38 is {one:g} in float32, and (3e38 - 3e38) +
        3e38 is {other:g}. Neither of two kernels that differ so is shown to be wrong: the verdict is
        {worked.overflowing(*large).outcome.name}.""")


def _number_line(verdict: Verdict, width: int) -> str:
    """The entry that decides, between the edges of its envelope."""
    entry = verdict.worst
    if entry is None or entry.lower is None:
        return verdict.explanation
    line = list("[" + "-" * (width - 2) + "]")

    def place(value: float) -> int:
        share = float((value - entry.lower) / (entry.upper - entry.lower))
        return min(width - 2, max(1, round(share * (width - 1))))

    line[place(entry.expected)] = "x"
    line[place(entry.actual)] = "o"
    above = [" "] * width
    at = place(entry.exact)
    above[at - 2 : at + 3] = list("exact")
    below = f"{entry.lower:.9g}".ljust(width - len(f"{entry.upper:.9g}")) + f"{entry.upper:.9g}"
    return "\n".join(["".join(above).rstrip(), "".join(line), below])


def two_networks(page: Page) -> None:
    """Section 3."""
    first = worked.LAYERS[0]
    elu, sigmoid = worked.networks("ELU", 1.0), worked.networks("sigmoid", 0.001)
    page.heading("3. Two networks with the same weights and different results")
    page.prose(f"""A question from a forum, eight posts long. One network has Linear layers
        {" -> ".join(map(str, worked.LAYERS))}, the other 1x1 convolutions of the same sizes; every weight and bias is
        1, ELU follows all layers but the last, the inputs are {worked.BATCH} x {worked.SAMPLES} samples of {first}
        normal values. The results are not the same. Where is the mistake?

        The convolutions see maps of {first} channels with {worked.SAMPLES} positions, one for each sample, and a 1x1
        convolution is one layer applied at each position. The Linear layer is applied to each sample. So the two are
        the same function. (They are not if the layer takes all positions together: section 4.)

        The results reach {elu.largest_logit:.4g}, and differ by {elu.difference:.4g} at most, which is
        {elu.difference / elu.largest_logit:.1e} of that. Is it rounding? There are two questions for each layer. Alone,
        on the same input, does the convolution stay in its envelope: worst and verdict, as in section 2. And on their
        way through the networks, how far do the two come apart, and which part is that of bound, the most that right
        networks can differ at this layer? The bound grows from layer to layer: the weights multiply what came before,
        and each sum adds its own envelope.""")
    _layers_table(page, elu)
    page.prose(f"""{_networks_verdict(elu)}

        The last post put sigmoid for ELU and weights of 0.001, and the difference went away. It went as far as the
        numbers did:""")
    _layers_table(page, sigmoid)
    page.prose(f"""The results reach {sigmoid.largest_logit:.4g} now and differ by {sigmoid.difference:.2g}, which is
        {sigmoid.difference / sigmoid.largest_logit:.1e} of that. {_networks_verdict(sigmoid)}

        Assumed: a computed ELU or sigmoid is at most {worked.ACTIVATION_ULPS} units of 2**-24 from the exact one.
        Measured here: {elu.activation_error:.2f} and {sigmoid.activation_error:.2f}.""")


def not_the_layer(page: Page) -> None:
    """Section 4."""
    example = worked.not_the_layer()
    found = example.found
    channels, positions = found.conv_output_shape[0], found.in_features
    page.heading("4. Where it is not true")
    page.prose("""Take the layer of section 1 and leave its input a map of 1 channel and 2x2 positions, (1, 2, 2). A 1x1
        convolution from 1 channel to 2 runs on it without complaint. It is another function, which the sizes already
        say:""")
    shapes = (str(found.feature_shape), str(found.conv_output_shape))
    rows = [
        (
            "fully connected",
            f"({found.in_features},)",
            f"({found.out_features},)",
            found.out_features,
            found.layer_weights,
        ),
        ("1x1 convolution", *shapes, channels * positions, found.conv_weights),
    ]
    page.table(("", "input", "output", "results", "weights"), [tuple(map(str, row)) for row in rows])
    page.prose(f"""Summing each output channel over its {positions} positions makes the sizes fit, and nothing else. For
        the input 1, 2, 3, 4 the closest 1x1 convolution, the one whose weights are the means of the layer's, gives
        {_numbers(example.conv_output.sum(1).tolist())} where the layer gives {_numbers(example.layer_output.tolist())}.

        The smallest input that tells them apart is called a witness. Here it has a single 1, at
        x{list(found.witness_index or ())}, and output {list(found.output_index or ())} is {found.expected:.4f} from the
        layer and {found.actual:.4f} from the convolution. Why: {found.reason}.

        What the convolution really is: its kernel K, {channels} numbers, at each of {positions} positions. Over the
        flattened map that is a matrix which repeats K along a diagonal of {positions}, written K (x) I_{positions}, a
        Kronecker product. A dot is a 0 that no choice of weights can change, {found.dense_nonzeros} of
        {found.dense_entries} entries are none:""")
    if found.picture:
        page.verbatim("\n".join(found.picture.splitlines()[1:]), indent="  ")
    page.prose("""A layer over a flattened map with more than one position is a 1x1 convolution only if its own matrix
        has this pattern. If it has not, use a kernel as large as the map, as in section 1.""")


SECTIONS = (three_forms, equal_bits, two_networks, not_the_layer)


def _are_equal(forms: Sequence[worked.FormResult]) -> bool:
    """Whether all outputs have the same values."""
    return all(form.output.flatten().equal(forms[0].output.flatten()) for form in forms)


def _forms_table(page: Page, example: worked.Example) -> None:
    rows = [
        (
            form.form,
            *(str(tuple(tensor.shape)) for tensor in (form.weight, form.input, form.output)),
            _numbers(form.output.flatten().tolist()),
        )
        for form in example.forms
    ]
    page.table(("form", "weight", "input", "output", "values"), rows)


def _layers_table(page: Page, found: worked.Networks) -> None:
    rows = [
        (
            f"{step.in_features} -> {step.out_features}",
            f"{step.verdict.counts['identical'] / step.verdict.counts['total']:.1%}",
            *_judged(step),
            f"{step.difference:.2g}" if step.difference < 1 else f"{step.difference:,.0f}",
            _ratio(step.fraction),
        )
        for step in found.layers
    ]
    page.table(("layer", "same bits", "worst", "verdict", "apart", "of bound"), rows)


def _networks_verdict(found: worked.Networks) -> str:
    right = sum(step.verdict.equivalent for step in found.layers)
    last = found.layers[-1]
    if right == len(found.layers) and last.fraction <= 1:
        return f"""Verdict: ROUNDING. All {right} convolutions stay in their envelopes, and the {found.outputs} results
            differ by at most {_ratio(last.fraction)} of the bound ({last.bound:.2g} for the worst one). There is no
            mistake to find."""
    return f"""Verdict: DIFFERENT. {len(found.layers) - right} of {len(found.layers)} convolutions leave their
        envelopes, and the results reach {_ratio(last.fraction)} of the bound."""


def _judged(found: worked.Width | worked.LayerStep) -> tuple[str, str]:
    return _ratio(found.verdict.max_ratio), found.verdict.outcome.name


def _refuses(width: worked.Width) -> str:
    return f"refuses {width.refused:,} of {width.outputs:,} outputs" if width.refused else "accepts all outputs"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
