"""The commands about models, and about kernels that were written for a benchmark."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from equiv.cli.options import LARGEST_SEED, MANY, WEIGHTS, Device, Dtype, Html, Json, Seed

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="16x5x256: normal values. 16x5x256:float16. 2x16:int64:1000: integers below 1000 (10 if not given). "
        "Or a .pt, .safetensors or .npy file of tensors. name=SHAPE for a keyword argument. Once for each input.",
    ),
]
Evaluation = Annotated[
    bool | None,
    typer.Option(
        "--eval/--no-eval",
        help="Evaluation mode, or as the code leaves it. If not given: evaluation for what is called here.",
        show_default=False,
    ),
]
_MODEL = (
    "path.py:object or package.module:object: a module, a function of tensors, or what makes one when it is called "
    "without arguments, as a class or a function whose arguments all have defaults."
)
_ONNX = " Or a file.onnx."


def _setting(input: list[str] | None, seed: str, dtype: str | None, device: str, evaluate: bool | None) -> Any:
    """What was typed for models and inputs, checked."""
    from equiv.arguments import check_device
    from equiv.cli.diagnose import Setting
    from equiv.cli.inputs import check_names, parse_input
    from equiv.dtypes import BY_NAME, is_inexact
    from equiv.errors import EquivError
    from equiv.parsing import parse_dtype, parse_integer

    if not input:
        raise EquivError("--input: expected an input of the models, got none; name a shape such as 16x5x256")
    floats = [name for name, one in BY_NAME.items() if is_inexact(one)]
    specs = tuple(parse_input("--input", text) for text in input)
    check_names("--input", specs)
    return Setting(
        inputs=specs,
        seed=parse_integer("--seed", seed, least=0, most=LARGEST_SEED),
        dtype=None if dtype is None else parse_dtype("--dtype", dtype, floats),
        device=check_device("--device", device),
        evaluate=evaluate,
    )


def diagnose(  # noqa: PLR0913 - each is an option of the command
    new: Annotated[str, typer.Argument(metavar="NEW", help=_MODEL + _ONNX)],
    old: Annotated[str, typer.Argument(metavar="OLD", help="The model that is right, named in the same way.")],
    input: Inputs = None,
    weights_new: Annotated[
        str | None, typer.Option("--weights-new", metavar="FILE", help="Weights of NEW:" + WEIGHTS)
    ] = None,
    weights_old: Annotated[str | None, typer.Option("--weights-old", metavar="FILE", help="Weights of OLD.")] = None,
    match: Annotated[
        list[str] | None,
        typer.Option("--match", metavar="NEW=OLD", help="Names of two modules that stand for each other. Repeatable."),
    ] = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Compare the gradients of each pair's input and parameters as well.")
    ] = False,
    seed: Seed = "0",
    dtype: Dtype = None,
    device: Device = "cpu",
    evaluate: Evaluation = None,
    json: Json = None,
    html: Html = None,
) -> int:
    """Say whether two models compute the same, and where they first part. Exit code 1 unless they do.

    Their code runs, because you name it.
    """
    from equiv.cli import diagnose as command
    from equiv.report import check_targets

    setting = _setting(input, seed, dtype, device, evaluate)
    pairs = command.parse_match("--match", match or ())
    targets = {name: target for name, target in {"json": json, "html": html}.items() if target is not None}
    check_targets(targets)
    weights = (weights_new, weights_old)
    return command.diagnose(new, old, setting, weights=weights, match=pairs, gradients=gradients, targets=targets)


def convert(  # noqa: PLR0913 - each is an option of the command
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="WHAT",
            help="pointwise: every Linear a 1x1 convolution. linear: the way back. dense: a classifier as one that "
            "takes larger maps.",
        ),
    ],
    input: Inputs = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Write the state_dict here: .safetensors, .pt, .pth or .bin."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="FILE", help="Weights of MODEL:" + WEIGHTS)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="For pointwise: this layer, or a pattern such as blocks.*.fc1."),
    ] = None,
    seed: Seed = "0",
    dtype: Dtype = None,
    device: Device = "cpu",
    evaluate: Evaluation = None,
    json: Json = None,
) -> int:
    """Convert the layers of a model, check that it computes the same, and write its weights. Exit code 1 if not.

    The code of the model runs, because you name it.
    """
    from equiv.cli import convert as command
    from equiv.cli.files import check_output
    from equiv.parsing import parse_name
    from equiv.report import check_target

    setting = _setting(input, seed, dtype, device, evaluate)
    target = parse_name("--to", to, command.TARGETS)
    if out is not None:
        check_output("--out", out)
        check_target(out, option="--out")
    if json is not None:
        check_target(json)
    return command.convert(model, target, setting, weights=weights, only=only or (), out=out, json=json)


def check_kernel(  # noqa: PLR0913 - each is an option of the command
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL",
            help="FILE.py:function or package.module:function. A FILE.py with ModelNew, a solution of KernelBench. "
            "A folder of operators, as BackendBench has them.",
        ),
    ],
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="WHAT",
            help="linear, matmul, conv1d, conv2d, conv3d; linear if not given. Beside ModelNew: the FILE.py of the "
            "problem, if it is another.",
        ),
    ] = None,
    law: Annotated[
        list[str] | None, typer.Option("--law", metavar="IDS", help=f"See `equiv env`. All if not given. {MANY}")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option("--dtype", metavar="DTYPES", help="Such as float16. float32 if not given.")
    ] = None,
    device: Device = "cpu",
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help="dev (quick), gate (fixed cases), deep (long).")
    ] = "gate",
    examples: Annotated[
        str | None, typer.Option("--examples", metavar="N", help="Cases per law, instead of the profile's.")
    ] = None,
    seed: Annotated[str | None, typer.Option("--seed", metavar="N", help="Other cases.")] = None,
    arithmetic: Annotated[
        str, typer.Option("--arithmetic", metavar="NAME", help="What error bounds follow: declared, or measured.")
    ] = "declared",
    json: Json = None,
) -> int:
    """Judge a kernel that was written for a benchmark by the laws. Exit code 1 if one is broken.

    Its code runs, because you name it.
    """
    from equiv import parsing
    from equiv.arguments import check_device
    from equiv.cli import check_kernel as command
    from equiv.laws import MODES, PROFILES
    from equiv.report import check_target

    if json is not None:
        check_target(json)
    how = {
        "laws": [name for text in law for name in text.split(",")] if law else None,
        "dtypes": parsing.parse_dtypes("--dtype", dtype) if dtype else None,
        "profile": parsing.parse_name("--profile", profile.removeprefix("equiv-"), PROFILES),
        "examples": None if examples is None else parsing.parse_integer("--examples", examples, least=1, most=10**6),
        "seed": None if seed is None else parsing.parse_integer("--seed", seed, least=0, most=LARGEST_SEED),
        "arithmetic": parsing.parse_name("--arithmetic", arithmetic, MODES),
    }
    return command.check(command.Asked(kernel, like, str(check_device("--device", device)), how), json=json)
