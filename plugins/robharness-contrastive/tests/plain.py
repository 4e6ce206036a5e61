"""One step of RoCL, ACL and DynACL in plain PyTorch, written from their formulas, for `test_adversarial.py`.

Nothing of the plugin is used: networks are dictionaries of tensors, losses are loops over anchors. The network is a
convolution, a BatchNorm and a linear layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

TAU = 0.5


def batch_norm(x, norm, training):
    """Normalise over all axes but the second; in training by the batch, whose statistics move the running ones."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean, var = norm["running_mean"], norm["running_var"]
    if training:
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
        count = x.numel() / x.shape[1]
        with torch.no_grad():
            norm["running_mean"].mul_(0.9).add_(0.1 * mean)
            norm["running_var"].mul_(0.9).add_(0.1 * var * count / (count - 1))
    centred = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return centred * norm["weight"].view(shape) + norm["bias"].view(shape)


def features(net, norm, x, training):
    hidden = torch.relu(batch_norm(F.conv2d(x, net["conv"]), norm, training))
    return hidden.flatten(1) @ net["linear"].T + net["bias"]


def unit(rows):
    return rows / (rows**2).sum(1, keepdim=True).sqrt()


def removed_by(z, k):
    """Return the set of the k most similar negatives of every anchor; at least one negative is left."""
    n, size = len(z), len(z) // 2
    similarity = z.detach() @ z.detach().T
    chosen = []
    for row in range(n):
        negatives = [column for column in range(n) if column % size != row % size]
        negatives.sort(key=lambda column: -float(similarity[row, column]))
        chosen.append(set(negatives[: min(k, len(negatives) - 1)]))
    return chosen


def split(z, parts, reserve):
    """Return the rows of the batch, and the rows of the reserve of each part."""
    pieces = [(part[: len(part) - reserve], part[len(part) - reserve :]) for part in z.chunk(parts)]
    return torch.cat([own for own, _ in pieces]), [spare for _, spare in pieces]


def nt_xent(z, removed, views=(0, 1), detached=False, spare=None):
    """Return the mean over anchors of the sum over their positives.

    spare: for each part, the rows of which the first ones take the places of the part's removed rows; None for none.
    """
    n, size = len(z), len(z) // len(views)
    candidates = z.detach() if detached else z
    similarity = z @ candidates.T / TAU

    def clean(row):
        return views[row // size] * size + row % size

    total = torch.zeros((), dtype=z.dtype)
    for row in range(n):
        kept = [q for q in range(n) if q != row and (q % size == row % size or clean(q) not in removed[clean(row)])]
        terms = [similarity[row, kept]]
        for part, rows in enumerate(spare or ()):
            gone = sum(q not in kept and q % size != row % size for q in range(part * size, (part + 1) * size))
            terms.append(z[row] @ (rows.detach() if detached else rows)[:gone].T / TAU)
        log_sum = torch.cat(terms).exp().sum().log()
        for positive in range(row % size, n, size):
            if positive != row:
                total = total + log_sum - similarity[row, positive]
    return total / n


def pgd(loss, views, starts, eps, step, steps):
    found = [(view + start).clamp(0, 1) for view, start in zip(views, starts, strict=True)]
    for _ in range(steps):
        found = [x.detach().requires_grad_() for x in found]
        gradients = torch.autograd.grad(loss(found), found)
        moved = [x.detach() + step * gradient.sign() for x, gradient in zip(found, gradients, strict=True)]
        deltas = [(x - view).clamp(-eps, eps) for x, view in zip(moved, views, strict=True)]
        found = [(view + delta).clamp(0, 1) for view, delta in zip(views, deltas, strict=True)]
    return [x.detach() for x in found]


def rocl(net, head, views, start, *, eps, step, steps, k, weight, detached, reserve=0):
    """net: with one "norm". head: two layers, "w1", "b1", "w2", "b2". reserve: number of last rows of each view."""

    def embed(x, training):
        hidden = torch.relu(features(net, net["norm"], x, training) @ head["w1"].T + head["b1"])
        return unit(hidden @ head["w2"].T + head["b2"])

    first, second = views
    with torch.no_grad():
        own, spare = split(embed(torch.cat(views), False), 2, reserve)
        removed = removed_by(own, k)
    size = len(first) - reserve
    constant = spare if reserve else None
    (moved,) = pgd(
        lambda found: nt_xent(
            embed(torch.cat([found[0], second[:size]]), False), removed, detached=detached, spare=constant
        ),
        [first[:size]], [start], eps, step, steps,
    )  # fmt: skip
    z, spare = split(embed(torch.cat([moved, first[size:], second]), True), 2, reserve)
    pair = nt_xent(z, removed, detached=detached, spare=spare if reserve else None)
    z = embed(torch.cat([first, second, moved]), True)
    own, spare = split(z[:-size], 2, reserve)
    spare = [*spare, spare[0]] if reserve else None
    return nt_xent(torch.cat([own, z[-size:]]), removed, (0, 1, 0), detached, spare) + weight * pair


def acl(net, head, views, starts, *, eps, step, steps, k, weight=1.0, keys=None, reserve=0):
    """net: with "norms", a clean and an adversarial one. head: "w1", "b1", "w2", each with "norms1" or "norms2".

    keys: (network, head) that embed the second view; None for the same.
    """

    def embed_by(pair, x, branch, training):
        net, head = pair
        hidden = features(net, net["norms"][branch], x, training) @ head["w1"].T + head["b1"]
        hidden = torch.relu(batch_norm(hidden, head["norms1"][branch], training))
        return unit(batch_norm(hidden @ head["w2"].T, head["norms2"][branch], training))

    def embed(found, branch, training):
        if keys is None:
            return embed_by((net, head), torch.cat(found), branch, training)
        return torch.cat(
            [embed_by((net, head), found[0], branch, training), embed_by(keys, found[1], branch, training)]
        )

    def contrast(z):
        own, spare = split(z, 2, reserve)
        return nt_xent(own, removed, spare=spare if reserve else None)

    clean = embed(views, 0, True)
    removed = removed_by(split(clean, 2, reserve)[0], k)
    moved = pgd(lambda found: contrast(embed(found, 1, False)), views, starts, eps, step, steps)
    adversarial = embed(moved, 1, True)
    return ((2 - weight) * contrast(clean) + weight * contrast(adversarial)) / 2
