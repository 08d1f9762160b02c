"""ONNX's own cases for single operators: who passes which, and the table of it in docs/onnx.md.

Two sources, because the cases of a version of the package are for each operator's newest opset only: those that the
installed package makes, up to `MAX_OPSET`, and the files in an older wheel of it, if one is at hand.

    python -m tests.interop.conformance          # prints the table; --write puts it into docs/onnx.md
"""

import os
import sys
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime

from shoal.ops.onnx.block import load

MAX_OPSET = 26
"""Newer ones are not released."""

RTOL, ATOL = 1e-3, 1e-5

WHEELS = Path(os.environ.get("SHOAL_ONNX_CASES", Path(__file__).parents[2] / ".venv" / "onnx-cases"))
"""Where ``pip download onnx==1.16.2`` has put the older wheel."""

PROFILES = {
    "cnn": """
        Add And AveragePool BatchNormalization Ceil Clip Concat Conv ConvTranspose DepthToSpace Div
        Dropout Elu Exp Flatten Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
        GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN LeakyRelu LpPool
        MatMul Max MaxPool MaxUnpool Mean Min Mish Mul Neg PRelu Pad Pow ReduceMax ReduceMean ReduceMin
        ReduceSum Relu Reshape Resize Selu Shape Sigmoid Slice Softmax Softplus SpaceToDepth Split Sqrt
        Squeeze Sub Sum Tanh Transpose Unsqueeze Upsample
    """,
    "rnn": """
        Add Cast Concat Constant ConstantOfShape CumSum Div Dropout Equal Expand Gather GRU Gemm Greater
        Identity If LSTM Less Loop MatMul Mul Not RNN Range ReduceSum Reshape ReverseSequence Scan Shape
        Sigmoid Slice Softmax Split Squeeze Sub Tanh Tile Transpose Unsqueeze Where
    """,
    "transformer": """
        Add And Attention Cast CastLike Concat ConstantOfShape Div Dropout Einsum Equal Erf Expand
        Gather GatherElements GatherND Gelu Gemm Greater Identity LayerNormalization Less LogSoftmax
        MatMul Max Min Mul Neg Not OneHot Or Pow RMSNormalization Range ReduceMax ReduceMean ReduceSum
        Reshape RotaryEmbedding ScatterElements ScatterND Shape Sigmoid Slice Softmax Split Sqrt Squeeze
        Sub Swish Tanh Tile TopK Transpose Trilu Unsqueeze Where
    """,
    "training": """
        Adagrad Adam Dropout Momentum NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss
    """,
}
"""The operators that networks of a kind are made of."""

OUT_OF_SCOPE = frozenset(
    [
        *("Binarizer", "FlexAttention", "ImageDecoder", "LabelEncoder", "RegexFullMatch", "StringConcat"),
        *("StringNormalizer", "StringSplit", "TfIdfVectorizer", "TreeEnsemble"),
        "RoiAlign",  # with the largest of the points in the place of their mean
    ]
)
"""Texts, encoded images, trees, graphs inside attention: not what tensors of numbers are made of."""


class Case(NamedTuple):
    """One model with inputs and what they give."""

    name: str
    model: Any
    sets: list[tuple[list[Any], list[Any]]]

    @property
    def op(self) -> str:
        """What it is a case of."""
        return str(self.model.graph.node[0].op_type)


def _opset(model: Any) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def installed() -> Iterator[Case]:
    """The cases that the installed package makes, without those that spell an operator out in others."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        if "_expanded" not in case.name and _opset(case.model) <= MAX_OPSET:
            yield Case(case.name, case.model, [(list(i), list(o)) for i, o in case.data_sets])


def of_wheel(directory: Path = WHEELS) -> Iterator[Case]:
    """The cases in the older wheel; none if it is not there."""
    for wheel in sorted(directory.glob("onnx-*.whl")):
        with zipfile.ZipFile(wheel) as z:
            folders = {n.rsplit("/", 1)[0] for n in z.namelist() if "/data/node/" in n and n.endswith("model.onnx")}
            for folder in sorted(folders):
                if "_expanded" not in folder:
                    yield _read(z, folder)


def _read(z: zipfile.ZipFile, folder: str) -> Case:
    model = onnx.load_from_string(z.read(f"{folder}/model.onnx"))
    names, graph = set(z.namelist()), model.graph
    inputs = [_value(z, f"{folder}/test_data_set_0/input_{i}.pb", names, v) for i, v in enumerate(graph.input)]
    outputs = [_value(z, f"{folder}/test_data_set_0/output_{i}.pb", names, v) for i, v in enumerate(graph.output)]
    return Case(folder.rsplit("/", 1)[1], model, [(inputs, outputs)])


def _value(z: zipfile.ZipFile, path: str, names: set[str], info: Any) -> Any:
    if path not in names:
        return None
    if not info.type.HasField("tensor_type"):
        return ()  # a sequence, or optional
    tensor = onnx.TensorProto()
    tensor.ParseFromString(z.read(path))
    return onnx.numpy_helper.to_array(tensor)


def ours(model: Any, inputs: list[Any]) -> list[Any]:
    """The outputs of a model here."""
    out = load(model)(*[x if isinstance(x, list) or x is None else np.asarray(x) for x in inputs])
    return [x.asnumpy() if hasattr(x, "asnumpy") else x for x in (out if isinstance(out, tuple) else (out,))]


def reference(model: Any, inputs: list[Any]) -> list[Any]:
    """The outputs of a model in ONNX Runtime."""
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=False)}))


def failure(case: Case, run: Callable[[Any, list[Any]], list[Any]]) -> str:
    """Why a runner does not pass a case; empty if it does."""
    try:
        for inputs, outputs in case.sets:
            for got, want in zip(run(case.model, inputs), outputs, strict=False):
                if isinstance(want, np.ndarray | np.generic):
                    _compare(np.asarray(got), np.asarray(want))
                elif want is None:
                    assert got is None, "a value where there is none"
                elif not isinstance(got, list) or not isinstance(want, list) or len(got) != len(want):
                    return "a sequence"
                else:
                    for a, b in zip(got, want, strict=True):
                        _compare(np.asarray(a.asnumpy() if hasattr(a, "asnumpy") else a), np.asarray(b))
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return ""


def _compare(got: Any, want: Any) -> None:
    assert (got.shape, got.dtype) == (want.shape, want.dtype), f"{got.shape} {got.dtype}, not {want.shape} {want.dtype}"
    if want.dtype.kind in "OUSb":
        assert (got == want).all()
    else:
        wide = np.complex128 if want.dtype.kind == "c" else np.float64
        np.testing.assert_allclose(got.astype(wide), want.astype(wide), rtol=RTOL, atol=ATOL)


class Tally:
    """What became of the cases.

    Attributes:
        ours, theirs: why a case does not pass; empty if it does. By name of the case.
        ops: what each is a case of.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self.ours: dict[str, str] = {}
        self.theirs: dict[str, str] = {}
        self.ops: dict[str, str] = {}
        for case in cases:
            self.ops[case.name] = case.op
            self.ours[case.name] = failure(case, ours)
            self.theirs[case.name] = failure(case, reference)

    def lacking(self, profile: str) -> dict[str, str]:
        """Cases of the operators of a profile that ONNX Runtime passes and we do not."""
        wanted = set(PROFILES[profile].split())
        return {n: why for n, why in self.ours.items() if why and not self.theirs[n] and self.ops[n] in wanted}

    def rows(self) -> list[tuple[str, int, int, int]]:
        """(operator, cases, passed here, passed by ONNX Runtime)."""
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for name, op in self.ops.items():
            row = found[op]
            row[0] += 1
            row[1] += not self.ours[name]
            row[2] += not self.theirs[name]
        return [(op, *counts) for op, counts in sorted(found.items())]  # type: ignore[misc]


def table(*tallies: tuple[str, Tally]) -> str:
    """Both sources side by side, as Markdown."""
    head = " | ".join(f"{name}: cases | passed | ONNX Runtime" for name, _ in tallies)
    lines = [f"| operator | {head} |", "|---|" + "---:|" * 3 * len(tallies)]
    rows = [{op: rest for op, *rest in t.rows()} for _, t in tallies]
    for op in sorted(set().union(*rows)):
        cells = [" | ".join(map(str, r[op])) if op in r else " | | " for r in rows]
        lines.append(f"| {op} | {' | '.join(cells)} |")
    totals = [" | ".join(str(sum(v[i] for v in r.values())) for i in range(3)) for r in rows]
    return "\n".join([*lines, f"| **all** | {' | '.join(totals)} |"])


BEGIN, END = "<!-- cases -->", "<!-- end of cases -->"


def main() -> None:
    """Print the table; with --write, put it into docs/onnx.md."""
    made = [(f"onnx {onnx.__version__}", Tally(installed())), ("onnx 1.16.2", Tally(of_wheel()))]
    text = table(*made)
    print(text)
    for source, tally in made:
        for profile in PROFILES:
            for name, why in tally.lacking(profile).items():
                print(f"lacking ({source}, {profile}): {name}: {why}")
    if "--write" in sys.argv:
        page = Path(__file__).parents[2] / "docs" / "onnx.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
