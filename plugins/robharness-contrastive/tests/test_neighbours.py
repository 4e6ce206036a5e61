"""Accuracy of a kNN classifier while an encoder trains: that of peers on the same features; weights do not change."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier

from robharness_contrastive import artefact, data, loop, networks, params, probe
from robharness_contrastive.neighbours import NeighbourAccuracy
from robharness_contrastive.options import Neighbours

BARS = runpy.run_path(str(Path(__file__).parent / "bars.py"))
of_bars = BARS["of_bars"]


def lines(folder):
    return [json.loads(line) for line in (folder / artefact.METRICS).read_text().splitlines()]


def test_queries_are_held_out_or_left_out_of_the_bank(images):
    def parts(options, training, held_out, seed=0):
        found = NeighbourAccuracy(options, training, held_out, 4, seed)
        return [{image.numpy().tobytes() for image in part.pixels} for part in (found.bank, found.queries)]

    none = images.subset(torch.arange(0))
    bank, queries = parts(Neighbours(), images, none)
    assert len(queries) == 16 and len(bank) == 144 and not bank & queries
    assert parts(Neighbours(), images, none) == [bank, queries] != parts(Neighbours(), images, none, seed=1)
    bank, queries = parts(Neighbours(bank=50, queries=7), images, none)
    assert (len(bank), len(queries)) == (50, 7)
    training, held_out = images.subset(torch.arange(100)), images.subset(torch.arange(100, 160))
    bank, queries = parts(Neighbours(), training, held_out)
    assert (len(bank), len(queries)) == (100, 60) and not bank & queries


def test_measuring_changes_neither_buffers_nor_modes_and_is_the_peers_number(images):
    encoder = networks.encoder("small", "bars/bars", BARS["SHAPE"]).train()
    encoder.trunk[1].eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    none = images.subset(torch.arange(0))
    measure = NeighbourAccuracy(Neighbours(), images, none, 4, 0)
    found = measure(encoder)
    assert encoder.training and encoder.trunk[0].training and not encoder.trunk[1].training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    bank, queries = (probe.features(encoder, part).numpy() for part in (measure.bank, measure.queries))
    peer = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    assert found == peer.fit(bank, measure.bank.labels).score(queries, measure.queries.labels)
    whole, all_of_it = (NeighbourAccuracy(Neighbours(k=k), images, none, 4, 0)(encoder) for k in (1000, len(bank)))
    assert whole == all_of_it  # a bank with fewer than k examples votes as a whole


def test_the_log_has_the_accuracy_of_epochs_and_weights_are_those_without_it(job, images):
    """Also after an interruption; and only of the epochs that were asked for, and of the last one."""
    recipe = params.SimCLR(**of_bars(epochs=4, hold_out=0.2, stream=True))
    measured = replace(recipe, knn=Neighbours(every=3))
    jobs = [job(recipe, "plain"), job(measured, "measured"), job(measured, "resumed")]
    loop.train(jobs[0])
    loop.train(jobs[1])

    def save_and_stop(path, epoch, *words):
        if epoch == 3:
            raise KeyboardInterrupt  # the log has the third epoch, the checkpoint has not
        artefact.save_checkpoint(path, epoch, *words)

    with pytest.raises(KeyboardInterrupt):
        loop.train(jobs[2], save=save_and_stop)
    assert "knn" in lines(jobs[2].folder)[-1]
    loop.train(jobs[2])
    states = [load_file(each.folder / artefact.WEIGHTS) for each in jobs]
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())
    plain, noted, again = (lines(each.folder) for each in jobs)
    assert noted == again
    assert [line["epoch"] for line in noted if "knn" in line] == [3, 4]
    assert [{key: value for key, value in line.items() if key != "knn"} for line in noted] == plain
    net = loop.build(measured, jobs[1].folder / artefact.WEIGHTS)
    examples, held_out = data.split(images, recipe.hold_out, seed=0)
    expected = NeighbourAccuracy(Neighbours(), examples, held_out, BARS["CLASSES"], 0)(net.encoder)
    assert noted[3]["knn"] == expected > 1.5 / BARS["CLASSES"]


def test_clusters_are_measured_by_the_classes_of_the_data(job):
    training = job(params.Clusters(**of_bars(clusters=40, knn=Neighbours())))
    loop.train(training)
    found = {(line["stage"], line["epoch"]): line["knn"] for line in lines(training.folder) if "knn" in line}
    assert len(found) == 6 and found["encoder", 3] > 1.5 / BARS["CLASSES"]
