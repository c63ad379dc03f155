"""Appendices B.2 and C.2: the forward recursions against autograd, and each misprint against both."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem.theory import recursions
from tests.nem.theory.networks import autograd, draw, error, leaves, parameters

HEADS = ("softmax", "identity")


def problem(cell, seed, T=4, B=2, I=2, J=3, K=2, noisy=True):
    p = parameters(cell, seed, I, J, K)
    x, y = draw(seed + 7, T, B, I), torch.softmax(draw(seed + 8, T, B, K), -1)
    return p, x, y + (0.3 * draw(seed + 9, T, B, K) if noisy else 0)


def expected(x, y, p, head, t0, increments=None, mode="additive"):
    q = leaves(p)
    return autograd(error(recursions.forward(x, q, increments, mode), y, head, t0), q)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@given(seed=st.integers(0, 10**6), T=st.integers(1, 5), B=st.integers(1, 3), I=st.integers(1, 3), J=st.integers(1, 4),
       K=st.integers(1, 3), data=st.data())  # fmt: skip
def test_every_parameters_gradient_equals_autograd(cell, head, seed, T, B, I, J, K, data):
    p, x, y = problem(cell, seed, T, B, I, J, K)
    t0 = data.draw(st.integers(1, T))
    actual, right = recursions.gradients(x, y, p, head, t0), expected(x, y, p, head, t0)
    for field in fields(p):
        torch.testing.assert_close(
            getattr(actual, field.name), right[field.name], rtol=0, atol=1e-10, msg=lambda m, f=field: f"{f.name}: {m}"
        )


@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_see_the_noisy_gates(cell, mode):
    p, x, y = problem(cell, 3)
    gates = 3 if cell == "lstm" else 2
    delta = [tuple(0.2 * draw(50 + 10 * t + g, 2, 3) for g in range(gates)) for t in range(4)]
    actual, right = (
        recursions.gradients(x, y, p, "softmax", 2, delta, mode),
        expected(x, y, p, "softmax", 2, delta, mode),
    )
    clean = recursions.gradients(x, y, p, "softmax", 2)
    for field in fields(p):
        torch.testing.assert_close(getattr(actual, field.name), right[field.name], rtol=0, atol=1e-10)
    assert (actual.V_h - clean.V_h).abs().max() > 1e-3


def test_a_first_slice_beyond_the_last_is_an_error():
    p, x, y = problem("gru", 0)
    with pytest.raises(ValueError, match="expected t0 between 1 and 4"):
        recursions.gradients(x, y, p, "softmax", 5)


# A recursion step in parts, so that one part at a time can be put as printed. Axes (batch, l, j, i); the printed
# formulas for V call them (m, j, l).


def moved(V, dh):
    """Σ_m v_lm ∂a_m."""
    return torch.einsum("lm,bmji->blji", V, dh)


def lstm_step(change):
    def step(at, p, source, dh, ds):
        q, slope = at.now, at.slope
        d = {g: source[g] + moved(getattr(p, "V_h" if g == "c" else f"V_{g}"), dh) for g in source}
        f = {
            "c": q["a_gamma"] * (1 - q["a_c"] ** 2), "gamma": q["a_c"] * slope["gamma"], "phi": at.s * slope["phi"],
            "omega": q["a_s"] * slope["omega"], "keep": q["a_phi"], "s": q["a_omega"] * (1 - q["a_s"] ** 2),
        }  # fmt: skip
        f = {name: value[:, :, None, None] for name, value in f.items()}
        now = SimpleNamespace(d=d, f=f, ds=ds, at=at, p=p, source=source, dh=dh)
        if change:
            change(now)
        ds = f["gamma"] * d["gamma"] + f["c"] * d["c"] + f["phi"] * d["phi"] + f["keep"] * now.ds
        return f["s"] * ds + f["omega"] * d["omega"], ds

    return step


def gru_step(change):
    def step(at, p, source, dh, ds):
        q = at.now
        part = {
            "src_c": source["c"], "src_r": source["r"], "src_z": source["z"], "z": moved(p.V_z, dh),
            "r": moved(p.V_r, dh), "state": q["a_r"][:, :, None, None] * moved(p.V_h, dh),
            "reset": (q["v"] * at.slope["r"])[:, :, None, None],
        }  # fmt: skip
        if change:
            change(SimpleNamespace(d=part, at=at, p=p, source=source, dh=dh))
        inner = part["src_c"] + part["state"] + part["reset"] * (part["src_r"] + part["r"])
        new = (
            (1 - q["a_z"])[:, :, None, None] * dh
            - ((at.h - q["a_c"]) * at.slope["z"])[:, :, None, None] * (part["src_z"] + part["z"])
            + (q["a_z"] * (1 - q["a_c"] ** 2))[:, :, None, None] * inner
        )
        return new, ds

    return step


def spread(source):
    """u_i without its δ_jl: the same for every unit l."""
    return source.sum(1, keepdim=True).expand_as(source)


def own_state(now):
    """a_m^{h(t-1)} where δ_jm a_l^{h(t-1)} belongs."""
    return now.at.h[:, :, None, None].expand_as(now.dh)


def without_delta(now, block):
    now.d[block] = now.d[block] - now.source[block] + spread(now.source[block])


def row_j(V, dh):
    """Σ_p v_jp ∂a_p where Σ_p v_mp ∂a_p belongs."""
    return torch.einsum("jp,bpji->bji", V, dh)[:, None].expand_as(dh)


def sum_of_row(V, dh):
    """Σ_p v_mp ∂a_m where Σ_p v_mp ∂a_p belongs."""
    return V.sum(1)[None, :, None, None] * dh


def row_j_of_s(now):
    now.ds = torch.einsum("bjji->bji", now.ds)[:, None].expand_as(now.dh)


def b36(now):
    without_delta(now, "gamma")
    now.f["c"], now.f["keep"] = now.f["c"].transpose(1, 2), now.f["keep"].transpose(1, 2)
    row_j_of_s(now)


def b44(now):
    without_delta(now, "gamma")
    now.d["phi"] = sum_of_row(now.p.V_gamma, now.dh)


def b58(now):
    now.d["gamma"] = spread(now.source["phi"]) + now.d["gamma"]
    now.d["phi"] = sum_of_row(now.p.V_phi, now.dh)


def b61(now):
    now.d["omega"] = spread(now.source["omega"]) * (now.d["omega"] - now.source["omega"])


def b71(now):
    now.d["omega"] = now.d["omega"] - now.source["omega"] + own_state(now)


def b72(now):
    now.d["gamma"], now.d["c"] = row_j(now.p.V_gamma, now.dh), row_j(now.p.V_h, now.dh)
    now.d["phi"] = now.p.V_phi.sum(1)[None, None, :, None] * now.dh


def b90(now):
    now.d["c"] = now.d["c"] - now.source["c"] + own_state(now)
    now.d["phi"] = sum_of_row(now.p.V_phi, now.dh)


def without(block):
    return lambda now: without_delta(now, block)


LSTM_PRINTED = {
    "B.36": ("W_gamma", b36), "B.40": ("b_gamma", without("gamma")), "B.44": ("V_gamma", b44),
    "B.43": ("V_gamma", lambda now: now.d.update(omega=row_j(now.p.V_omega, now.dh))),
    "B.54": ("b_phi", without("phi")), "B.58": ("V_phi", b58), "B.61": ("W_omega", b61),
    "B.62": ("W_omega", row_j_of_s), "B.66": ("b_omega", without("omega")), "B.71": ("V_omega", b71),
    "B.72": ("V_omega", b72), "B.77": ("W_x", lambda now: now.d.update(omega=moved(now.p.V_gamma, now.dh))),
    "B.84": ("b_x", without("c")), "B.90": ("V_h", b90),
}  # fmt: skip
"""Equation → parameter, and the recursion with this equation as printed. The others of B.33-B.93 are right."""


def loses_delta(now):
    now.d["src_c"] = spread(now.source["c"])


def no_reset_source(now):
    now.d["src_r"] = torch.zeros_like(now.source["r"])


def c31(now):
    now.d["src_r"] = spread(now.source["r"])
    now.d["r"] = torch.einsum("mq,bqjl->bmjl", now.p.V_h, now.dh)


def no_path_through_the_reset_gate(now):
    """And a^r_m for a^r_l."""
    now.d["state"] = torch.einsum("lm,bm,bmji->blji", now.p.V_h, now.at.now["a_r"], now.dh)
    now.d["reset"] = torch.zeros_like(now.d["reset"])


def c34(now):
    now.d["src_z"], now.d["z"] = spread(now.source["z"]), row_j(now.p.V_z, now.dh)  # v^z_jm for v^z_lm
    no_path_through_the_reset_gate(now)


def c41(now):
    now.d["src_z"] = own_state(now)
    no_path_through_the_reset_gate(now)


GRU_PRINTED = {
    "C.12": ("W_x", loses_delta), "C.16": ("b_x", loses_delta), "C.25": ("W_r", no_reset_source),
    "C.28": ("b_r", no_reset_source), "C.31": ("V_r", c31), "C.34": ("W_z", c34), "C.38": ("b_z", c34),
    "C.41": ("V_z", c41),
    "C.21": ("V_h", lambda now: now.d.update(
        src_c=(now.at.h * now.at.now["a_r"])[:, :, None, None].expand_as(now.dh))),
}  # fmt: skip
PRINTED = {**LSTM_PRINTED, **GRU_PRINTED}


def gradient(cell, parameter, change):
    """A parameter's gradient with one equation changed, beside autograd's; clean targets, t0 = 1."""
    p, x, y = problem(cell, 11, noisy=False)
    slices, errors = recursions.slices_and_errors(recursions.forward(x, p), x, y, "softmax", 1)
    step = (lstm_step if cell == "lstm" else gru_step)(change)
    gradient = recursions.sensitivity_gradient(slices, [e @ p.U_y for e in errors], p, parameter, step)
    return gradient, expected(x, y, p, "softmax", 1)[parameter]


@pytest.mark.parametrize("equation", sorted(PRINTED))
def test_each_misprinted_equation_alone_spoils_its_parameters_gradient(equation):
    parameter, change = PRINTED[equation]
    cell = "lstm" if equation.startswith("B") else "gru"
    actual, right = gradient(cell, parameter, None)
    torch.testing.assert_close(actual, right, rtol=0, atol=1e-10)
    printed, right = gradient(cell, parameter, change)
    assert (printed - right).abs().max() > 0.01 * right.abs().max(), "the printed equation would be right"


@pytest.mark.parametrize("parameter", ["W_r", "b_r"])
def test_the_printed_reset_gate_never_learns(parameter):
    """(C.25) and (C.28) have no source term: from zero initial conditions the sensitivity stays 0."""
    printed, right = gradient("gru", parameter, no_reset_source)
    assert (printed == 0).all()
    assert right.abs().max() > 1e-4


def sensitivities(cell, parameter, T):
    """∂a^h(t)/∂θ and ∂s(t)/∂θ at t = T by autograd, for one sample: (J, *θ)."""
    p, x, _ = problem(cell, 5, T=T, B=1)
    q = leaves(p)
    steps = recursions.forward(x, q)
    theta = getattr(q, parameter)

    def jacobian(vector):
        rows = [torch.autograd.grad(v, theta, retain_graph=True, allow_unused=True)[0] for v in vector]
        return torch.stack([torch.zeros_like(theta) if r is None else r for r in rows])

    values = [{k: v[0].detach() for k, v in step.items()} for step in steps]
    ds = jacobian(steps[-1]["s"][0]) if cell == "lstm" else None
    return jacobian(steps[-1]["a_h"][0]), ds, values, x[:, 0]


def slope_of(a):
    return a * (1 - a)


def test_initial_conditions_that_are_right_as_printed():
    """(B.45)-(B.46), (B.50)-(B.51), (B.55), (B.59), (B.63), (B.68), (B.73)-(B.74), (B.91)-(B.92), (C.22), (C.42)."""
    lstm = [("lstm", parameter) for parameter in ("V_gamma", "W_phi", "b_phi", "V_phi", "V_omega", "V_h")]
    for cell, parameter in [*lstm, ("gru", "V_h"), ("gru", "V_z")]:
        dh, ds, *_ = sensitivities(cell, parameter, 1)
        assert (dh == 0).all()
        assert ds is None or (ds == 0).all()
    for parameter in ("W_omega", "b_omega"):
        assert (sensitivities("lstm", parameter, 1)[1] == 0).all()
    assert (sensitivities("lstm", "V_omega", 2)[1] == 0).all()


def test_initial_conditions_that_lack_the_kronecker_delta():
    """(B.64), (B.69), (B.80)-(B.81), (B.86)-(B.87), (C.14), (C.18), (C.36): δ_jl times what is printed."""
    delta = torch.eye(3, dtype=torch.float64)
    for cell, W, b, block in (("lstm", "W_omega", "b_omega", "omega"), ("lstm", "W_x", "b_x", "c"),
                              ("gru", "W_x", "b_x", "c"), ("gru", "W_z", "b_z", "z")):  # fmt: skip
        _, _, (q, *_), x = sensitivities(cell, W, 1)
        if (cell, block) == ("lstm", "omega"):
            printed = q["a_s"] * slope_of(q["a_omega"])
        elif (cell, block) == ("lstm", "c"):
            printed = q["a_omega"] * (1 - q["a_s"] ** 2) * q["a_gamma"] * (1 - q["a_c"] ** 2)
        elif block == "c":
            printed = q["a_z"] * (1 - q["a_c"] ** 2)
        else:
            printed = q["a_c"] * slope_of(q["a_z"])
        for parameter, u in ((W, x[0]), (b, torch.ones(1, dtype=torch.float64))):
            dh = sensitivities(cell, parameter, 1)[0].reshape(3, 3, -1)
            torch.testing.assert_close(dh, torch.einsum("l,lj,i->lji", printed, delta, u))
            assert (dh - torch.einsum("l,j,i->lji", printed, torch.ones(3).double(), u)).abs().max() > 1e-3


def test_update_bias_acts_from_the_first_slice():
    """(C.39) says that ∂a^h(1)/∂b^z is 0; it is a^c(1) a^z(1)' δ_jl."""
    dh, _, (q,), _ = sensitivities("gru", "b_z", 1)
    torch.testing.assert_close(dh, torch.diag(q["a_c"] * slope_of(q["a_z"])))
    assert dh.abs().max() > 1e-3


def test_second_slices_of_recurrent_weights():
    """(B.75) has slice 1 where slice 2 belongs, (C.23) in one factor; both lack δ_jm."""
    delta = torch.eye(3, dtype=torch.float64)
    dh, _, (one, two), _ = sensitivities("lstm", "V_omega", 2)
    right = torch.einsum("m,mj,l->mjl", two["a_s"] * slope_of(two["a_omega"]), delta, one["a_h"])
    printed = torch.einsum("m,mj,l->mjl", one["a_s"] * slope_of(one["a_omega"]), delta, one["a_h"])
    torch.testing.assert_close(dh, right)
    assert (dh - printed).abs().max() > 1e-3
    dh, _, (one, two), _ = sensitivities("gru", "V_h", 2)
    right = torch.einsum("m,mj,l->mjl", two["a_z"] * (1 - two["a_c"] ** 2) * two["a_r"], delta, one["a_h"])
    printed = torch.einsum("m,mj,l->mjl", two["a_z"] * (1 - one["a_c"] ** 2) * two["a_r"], delta, one["a_h"])
    torch.testing.assert_close(dh, right)
    assert (dh - printed).abs().max() > 1e-3


def test_recurrent_weights_reach_every_unit():
    """(C.24) keeps unit j's term of the sum over units only; from the third slice on all units count."""
    p, x, y = problem("gru", 11, noisy=False)
    right = expected(x, y, p, "softmax", 4)["V_h"]
    q = leaves(p)
    steps = recursions.forward(x, q)
    errors = recursions.output_error(steps[3]["o_y"].detach(), y[3], "softmax") @ p.U_y
    printed = torch.stack(
        [torch.autograd.grad((errors * steps[3]["a_h"])[:, j].sum(), q.V_h, retain_graph=True)[0][j] for j in range(3)]
    )
    assert (printed - right).abs().max() > 0.01 * right.abs().max()


def test_recurrent_inputs_have_the_summation_index():
    """(B.1), (B.3), (B.5), (B.7) print Σ_l v_jl a_j: that is a_j times a row sum, not the product V a."""
    V, a = draw(1, 3, 3), draw(2, 3)
    assert (V.sum(1) * a - V @ a).abs().max() > 0.1


def test_softmax_slope_has_the_sign_of_b20_not_of_b19():
    o, y = draw(1, 3).requires_grad_(), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    a = torch.softmax(o, -1)
    (right,) = torch.autograd.grad(-(y * a.log()).sum(), o)
    a = a.detach()
    b19 = torch.stack([-(y[k] * (1 - a[k]) + sum(y[m] * a[k] for m in range(3) if m != k)) for k in range(3)])
    torch.testing.assert_close(-(y - a * y.sum()), right)  # (B.20)
    assert (b19 - right).abs().max() > 0.1


def test_softmax_slope_of_noisy_targets_is_b20_not_b21():
    o, y, n = draw(3, 4).requires_grad_(), torch.tensor([0.0, 1.0, 0.0, 0.0]).double(), 0.5 * draw(4, 4)
    (right,) = torch.autograd.grad(-((y + n) * torch.log_softmax(o, -1)).sum(), o)
    a = torch.softmax(o, -1).detach()
    torch.testing.assert_close(recursions.output_error(o.detach(), y + n, "softmax"), right)
    assert (a - (y + n) - right).abs().max() > 0.1


def test_squared_error_without_the_half_doubles_the_gradient():
    """(B.22)-(B.26) "stay the same" for (B.27) only with the 1/2 of (A.12); (43) and (B.27) have none."""
    p, x, y = problem("lstm", 2)
    right = expected(x, y, p, "identity", 4)["b_y"]
    score = recursions.forward(x, p)[3]["o_y"]
    torch.testing.assert_close(right, 2 * (score - y[3]).sum(0))
