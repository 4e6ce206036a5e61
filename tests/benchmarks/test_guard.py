"""`make bench`: the cost of lending a batch to a plugin and comparing all that it can change, beside its passes.

The least work that an attack can do is a step of FGSM: one gradient and one judging pass. CPU seconds of one thread,
minima of several rounds, as a ratio within one run. Target: under 1 % of the passes.
"""

import time

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from ratios import record
from robharness import Batch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.guard import Guard


def convolutional():
    """A network of MNIST's size, whose passes are about the shortest that anyone measures."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def lead(logits, labels):
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], float("-inf")).amax(1) - true


def timed(call, rounds):
    """CPU seconds of several rounds, after one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        begun = time.process_time()
        call()
        seconds.append(time.process_time() - begun)
    return seconds[1:]


@pytest.mark.parametrize(
    ("build", "shape", "examples", "batch_size"),
    [(resnet50, (3, 224, 224), 32, 8), (resnet18, (3, 32, 32), 256, 128), (convolutional, (1, 28, 28), 256, 128)],
    ids=["resnet50-224", "resnet18-32", "convolutional-28"],
)
def test_the_guard_beside_one_step(benchmark, build, shape, examples, batch_size):
    torch.set_num_threads(1)
    model = Classifier(build(), batch_size=batch_size)
    draws = torch.Generator().manual_seed(0)
    x = torch.empty(examples, *shape).uniform_(generator=draws)
    labels = torch.zeros(examples, dtype=torch.int64)
    batch = Batch([str(row) for row in range(examples)], x, labels)
    batch.gradient(model, lead)
    guard = Guard(model)

    def lent():
        with guard.watching(batch) as copy:
            copy.gradient(model, lead)  # computed before: what is measured is the copy
            _ = copy.x, copy.labels

    def passes():
        model.gradient(x, labels, lead)
        model.logits(x)

    guarded, bare = timed(lent, 20), timed(passes, 3)
    print(f"lent and compared {min(guarded) * 1e3:.2f} ms, passes {min(bare) * 1e3:.1f} ms of CPU time")
    record(benchmark, "guard / passes of one step", guarded, bare, statistic="minimum")
    benchmark.pedantic(lambda: None)
