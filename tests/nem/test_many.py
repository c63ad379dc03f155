"""Many networks as one: each is what it would be alone in torch's loop, with its own rate, noise, seed and data."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nem import (
    Member,
    Noise,
    NoisyGRU,
    NoisyLSTM,
    Stack,
    nem_binary_cross_entropy,
    nem_cross_entropy,
    nem_mse_loss,
)
from tests.conftest import refused
from tests.nem.stacks import CELLS, draw, generator

DOUBLE = torch.float64
B, T, I, J, K = 6, 4, 3, 5, 3
LOSSES = {"identity": nem_mse_loss, "softmax": nem_cross_entropy, "logistic": nem_binary_cross_entropy}
BOTH, HEADS = pytest.mark.parametrize("cell", CELLS), pytest.mark.parametrize("head", LOSSES)
RULES = {
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, rate, momentum=0.5),
    "adam": torch.optim.Adam,
    "rmsprop": lambda parameters, rate: torch.optim.RMSprop(parameters, rate, momentum=0.5),
}
TABLE = draw(3, 1, K, B), draw(4, T, 3, J, B)


def told(shape, **_):
    """Draws that are told and no chance, whether a layer, a loss or a stack asks for them."""
    if shape[-1] == K:  # a loss, (B, K)
        return TABLE[0][0].T
    own = TABLE[0] if shape[-2] == K else TABLE[1][:, : shape[-3]]
    return own.reshape(shape)


def stack(members, cell="lstm", head="identity", **options):
    sizes = {"inputs": I, "hidden": J, "outputs": K}
    return Stack(members, cell=cell, head=head, **sizes, **{"dtype": DOUBLE} | options)


def data(head, seed=1, *more):
    x, y = draw(seed, *more, B, T, I), draw(seed + 50, *more, B, K)
    return x, {"identity": y, "softmax": y.argmax(-1), "logistic": (y > 0).double()}[head]


NOISES = [
    (None, None),
    (Noise("nem", "additive", 0.5, 1.0, told), None),
    (None, Noise("nem", "additive", 0.4, 0.5, told)),
    (Noise("blind", "multiplicative", 0.3, density=told), Noise("reversed-nem", "multiplicative", 0.5, density=told)),
    (Noise("expected-nem", "additive", 0.3), Noise("expected-reversed-nem", "additive", 0.3)),
    (Noise("nem", lambda s, n: s + n * s * (1 - s), 0.5, density=told), None),
]
MEMBERS = [Member(seed, rate, *noise) for noise, seed, rate in zip(NOISES, itertools.cycle((0, 7)),
           (0.1, 0.03, 0.2, 0.1, 0.05, 0.02), strict=False)]  # fmt: skip


@BOTH
@HEADS
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shared", [True, False])
def test_every_network_trains_as_it_would_in_a_loop_of_its_own(cell, head, rule, shared):
    """NoisyLSTM or NoisyGRU, nn.Linear, our loss, torch.optim, in float64: rates, noises, annealing and data apart."""
    members = MEMBERS
    momentum = {} if rule == "adam" else {"momentum": 0.5}
    made = stack(members, cell, head, optimiser=rule, **momentum)
    loops = []
    for m, member in enumerate(members):
        layer, out = made.network(m)
        layer.bias_hh_l0.requires_grad_(False)  # the paper has one bias a gate
        own = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, *out.parameters()]
        loops.append((layer, out, RULES[rule](own, member.learning_rate)))
    batches = [data(head, 10 * k, *([] if shared else [len(members)])) for k in range(1, 4)]
    for epoch in range(2):
        made.set_epoch(epoch)
        for x, y in batches:
            losses = made.step(x, y)
            for m, (layer, out, rule_of) in enumerate(loops):
                layer.set_epoch(epoch)
                own_x, own_y = (x, y) if shared else (x[m], y[m])
                noise = members[m].output
                prediction = out(layer(own_x, generator=generator())[0][:, -1])
                loss = LOSSES[head](prediction, own_y, noise=noise, epoch=epoch, generator=generator())
                torch.testing.assert_close(losses[m], loss.detach(), rtol=1e-9, atol=1e-11)
                rule_of.zero_grad()
                loss.backward()
                rule_of.step()
    x, y = data(head, 99)
    clean, found = made.loss(x, y), made.predict(x)
    assert found.shape == (len(members), B, K)
    for m, (layer, out, _) in enumerate(loops):
        scores = out(layer.eval()(x)[0][:, -1])
        squash = {"softmax": lambda o: torch.softmax(o, -1), "logistic": torch.sigmoid, "identity": lambda o: o}[head]
        torch.testing.assert_close(found[m], squash(scores).detach(), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(clean[m], LOSSES[head](scores, y).detach(), rtol=1e-8, atol=1e-10)
        taken, linear = made.network(m)
        assert isinstance(taken, NoisyLSTM if cell == "lstm" else NoisyGRU)
        torch.testing.assert_close(squash(linear(taken.eval()(x)[0][:, -1])), found[m], rtol=1e-9, atol=1e-11)
    assert set(made.acceptance) == {"hidden", "output"}
    assert 0 < made.acceptance["hidden"][1] < 1


@BOTH
@pytest.mark.parametrize("injection", ["forward", "backward", "pre-activation"])
@pytest.mark.parametrize("granularity", ["slice", "neuron", "time"])
def test_every_reading_of_gate_noise_is_the_layers(cell, injection, granularity):
    choices = {"injection": injection, "granularity": granularity, "clamp": injection == "forward"}
    made = stack([MEMBERS[0], MEMBERS[1], MEMBERS[5]], cell, "logistic", **choices)
    x, y = data("logistic")
    loops = [made.network(m) for m in range(3)]
    losses = made.step(x, y)
    for m, (layer, out) in enumerate(loops):
        assert (layer._choices[0], layer._choices[2]) == (granularity, injection)
        loss = nem_binary_cross_entropy(out(layer(x, generator=generator())[0][:, -1]), y)
        torch.testing.assert_close(losses[m], loss.detach(), rtol=1e-9, atol=1e-11)
        loss.backward()
        moved = out.weight - made.members[m].learning_rate * out.weight.grad
        torch.testing.assert_close(made.network(m)[1].weight.detach(), moved.detach(), rtol=1e-9, atol=1e-11)


LAWS = ("gaussian", "laplace", "cauchy")


def several(seeds=(0, 0, 3)):
    return [
        Member(seed, 0.1, Noise(kind, mode, 0.3, density=law), Noise("nem", "additive", 0.2, density=law))
        for seed, kind, mode, law in zip(seeds, ("nem", "matched", "blind"), ("additive", "multiplicative", "additive"),
                                         LAWS, strict=True)
    ] + [Member(9, 0.1), Member(0, 0.1)]  # fmt: skip


@BOTH
@pytest.mark.parametrize("latent", ["mean-field", "sampled"])
def test_no_network_knows_what_trains_beside_it(cell, latent):
    """Compiled: the same bits alone and in any company. Sampled latents of multiplicative noise are not compiled."""
    x, y = data("softmax")
    dtype, error = (torch.float32, 0) if latent == "mean-field" else (DOUBLE, 1e-11)
    whole = stack(several(), cell, "softmax", dtype=dtype, latent=latent)
    losses = [whole.step(x, y) for _ in range(3)]
    for m, member in enumerate(several()):
        alone = stack([member], cell, "softmax", dtype=dtype, latent=latent)
        own = torch.stack([alone.step(x, y)[0] for _ in range(3)])
        torch.testing.assert_close(own, torch.stack(losses)[:, m], rtol=error, atol=error)
        for mine, beside in zip(*(one.parameters() for one in (alone.network(0)[0], whole.network(m)[0])), strict=True):
            torch.testing.assert_close(mine, beside, rtol=error, atol=error)


def test_equal_seeds_are_paired_and_others_are_not():
    start = stack(several())
    weights = [start.network(m)[0].weight_ih_l0 for m in range(5)]
    equal = [torch.equal(weights[0], other) for other in weights]
    assert equal == [True, True, False, False, True]
    members = [Member(seed, 0.1, Noise("blind", "additive", 0.3)) for seed in (1, 1, 2)]
    made = stack(members)
    x, y = data("identity")
    made.step(x, y)
    assert torch.equal(*(made.predict(x)[m] for m in (0, 1)))
    assert not torch.equal(*(made.predict(x)[m] for m in (0, 2)))
    assert made.acceptance["hidden"].tolist() == [1, 1, 1]


@BOTH
@pytest.mark.parametrize("rule", RULES)
def test_a_saved_stack_goes_on_to_the_same_bits(cell, rule, tmp_path):
    x, y = data("logistic")
    made, other = (stack(several(), cell, "logistic", optimiser=rule) for _ in range(2))
    fresh = made.state_dict()
    first = made.step(x, y)
    made.set_epoch(3)
    torch.save(made.state_dict(), tmp_path / "state")
    after = [made.step(x, y) for _ in range(2)]
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=False))
    assert other.epoch == 3
    assert all(torch.equal(other.step(x, y), loss) for loss in after)
    other.load_state_dict(fresh)
    assert torch.equal(other.step(x, y), first)
    refused(ValueError, "expected the state of a stack with", stack([Member()]).load_state_dict, fresh)


def test_one_network_that_diverges_disturbs_nobody_and_all_slices_may_have_targets():
    x, y = data("identity")
    members = [Member(1, 0.01), Member(1, 1e200), Member(2, 0.01)]
    made, others = stack(members, first=0), stack([members[0], members[2]], first=0)
    for _ in range(5):
        losses, right = made.step(x, y), others.step(x, y)
    assert torch.equal(losses[[0, 2]], right)
    assert not math.isfinite(losses[1])
    layer, out = stack(members, first=1).network(0)
    loss = (out(layer.eval()(x)[0][:, 1:]) - y[:, None]).square().sum((1, 2)).mean()
    torch.testing.assert_close(stack(members, first=1).loss(x, y)[0], loss.detach())


def test_what_does_not_fit_is_named():
    x, y = data("softmax")
    made = stack([Member(), Member()], head="softmax")
    for wrong in (x[0], x[..., :2], x[:, :0], x.expand(3, B, T, I)):
        refused(ValueError, "expected x of shape", made.step, wrong, y)
    for wrong in (y[:3], y.double(), y.expand(3, B), functional.one_hot(y, K + 1)):
        refused(ValueError, "expected y of shape .* or class numbers", made.step, x, wrong)
    refused(ValueError, "class numbers from 0 to 2", made.loss, x, y + 1)
    refused(ValueError, "sum to 1.*the logistic head", made.step, x, torch.ones(B, K))
    refused(ValueError, "labels between 0 and 1", stack([Member()], head="logistic").step, x, 2 * torch.ones(B, K))
    refused(ValueError, "one of 4 slices, found 4", stack([Member()], first=4).step, x, draw(1, B, K))
    refused(ValueError, "at least one member", stack, [])
    refused(ValueError, "sizes of at least 1", Stack, [Member()], cell="gru", inputs=0, hidden=1, outputs=1,
            head="identity")  # fmt: skip
    refused(ValueError, "expected one of lstm, gru", stack, [Member()], cell="rnn")
    refused(ValueError, "softmax, identity, logistic", stack, [Member()], head="linear")
    refused(ValueError, "sgd, adam, rmsprop", stack, [Member()], optimiser="lion")
    refused(TypeError, "found weight_decay", stack, [Member()], weight_decay=0.1)
    refused(ValueError, "granularity", stack, [Member(0, 0.1, Noise("expected-nem", "additive", 0.1))],
            granularity="time")  # fmt: skip
    for rate in (-1, math.nan, math.inf):
        refused(ValueError, "learning rate", Member, 0, rate)
    refused(ValueError, "seed that is not negative", Member, -1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@BOTH
def test_a_gpu_trains_the_same_stack(cell):
    x, y = data("softmax")
    members = [member for member in MEMBERS if member.hidden is None or member.hidden.density == "gaussian"]
    plain = [Member(member.seed, member.learning_rate) for member in members]
    cpu, gpu = (stack(plain, cell, "softmax", device=device) for device in ("cpu", "cuda"))
    for _ in range(3):
        torch.testing.assert_close(cpu.step(x, y), gpu.step(x.cuda(), y.cuda()).cpu(), rtol=1e-8, atol=1e-10)
    loud = stack([Member(0, 0.1, Noise("nem", "additive", 0.3), Noise("nem", "additive", 0.3))], cell, device="cuda")
    assert torch.isfinite(loud.step(x.cuda(), draw(1, B, K).cuda())).all()
    assert isinstance(loud.network(0)[1], nn.Linear)
