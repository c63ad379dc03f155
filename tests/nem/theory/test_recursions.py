"""Appendices B.2 and C.2: the forward recursions against autograd, and each misprint against both."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem.theory import recursions
from tests.nem.theory.networks import CELLS, HEADS, autograd, draw, error_gradient, leaves, parameters


def problem(cell, seed, T=4, B=2, I=2, J=3, K=2, noise=0.0):
    """Parameters, inputs, targets; noisy targets do not sum to 1."""
    y = torch.softmax(draw(seed + 8, T, B, K), -1) + noise * draw(seed + 9, T, B, K)
    return parameters(cell, seed, I, J, K), draw(seed + 7, T, B, I), y


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
@given(seed=st.integers(0, 10**6), T=st.integers(1, 5), B=st.integers(1, 3), I=st.integers(1, 3), J=st.integers(1, 4),
       K=st.integers(1, 3), mode=st.sampled_from([None, "additive", "multiplicative"]), data=st.data())  # fmt: skip
def test_every_parameters_gradient_equals_autograd(cell, head, seed, T, B, I, J, K, mode, data):
    """Clean or with noise in the gates, whose effect autograd sees too."""
    p, x, y = problem(cell, seed, T, B, I, J, K, noise=0.3)
    gates = 3 if cell == "lstm" else 2
    noise = (list(0.2 * draw(seed + 50, T, gates, B, J)), mode) if mode else ()
    t0 = data.draw(st.integers(1, T))
    right = error_gradient(x, y, p, head, t0, *noise)
    for name, actual in vars(recursions.gradients(x, y, p, head, t0, *noise)).items():
        torch.testing.assert_close(actual, right[name], rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


def test_a_first_slice_beyond_the_last_is_an_error():
    p, x, y = problem("gru", 0)
    with pytest.raises(ValueError, match="expected t0 between 1 and 4"):
        recursions.gradients(x, y, p, "softmax", 5)


# Misprints change what a block's pre-activation moves by, ∂o^g(t)/∂θ. Axes (batch, l, j, i); the printed formulas for V
# call them (m, j, l).


def wide(values):
    return values[:, :, None, None]


def moved(V, dh):
    """Σ_m v_lm ∂a_m."""
    return torch.einsum("lm,bmji->blji", V, dh)


def row_j(V, dh):
    """Σ_p v_jp ∂a_p where Σ_p v_mp ∂a_p belongs."""
    return torch.einsum("jp,bpji->bji", V, dh)[:, None].expand_as(dh)


def sum_of_row(V, dh):
    """Σ_p v_mp ∂a_m where Σ_p v_mp ∂a_p belongs."""
    return V.sum(1)[None, :, None, None] * dh


def spread(source):
    """u_i without its δ_jl: the same for every unit l."""
    return source.sum(1, keepdim=True).expand_as(source)


def bare(now, block):
    """A block whose source lacks δ_jl."""
    return spread(now.source[block]) + now.through[block]


def own_state(now, block):
    """A block with a_m^{h(t-1)} where δ_jm a_l^{h(t-1)} belongs."""
    return wide(now.at.h) + now.through[block]


def ds_of_j(now):
    return torch.einsum("bjji->bji", now.ds)[:, None].expand_as(now.ds)


def b36(now):
    """Factors of unit j where those of unit l belong, since c and keep are multiplied by the latter."""
    c, keep = wide(now.at.now["a_gamma"] * (1 - now.at.now["a_c"] ** 2)), wide(now.at.now["a_phi"])
    return {"gamma": bare(now, "gamma"), "c": c.transpose(1, 2) / c * now.through["c"],
            "ds": keep.transpose(1, 2) / keep * ds_of_j(now)}  # fmt: skip


def without_reset_path(now):
    """Nor has it a^r_l, but a^r_m."""
    state = torch.einsum("lm,bm,bmji->blji", now.p.V_h, now.at.now["a_r"], now.dh)
    return state - wide(now.at.now["v"] * now.at.slope["r"]) * now.through["r"]


def update_gate(now):
    """v^z_jm for v^z_lm besides."""
    return {"z": spread(now.source["z"]) + row_j(now.p.V_z, now.dh), "c": without_reset_path(now)}


PRINTED = {
    "B.36": ("W_gamma", b36),
    "B.40": ("b_gamma", lambda n: {"gamma": bare(n, "gamma")}),
    "B.43": ("V_gamma", lambda n: {"omega": row_j(n.p.V_omega, n.dh)}),
    "B.44": ("V_gamma", lambda n: {"gamma": bare(n, "gamma"), "phi": sum_of_row(n.p.V_gamma, n.dh)}),
    "B.54": ("b_phi", lambda n: {"phi": bare(n, "phi")}),
    "B.58": ("V_phi", lambda n: {"gamma": n.through["gamma"] + spread(n.source["phi"]),
                                 "phi": sum_of_row(n.p.V_phi, n.dh)}),
    "B.61": ("W_omega", lambda n: {"omega": spread(n.source["omega"]) * n.through["omega"]}),
    "B.62": ("W_omega", lambda n: {"ds": ds_of_j(n)}),
    "B.66": ("b_omega", lambda n: {"omega": bare(n, "omega")}),
    "B.71": ("V_omega", lambda n: {"omega": own_state(n, "omega")}),
    "B.72": ("V_omega", lambda n: {"gamma": row_j(n.p.V_gamma, n.dh), "c": row_j(n.p.V_h, n.dh),
                                   "phi": n.p.V_phi.sum(1)[None, None, :, None] * n.dh}),
    "B.77": ("W_x", lambda n: {"omega": moved(n.p.V_gamma, n.dh)}),
    "B.84": ("b_x", lambda n: {"c": bare(n, "c")}),
    "B.90": ("V_h", lambda n: {"c": own_state(n, "c"), "phi": sum_of_row(n.p.V_phi, n.dh)}),
    "C.12": ("W_x", lambda n: {"c": bare(n, "c")}),
    "C.16": ("b_x", lambda n: {"c": bare(n, "c")}),
    "C.21": ("V_h", lambda n: {"c": wide(n.at.h * n.at.now["a_r"]) + n.through["c"]}),
    "C.25": ("W_r", lambda n: {"r": n.through["r"]}),
    "C.28": ("b_r", lambda n: {"r": n.through["r"]}),
    "C.31": ("V_r", lambda n: {"r": spread(n.source["r"]) + moved(n.p.V_h, n.dh)}),
    "C.34": ("W_z", update_gate),
    "C.38": ("b_z", update_gate),
    "C.41": ("V_z", lambda n: {"z": own_state(n, "z"), "c": without_reset_path(n)}),
}  # fmt: skip
"""Equation → parameter, and what it prints wrongly: ∂o of a block, or ∂s(t-1). The others of B.33-B.93 are right."""
NEVER_LEARN = ("B.61", "C.25", "C.28")
"""These have no source of their own, so that from zero initial conditions the sensitivity stays 0."""


@pytest.mark.parametrize("equation", PRINTED)
def test_each_misprinted_equation_alone_spoils_its_parameters_gradient(equation):
    parameter, change = PRINTED[equation]
    cell = "lstm" if equation.startswith("B") else "gru"
    p, x, y = problem(cell, 11)
    right = error_gradient(x, y, p, "softmax", 1)[parameter]
    advance = recursions.lstm_sensitivity if cell == "lstm" else recursions.gru_sensitivity

    def as_printed(at, p, source, dh, ds):
        through = {block: moved(getattr(p, "V_h" if block == "c" else f"V_{block}"), dh) for block in source}
        if cell == "gru":
            through["c"] = wide(at.now["a_r"]) * through["c"]
        new = change(SimpleNamespace(at=at, p=p, source=source, through=through, dh=dh, ds=ds))
        # The recursion adds what comes through V; a block's source is the rest.
        changed = {block: new[block] - through[block] if block in new else source[block] for block in source}
        return advance(at, p, changed, dh, new.get("ds", ds))

    steps = recursions.forward(x, p)
    errors = [recursions.output_error(now["o_y"], at, "softmax") @ p.U_y for now, at in zip(steps, y, strict=True)]
    printed = recursions.sensitivity_gradient(recursions.slices_of(steps, x), errors, p, parameter, as_printed)
    assert (printed - right).abs().max() > 0.01 * right.abs().max(), "the printed equation would be right"
    assert (printed == 0).all() == (equation in NEVER_LEARN)


def slope_of(a):
    return a * (1 - a)


FACTORS = {
    ("lstm", "omega"): lambda q: q["a_s"] * slope_of(q["a_omega"]),
    ("lstm", "x"): lambda q: q["a_omega"] * (1 - q["a_s"] ** 2) * q["a_gamma"] * (1 - q["a_c"] ** 2),
    ("gru", "x"): lambda q: q["a_z"] * (1 - q["a_c"] ** 2),
    ("gru", "h"): lambda q: q["a_z"] * (1 - q["a_c"] ** 2) * q["a_r"],
    ("gru", "z"): lambda q: q["a_c"] * slope_of(q["a_z"]),
}
"""What a block's weights are multiplied by in the first slice where they count, without their input."""
FIRST = [(cell, f"{kind}_{block}") for kind in "Wb" for cell, block in FACTORS if block != "h"]


@pytest.mark.parametrize(("cell", "parameter"), [*FIRST, ("lstm", "V_omega"), ("gru", "V_h")])
def test_initial_conditions_that_lack_the_kronecker_delta(cell, parameter):
    """(B.64), (B.69), (B.80)-(B.81), (B.86)-(B.87), (C.14), (C.18), (C.36): δ_jl times what is printed.

    So do (B.75), (C.23), which have slice 1 where slice 2 belongs besides. By (C.39) the sensitivity to b^z is 0.
    """
    p, x, _ = problem(cell, 5, T=2 if parameter[0] == "V" else 1, B=1)

    def last(theta):
        return recursions.forward(x, type(p)(**vars(p) | {parameter: theta}))[-1]["a_h"][0]

    actual = torch.autograd.functional.jacobian(last, getattr(p, parameter))
    steps = [{name: value[0] for name, value in q.items()} for q in recursions.forward(x, p)]
    first, now = steps[0], steps[-1]
    u = {"W": x[-1, 0], "b": torch.ones(1).double(), "V": first["a_h"]}[parameter[0]]
    factor = FACTORS[cell, parameter[2:]]
    right = torch.einsum("l,lj,i->lji", factor(now), torch.eye(3).double(), u)
    torch.testing.assert_close(actual, right.view_as(actual))
    assert actual.abs().max() > 1e-3
    assert (torch.einsum("l,i->li", factor(first), u)[:, None] - right).abs().max() > 1e-3


def test_recurrent_weights_reach_every_unit():
    """(C.24) keeps unit j's term of the sum over units only; from the third slice on all units count."""
    p, x, y = problem("gru", 11)
    right = error_gradient(x, y, p, "softmax", 4)["V_h"]
    q = leaves(p)
    last = recursions.forward(x, q)[3]
    terms = (recursions.output_error(last["o_y"].detach(), y[3], "softmax") @ p.U_y * last["a_h"]).sum(0)
    printed = torch.stack([autograd(term, q)["V_h"][j] for j, term in enumerate(terms)])
    assert (printed - right).abs().max() > 0.01 * right.abs().max()


def test_recurrent_inputs_have_the_summation_index():
    """(B.1), (B.3), (B.5), (B.7) print Σ_l v_jl a_j: that is a_j times a row sum, not the product V a."""
    V, a = draw(1, 3, 3), draw(2, 3)
    assert (V.sum(1) * a - V @ a).abs().max() > 0.1


def test_softmax_slope_is_b20_not_b19_nor_b21():
    """(B.19) has a wrong sign; (B.21) takes the sum of noisy targets for 1."""
    o = draw(1, 3).requires_grad_()
    a, y = torch.softmax(o, -1).detach(), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    b19 = torch.stack([-(y[k] * (1 - a[k]) + sum(y[m] * a[k] for m in range(3) if m != k)) for k in range(3)])
    noisy = y + 0.5 * draw(4, 3)
    for target, printed in ((y, b19), (noisy, a - noisy)):
        (right,) = torch.autograd.grad(-(target * torch.log_softmax(o, -1)).sum(), o)
        torch.testing.assert_close(recursions.output_error(o.detach(), target, "softmax"), right)
        assert (printed - right).abs().max() > 0.1


def test_squared_error_without_the_half_doubles_the_gradient():
    """(B.22)-(B.26) "stay the same" for (B.27) only with the 1/2 of (A.12); (43) and (B.27) have none."""
    p, x, y = problem("lstm", 2)
    score = recursions.forward(x, p)[3]["o_y"]
    torch.testing.assert_close(error_gradient(x, y, p, "identity", 4)["b_y"], 2 * (score - y[3]).sum(0))
