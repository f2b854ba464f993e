"""sparsify: which numbers go, what is left alone and why, what later passes make of the zeros, how a lie goes red."""

from __future__ import annotations

from collections.abc import Callable

import edgec
import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError, EngineError, PlanError, Span
from edgec.compiler.ir.annotations import Transform, counted
from edgec.compiler.ir.fold_into_weights import rotate_columns, scale_columns, scale_rows, set_weight
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.linears import Linear, linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.sparse_pattern import Sparsity
from edgec.compiler.ir.sparsity import SPARSITY, first_unlike
from edgec.compiler.ir.weights import Weight, cast, derive, from_array, transpose
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Pass, Scope
from edgec.compiler.pipeline.run_steps import run_pipeline
from edgec.compiler.plan.parameters import Pattern
from edgec.passes.quantize import Quantize
from edgec.passes.rotate import Rotate
from edgec.passes.sparsify import Sparsify

UP, DOWN, HEAD = "layers.0.mlp.up_proj", "layers.0.mlp.down_proj", "lm_head"
NUMBERS = np.random.default_rng(7).standard_normal(16 * 12).astype(np.float32)
MATMUL = f"""<ir_version: 10, opset_import: ["" : 21]> m (float[B,16] x) => (float[B,12] y)
<float[16,12] w = {{{", ".join(f"{v:.4f}" for v in NUMBERS)}}}> {{ y = MatMul(x, w) }}"""


def linear(module: Module, name: str) -> Linear:
    return next(x for x in linears(module) if x.name == name)


def matrix(module: Module, name: str) -> np.ndarray:
    return linear(module, name).weight().numpy()


def test_the_largest_of_each_group_are_kept(draft: Module) -> None:
    before = matrix(draft, UP)
    result = run_and_check(Sparsify(), draft, except_=[HEAD])
    after = matrix(result.module, UP)
    assert np.array_equal(after[after != 0], before[after != 0])
    kept, sizes = np.abs(after.reshape(-1, 4)), np.sort(np.abs(before.reshape(-1, 4)))
    assert np.array_equal(np.sort(kept)[:, 2:], sizes[:, 2:])  # equal ones may stand for each other
    assert not np.sort(kept)[:, :2].any()
    assert result.changes == 14
    assert "14 weights are 2:4 by magnitude" in result.notes[-1]
    assert counted(result.module)["edgec.sparsity"] == {"2:4": 14}


def test_pairs_are_kept_whole(draft: Module) -> None:
    before = matrix(draft, UP).reshape(-1, 2, 4)
    result = run_and_check(Sparsify(pattern="pairs"), draft, on=[UP])
    after = matrix(result.module, UP).reshape(-1, 2, 4)
    kept = after.any(1)
    assert (kept.sum(-1) == 2).all()
    assert np.array_equal(after.all(1), kept)
    sizes = np.square(before).sum(1)
    assert (np.where(kept, sizes, np.inf).min(-1) >= np.where(kept, 0, sizes).max(-1)).all()


@pytest.mark.parametrize(("n", "m", "rows"), [(1, 2, 3), (2, 4, 1), (4, 8, 5), (3, 4, 16)])
def test_weights_that_have_their_inputs_first(n: int, m: int, rows: int) -> None:
    """A plain MatMul stores [K, N]: the same zeros as those of its transpose, whatever rows are asked for."""
    result = run_and_check(Sparsify(pattern=Pattern(n, m)), MATMUL)
    held = linear(result.module, "MatMul_0").stored
    assert held is not None
    assert SPARSITY.get(held) == Sparsity(f"{n}:{m}", axis=0)
    whole = held.numpy()
    assert (np.count_nonzero(whole.T.reshape(12, -1, m), axis=-1) == n).all()
    for start in range(0, 16 - rows + 1, rows):
        assert np.array_equal(held.rows(start, start + rows), whole[start : start + rows])


def test_what_is_left_alone_says_why(draft: Module) -> None:
    scope = Scope(on=("embed_tokens", "layers.0.input_layernorm", UP))
    assert Sparsify().run(draft, scope) == 1
    reasons = {skip.node: skip.reason for skip in scope.skips}
    assert "looked up by rows" in reasons["embed_tokens"]
    assert "norm's gain" in reasons["layers.0.input_layernorm"]
    assert any("`embed_tokens` is left dense" in note for note in scope.notes)
    again = Scope(on=(UP,))
    assert Sparsify().run(draft, again) == 0
    assert [skip.reason for skip in again.skips] == ["its weight is 2:4 already"]


@pytest.mark.parametrize("glob", ["embed_tokens", "layers.*.input_layernorm"])
def test_a_line_that_leaves_everything_alone_is_refused(draft: Module, glob: str) -> None:
    with pytest.raises(EdgecError, match="works on none of these ops: ") as refused:
        Sparsify().run(draft, Scope(on=(glob,)))
    assert refused.value.diagnostics[0].code == "E0403"


def test_a_tied_head_leaves_the_embedding_dense(draft: Module) -> None:
    scope = Scope(on=(HEAD,))
    Sparsify().run(draft, scope)
    assert first_unlike(linear(draft, HEAD).weight(), Sparsity("2:4")) is None
    assert first_unlike(linear(draft, "embed_tokens").weight(), Sparsity("2:4")) is not None
    assert "`lm_head` no longer shares its weight: 1.00 MiB more" in scope.notes[0]


def test_keep_verifies_and_names_the_first_that_is_dense(draft: Module, golden_error: Callable[..., None]) -> None:
    scope = Scope(on=("layers.*_proj",))
    Sparsify().run(draft, scope)
    bare = draft.clone()
    for one in linears(bare):
        if one.stored is not None and SPARSITY.get(one.stored) is not None:
            set_weight(one.value, Weight(one.name, one.stored.dtype, one.stored.dims, one.stored.rows, "file"))
    kept = bare.clone()
    assert Sparsify(method="keep").run(kept, Scope(on=("layers.*_proj",))) == 14
    assert counted(kept)["edgec.sparsity"] == {"2:4": 14}
    assert counted(bare).get("edgec.sparsity") is None  # the tensors of others are not written on
    w = matrix(bare, DOWN).copy()
    w[3, 8:12] = 1
    set_weight(linear(bare, DOWN).value, from_array(DOWN, w))
    with pytest.raises(PlanError) as raised:
        Sparsify(method="keep").run(bare, Scope(on=("layers.*_proj",)))
    golden_error("E0424", raised.value)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [32, "channel"])
def test_rounding_leaves_zeros(draft: Module, block: int | str, symmetric: bool) -> None:
    Sparsify().run(draft, Scope(on=(UP, DOWN)))
    before = matrix(draft, UP)
    Quantize(weights="int4", block=block, symmetric=symmetric).run(draft, Scope(on=(UP, DOWN)))
    quant = linear(draft, UP).quant
    assert quant is not None
    assert SPARSITY.get(quant.q) == Sparsity("2:4")
    assert SPARSITY.get(quant.scale) is None
    assert not matrix(draft, UP)[before == 0].any()
    assert violations(draft) == []


def test_transforms_keep_turn_or_end_it() -> None:
    w = from_array("up.weight", np.zeros((4, 8), np.float32))
    SPARSITY.set(w, Sparsity("2:4"))
    for made in (cast(w, ir.DataType.FLOAT16), scale_rows(w, np.ones(4), "s"), scale_columns(w, np.ones(8), "s")):
        assert SPARSITY.get(made) == Sparsity("2:4")
    assert str(SPARSITY.get(transpose(w))) == "2:4 along axis 0"
    ended = {
        "rotation": rotate_columns(w, np.eye(8), "rotated"),
        "packing": derive("up.packed", ir.DataType.UINT8, (4, 4), w.rows, w, Transform.PACK),
        "permutation": derive("up.weight", w.dtype, w.dims, w.rows, w, Transform.PERMUTE),
    }
    for word, made in ended.items():
        assert SPARSITY.get(made) is None
        assert made.ended[0].startswith(f"{word} ends 2:4 on `up")


def test_a_rotation_behind_it_ends_the_pattern_with_a_note(draft: Module, steps: Callable) -> None:
    results = run_pipeline(draft, steps((Sparsify(), [UP]), Rotate()))
    assert f"rotation ends 2:4 on `{UP}`" in results[1].notes
    assert counted(draft).get("edgec.sparsity") is None


def test_legality_reads_the_numbers(draft: Module, steps: Callable) -> None:
    class Fill(Pass):
        """Write over zeros, and say they are still there."""

        name = "fill"

        def run(self, module: Module, scope: Scope) -> int:
            value = linear(module, UP).value
            made = from_array(UP, np.ones(linear(module, UP).shape, np.float32))
            SPARSITY.set(made, Sparsity("2:4"))
            set_weight(value, made)
            return 1

    with pytest.raises(EngineError, match="is not 2:4: of inputs 0 to 3 of output 0, 4 are not zero"):
        run_pipeline(draft, steps((Sparsify(), [UP]), Fill()))


def test_groups_that_do_not_divide_offer_except(draft: Module) -> None:
    with pytest.raises(EdgecError) as raised:
        Sparsify(pattern=Pattern(2, 3)).run(draft, Scope(origin=Span("p.edge", 1, 1, 1, 2), on=("layers.*_proj",)))
    found = raised.value.diagnostics[0]
    assert "has 128 inputs, which groups of 3 do not divide" in found.message
    assert '"layers.*.self_attn.q_proj"' in (found.help or "")


@pytest.mark.parametrize("pattern", ["4:4", "0:4", "four", "2:4 along axis 0"])
def test_no_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"leaves nothing out|is no pattern"):
        Sparsity(pattern)


@pytest.mark.parametrize("written", ["50%", "0.5"])
def test_a_share_of_zeros_is_told_as_the_pattern_to_write(written: str) -> None:
    (found,) = edgec.check(f"plan p\ndevice host\npipeline q {{ sparsify (pattern = {written}) }}\n").errors
    assert (found.code, found.help) == ("E0201", "write `pattern = 2:4`")
