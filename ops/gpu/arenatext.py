"""The kernels of `shoal.ops.gpu.arena` as CUDA text: squares of all gradients, the numbers of an update, the update.

The statements of an update are those that the rule gives for the CPU (`Optimizer.compiled`), so that both do the same.
"""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError
from shoal.ops.gpu.kernels.program import STORED, text
from shoal.ops.lossscale import LEAST, MOST, LossScale
from shoal.ops.optim import Optimizer

__all__ = [
    "BAD",
    "BEGIN",
    "BOUND",
    "CLIP",
    "FACTOR",
    "FIRST",
    "GOOD",
    "LAST",
    "NORM",
    "ROOM",
    "SKIP",
    "UNSCALE",
    "texts",
]

SKIP, SCALE, BOUND, NORM, FIRST = range(5)
"""Words of a step: whether it is left out; what gradients are multiplied with; their bound; their norm; the numbers."""

ROOM = 32
"""Words for the numbers of a group of parameters."""

UNSCALE, CLIP, BEGIN, LAST = range(4)
"""Words that are given to a step: factor of the gradients; bound of the norm (0: none); the update that the first of
the rates is for; the number of the last rate, which holds from there on."""

FACTOR, GOOD, BAD = range(3)
"""Words of a loss scale that looks after itself: the factor, good steps in sequence, steps that were left out."""

SQUARES = """
KERNEL squares(const {grad} *g, double *parts, int64_t n) {{
    SHARED(double, room, 32);
    double sum = 0;
    const int V = Packed<{grad}>::count;
    const int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    const int64_t next = (int64_t)gridDim.x * blockDim.x * V;
    for (int64_t i = first; i < n; i += next) {{
        const Pack<{grad}> p = *(const Pack<{grad}> *)(g + i);
        for (int k = 0; k < V; k++) {{ const double v = (double)widen(p.v[k]); sum += v * v; }}
    }}
    sum = row_reduce<Add>(sum, room);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}}
"""

PREPARE = """
KERNEL prepare(const double *parts, const double *given, const double *rates, int64_t *count, double *words,
               double *scaling, float *factor, int parts_count) {{
    double sum = 0;
    for (int k = threadIdx.x; k < parts_count; k += 32) sum += parts[k];
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(FULL, sum, o);
    if (threadIdx.x) return;
    const double unscale = given[{UNSCALE}] * {rescale} / scaling[{FACTOR}], most = given[{CLIP}];
    const double norm = sqrt(sum) * fabs(unscale);
    const bool skip = !finite_(norm);
    words[{SKIP}] = skip;
    words[{NORM}] = norm;
    words[{SCALE}] = unscale * (most > 0 && norm > most ? most / (norm + 1e-6) : 1.0);
    words[{BOUND}] = {bound};
    {scaling}
    *factor = (float)scaling[{FACTOR}];
    if (skip) return;
    const double t = (double)++*count;
    double at = t - given[{BEGIN}];
    at = at < 0 ? 0 : at > given[{LAST}] ? given[{LAST}] : at;
    const double rate_ = rates[(int64_t)at];
    {numbers}
}}
"""

SCALING = """if (skip) {{
        const double f = scaling[{FACTOR}], least = {least} < f ? {least} : f, smaller = f * {backoff};
        scaling[{FACTOR}] = smaller > least ? smaller : least;
        scaling[{GOOD}] = 0;
        scaling[{BAD}] += 1;
    }} else if (scaling[{GOOD}] + 1 < {interval}) {{
        scaling[{GOOD}] += 1;
    }} else {{
        const double f = scaling[{FACTOR}], top = {most} > f ? {most} : f, larger = f * {growth};
        scaling[{FACTOR}] = larger < top ? larger : top;
        scaling[{GOOD}] = 0;
    }}"""
"""`shoal.ops.lossscale.LossScale.after`."""

MACROS = """
#define T float
#define SQRT sqrtf
#define ABS fabsf
#define SIGN(x) ((x) > 0 ? (T)1 : (x) < 0 ? (T)-1 : (x))
"""

STEP = """
KERNEL {name}(float *W, const {grad} *G, {half} *H{states}, const double *words, int64_t n) {{
    if (words[{SKIP}] != 0) return;
    const T scale = (T)words[{SCALE}], bound = (T)words[{BOUND}];
    {numbers}
    const int V = 8;
    const int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    const int64_t next = (int64_t)gridDim.x * blockDim.x * V;
    for (int64_t i = first; i < n; i += next) {{
        Chunk<float, V> w_ = *(const Chunk<float, V> *)(W + i);
        const Chunk<{grad}, V> g_ = *(const Chunk<{grad}, V> *)(G + i);
        {loads}
        Chunk<{half}, V> h_;
#pragma unroll
        for (int k = 0; k < V; k++) {{
            T w = w_.v[k], g = (T)widen(g_.v[k]) * scale;
            g = g < -bound ? -bound : g;
            g = g > bound ? bound : g;
            {elements}
            {code}
            w_.v[k] = w;
            {results}
            h_.v[k] = narrow<{half}>(w);
        }}
        *(Chunk<float, V> *)(W + i) = w_;
        {stores}
        if (H) *(Chunk<{half}, V> *)(H + i) = h_;
    }}
}}
"""

_PLACES = {
    "SKIP": SKIP, "SCALE": SCALE, "BOUND": BOUND, "NORM": NORM, "UNSCALE": UNSCALE, "CLIP": CLIP, "BEGIN": BEGIN,
    "LAST": LAST, "FACTOR": FACTOR, "GOOD": GOOD, "BAD": BAD,
}  # fmt: skip


def texts(
    rule: Optimizer, factors: Sequence[tuple[float, float]], grads: Any, kind: Any, scaling: LossScale | None
) -> dict[str, str]:
    """The kernels by name: squares, prepare, and an update for each group of parameters.

    Args:
        factors: of each group, on rate and weight decay.
        grads, kind: dtypes of gradients and of the weights that the model computes with.
        scaling: of the loss, looked after on the GPU.
    Raises:
        ConfigError: the rule has no statements for a GPU.
    """
    bound = "INFINITY" if rule.clip_gradient is None else repr(float(rule.clip_gradient))
    numbers = [_numbers(rule, *pair, place=FIRST + ROOM * i) for i, pair in enumerate(factors)]
    found = {
        "squares": SQUARES.format(grad=STORED[grads]),
        "prepare": PREPARE.format(
            rescale=repr(float(rule.rescale_grad)),
            bound=bound,
            numbers="\n    ".join(numbers),
            scaling=_scaling(scaling),
            **_PLACES,
        ),
    }
    for i, (_, wd_mult) in enumerate(factors):
        step = _step(rule, f"step{i}", rule.wd * wd_mult, FIRST + ROOM * i, STORED[grads], STORED[kind])
        found[f"step{i}"] = step if i else MACROS + step
    return {**found, "squares": text("prelude.cuh") + found["squares"]}


def _scaling(state: LossScale | None) -> str:
    if state is None:
        return f"scaling[{BAD}] += skip;"
    numbers = {
        "least": repr(LEAST),
        "most": repr(MOST),
        "backoff": repr(float(state.backoff_factor)),
        "growth": repr(float(state.growth_factor)),
        "interval": repr(float(state.growth_interval)),
    }
    return SCALING.format(**numbers, **_PLACES)


def _step(rule: Optimizer, name: str, wd: float, place: int, grad: str, half: str) -> str:
    found, names = rule.compiled(0.1, wd, 1), list(rule.slots())
    if found is None:
        raise ConfigError(f"FlatOptimizer: {type(rule).__name__} has no statements for a GPU; use it parameter-wise")
    code, numbers = found
    if len(numbers) > ROOM:
        raise ConfigError(f"FlatOptimizer: {type(rule).__name__} has {len(numbers)} numbers, at most {ROOM}")
    return STEP.format(
        name=name,
        grad=grad,
        half=half,
        code=code,
        states="".join(f", float *{s}_" for s in names),
        numbers=" ".join(f"const T {n} = (T)words[{i}];" for i, n in enumerate(numbers, place)),
        loads=" ".join(f"Chunk<float, V> {s}_c = *(const Chunk<float, V> *)({s}_ + i);" for s in names),
        elements=" ".join(f"T {s} = {s}_c.v[k];" for s in names),
        results=" ".join(f"{s}_c.v[k] = {s};" for s in names),
        stores=" ".join(f"*(Chunk<float, V> *)({s}_ + i) = {s}_c;" for s in names),
        **_PLACES,
    )


def _numbers(rule: Optimizer, lr_mult: float, wd_mult: float, place: int) -> str:
    """Statements that work out the rule's numbers from ``rate_`` and ``t``.

    Raises:
        ConfigError: one depends on them in a way that is not known here; or the rule has no statements.
    """
    wd = rule.wd * wd_mult
    at = [rule.compiled(lr, wd, t) for lr, t in ((0.5, 2), (0.25, 2), (0.5, 3), (1.0, 2))]
    tables = [found[1] for found in at if found is not None]
    if not tables:
        return ""
    lines = [f"{{ const double lr = rate_ * {float(lr_mult)!r};"]
    for i, (name, value) in enumerate(tables[0].items(), place):
        formula = repr(float(value))
        if any(table[name] != value for table in tables):
            formula = _formula(rule, name, 1.0 - tables[3][name])
        lines.append(f"words[{i}] = {formula};")
    return "\n    ".join([*lines, "(void)lr; }"])


def _formula(rule: Optimizer, name: str, decay: float) -> str:
    beta1, beta2 = getattr(rule, "beta1", None), getattr(rule, "beta2", None)
    bias1 = f"(1.0 - pow({beta1!r}, t))" if getattr(rule, "correct_bias", False) else "1.0"
    known = {"lr": "lr", "keep": f"1.0 - lr * {decay!r}", "rate": f"lr / {bias1}"}
    if beta2 is not None:
        known["root"] = f"sqrt(1.0 - pow({beta2!r}, t))"
    if name not in known:
        raise ConfigError(
            f"FlatOptimizer: {type(rule).__name__}: how {name!r} depends on the rate is not known on a GPU"
        )
    return known[name]
